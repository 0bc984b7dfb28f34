"""Budgets: listed, made, changed, paused and resumed, each change one audited step on the directory.

A PUT replaces what it names, by id or by scope and window, and removes nothing; all that it names of the organization,
or of one person, is written in one step. Lowering a limit for good below what is used pauses the budget and loses
nothing. A fresh budget starts from what its window has used already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gateway.core.accounts import Budget, CounterState
from gateway.core.budget_changes import changed, is_lowered_below, live_record, made, must_be_alone, named
from gateway.core.budget_input import BudgetInput
from gateway.core.budgets import (
    EVERYBODY,
    budget_object,
    definition_window,
    has_ended,
    record_id,
    scope_text,
    standing_for,
)
from gateway.core.directory import AuditEntry, BudgetDefinition, OrgView, PersonView, Principal, Scope
from gateway.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.flows.budget_scopes import BudgetScopes, Canonical, KeyExists
from gateway.flows.budget_seeds import Seeds, UsedSince, seeds_of
from gateway.flows.directory import Directory
from gateway.flows.pausing import told_of
from gateway.ports import System

_ATTEMPTS = 8
_ID_BYTES = 11
_ACTIVE, _PAUSED = b'{"state":"active"}', b'{"state":"paused"}'


class Store(Protocol):
    """What of the directory's store matters here."""

    async def org(self, org_id: str) -> OrgView | None: ...
    async def person(self, org_id: str, person_id: str) -> PersonView | None: ...
    async def budgets(self, org_id: str) -> Sequence[BudgetDefinition]: ...
    async def live_budgets(self, org_id: str, record_ids: Sequence[str]) -> list[Budget | None]: ...
    async def counters(
        self, org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]: ...
    async def put_budgets(
        self, org_id: str, person_id: str, budgets: Sequence[BudgetDefinition], audit: AuditEntry, *, expected: int,
        live: Sequence[Budget] = (), seeds: Sequence[tuple[str, int, int]] = (), adds: Sequence[tuple[str, int]] = (),
    ) -> int | None: ...  # fmt: skip
    async def delete_budget(self, budget: BudgetDefinition, audit: AuditEntry, *, expected: int) -> int | None: ...
    async def put_state(
        self, org_id: str, record_id: str, state: str, audit: AuditEntry, *, event: tuple[str, bytes] = ...
    ) -> bool: ...


class Alerts(Protocol):
    """Who tells what a window has used already, each share once."""

    async def passed(self, budget: BudgetDefinition, window: str, scope: str) -> None: ...


class Budgeting:
    """Lists and changes budgets."""

    def __init__(
        self,
        *,
        store: Store,
        alerts: Alerts,
        directory: Directory,
        used_since: UsedSince,
        canonical: Canonical,
        key_exists: KeyExists,
        system: System,
    ) -> None:
        self._store = store
        self._alerts = alerts
        self._directory = directory
        self._used_since = used_since
        self._scopes = BudgetScopes(directory=directory, canonical=canonical, key_exists=key_exists)
        self._system = system

    # Listing.

    async def listed(
        self, org_id: str, *, person_id: str = "", after: str = "", most: int = 1_000
    ) -> list[dict[str, Any]]:
        """Budget objects by their ids, above the id `after`. Of a person those that name them, and the default ones as
        they stand for them; without a person the default ones stand once, and show no figures."""
        org = await self._org(org_id)
        if person_id:
            found = await self._of_person(org, person_id)
        else:
            found = list(await self._store.budgets(org_id))
        now_ms = self._now_ms()
        standing = [each for each in found if not has_ended(each, now_ms) and each.budget_id > after]
        standing.sort(key=lambda each: each.budget_id)
        return await self._objects(org, standing[:most], person_id)

    async def _of_person(self, org: OrgView, person_id: str) -> list[BudgetDefinition]:
        person = await self._store.person(org.org.org_id, person_id)
        return standing_for(person.budgets if person is not None else (), org, self._now_ms())

    async def _objects(
        self, org: OrgView, definitions: Sequence[BudgetDefinition], person_id: str
    ) -> list[dict[str, Any]]:
        """Two pipelined round trips, whatever their number."""
        now_ms, org_id = self._now_ms(), org.org.org_id
        windows = [definition_window(each, org.org, now_ms) for each in definitions]
        lives = await self._store.live_budgets(org_id, [record_id(each, person_id) for each in definitions])
        counters = await self._store.counters(
            org_id,
            [
                (window.window_id, scope_text(each.scope, org_id, person_id or EVERYBODY))
                for each, window in zip(definitions, windows, strict=True)
            ],
        )
        return [
            budget_object(each, window=window, live=live, counter=counter, now_ms=now_ms, alerted_pct=fired)
            for each, window, live, (counter, fired) in zip(definitions, windows, lives, counters, strict=True)
        ]

    # Changing.

    async def put(self, principal: Principal, given: Sequence[BudgetInput]) -> list[dict[str, Any]]:
        """Make or replace budgets; those of the organization in one step, those of each person in one. Errors:
        InvalidRequest, Forbidden, NotFound: nothing has changed then; Conflict: others are changing the same."""
        wanted = [await self._wanted(principal, each) for each in given]
        done: dict[int, BudgetDefinition] = {}
        for part in dict.fromkeys(scope.user for _, scope in wanted):
            places = [place for place, (_, scope) in enumerate(wanted) if scope.user == part]
            person_id = "" if part == EVERYBODY else part
            done |= zip(places, await self._put_part(principal, person_id, [wanted[i] for i in places]), strict=True)
        org = await self._org(principal.org_id)
        return await self._objects(org, [done[place] for place in range(len(wanted))], principal.person_id)

    async def _wanted(self, principal: Principal, given: BudgetInput) -> tuple[BudgetInput, Scope]:
        """What is asked for, with the scope that it is about."""
        if not given.budget_id:
            scope = await self._scopes.resolved(principal, given)
            if given.limit is None and await self._standing(principal.org_id, given, scope) is None:
                made(given, scope, (await self._org(principal.org_id)).org, "", 0)
            return given, scope
        before, _, _ = await self._find(principal, given.budget_id, f"{given.prefix}id")
        self._scopes.must_be_own(principal, before.scope.user, f"{given.prefix}id")
        if given.scope is not None and await self._scopes.resolved(principal, given) != before.scope:
            raise InvalidRequest("the scope of a budget stays; make another one", param=f"{given.prefix}scope")
        return given, before.scope

    async def _standing(self, org_id: str, given: BudgetInput, scope: Scope) -> BudgetDefinition | None:
        budgets, _ = await self._part(await self._org(org_id), "" if scope.user == EVERYBODY else scope.user)
        return named(budgets, given, scope)

    async def _part(self, org: OrgView, person_id: str) -> tuple[Sequence[BudgetDefinition], int]:
        """The budgets that are written together, and their version."""
        if not person_id:
            return org.budgets, org.version
        person = await self._store.person(org.org.org_id, person_id)
        if person is None:
            raise NotFound("there is no such person", param="user")
        return person.budgets, person.version

    async def _put_part(
        self, principal: Principal, person_id: str, wanted: Sequence[tuple[BudgetInput, Scope]]
    ) -> list[BudgetDefinition]:
        for _ in range(_ATTEMPTS):
            org = await self._org(principal.org_id)
            before, expected = await self._part(org, person_id)
            changes = self._changes(org, before, wanted)
            now_ms = self._now_ms()
            seeds = [
                await seeds_of(self._store, self._used_since, org, after, now_ms) if fresh else Seeds()
                for after, fresh in changes.values()
            ]
            done = await self._store.put_budgets(
                principal.org_id,
                person_id,
                [after for after, _ in changes.values()],
                self._put_audit(principal, before, [after for after, _ in changes.values()]),
                expected=expected,
                live=[
                    live_record(after, fresh=fresh)
                    for after, fresh in changes.values()
                    if after.scope.user != EVERYBODY
                ],
                seeds=[seed for each in seeds for seed in each.starts],
                adds=[add for each in seeds for add in each.adds],
            )
            self._directory.forget(principal.org_id, person_id)
            if done is not None:
                await self._pause_lowered(principal, org, before, changes)
                await self._alert_passed(org, [after for after, _ in changes.values()])
                return [self._after(changes, given, scope) for given, scope in wanted]
        raise Conflict("others are changing these budgets; try again")

    def _changes(
        self, org: OrgView, before: Sequence[BudgetDefinition], wanted: Sequence[tuple[BudgetInput, Scope]]
    ) -> dict[str, tuple[BudgetDefinition, bool]]:
        """What is asked for, one after the other, on what stands: id -> the budget as it becomes, whether it is new."""
        now_ms = self._now_ms()
        standing = {each.budget_id: each for each in before}
        changes: dict[str, tuple[BudgetDefinition, bool]] = {}
        for given, scope in wanted:
            old = standing.get(given.budget_id) if given.budget_id else named(standing.values(), given, scope)
            if old is None and given.budget_id:
                raise NotFound("there is no such budget", param=f"{given.prefix}id")
            if old is None or has_ended(old, now_ms):
                new_id = old.budget_id if old else f"bu_{org.org.partition}{self._system.token_hex(_ID_BYTES)}"
                after = made(given, scope, org.org, new_id, now_ms)
                fresh = True
            else:
                after = changed(old, given, org.org, now_ms)
                fresh = changes.get(old.budget_id, (old, False))[1]
            must_be_alone(after, standing.values(), given.prefix, now_ms)
            standing[after.budget_id] = after
            changes[after.budget_id] = after, fresh
        return changes

    def _after(
        self, changes: dict[str, tuple[BudgetDefinition, bool]], given: BudgetInput, scope: Scope
    ) -> BudgetDefinition:
        if given.budget_id:
            return changes[given.budget_id][0]
        found = named((after for after, _ in changes.values()), given, scope)
        assert found is not None, "what was asked for was written"
        return found

    async def _pause_lowered(
        self,
        principal: Principal,
        org: OrgView,
        before: Sequence[BudgetDefinition],
        changes: dict[str, tuple[BudgetDefinition, bool]],
    ) -> None:
        """Pause what now allows less than it has used. Until then the limit itself refuses."""
        now_ms, org_id = self._now_ms(), org.org.org_id
        old = {each.budget_id: each for each in before}
        changed_ones = [after for after, fresh in changes.values() if not fresh and after.scope.user != EVERYBODY]
        names = [
            (definition_window(each, org.org, now_ms).window_id, scope_text(each.scope, org_id))
            for each in changed_ones
        ]
        for after, name, (counter, _) in zip(
            changed_ones, names, await self._store.counters(org_id, names), strict=True
        ):
            used = counter.used if counter is not None else 0
            if is_lowered_below(old[after.budget_id], after, used, now_ms):
                told = told_of(after.budget_id, name, after.limit, used, counter.held if counter is not None else 0)
                audit = self._audit(principal, "budget.pause", after.budget_id, _ACTIVE, told)
                await self._store.put_state(org_id, after.budget_id, "paused", audit, event=("budget.paused", told))

    async def _alert_passed(self, org: OrgView, budgets: Sequence[BudgetDefinition]) -> None:
        """Alert about what is used already of a lower limit, or at a share that is new. Persons of a default budget are
        told of with their next charge."""
        for each in budgets:
            if each.alerts_pct and each.scope.user != EVERYBODY:
                window = definition_window(each, org.org, self._now_ms())
                await self._alerts.passed(each, window.window_id, scope_text(each.scope, org.org.org_id))

    async def delete(self, principal: Principal, budget_id: str) -> None:
        """Take a budget out. Errors: NotFound, Forbidden, Conflict."""
        for _ in range(_ATTEMPTS):
            found, person_id, expected = await self._find(principal, budget_id)
            self._scopes.must_be_own(principal, found.scope.user, "id")
            audit = self._audit(principal, "budget.delete", budget_id, msgspec.json.encode(found), b"null")
            done = await self._store.delete_budget(found, audit, expected=expected)
            self._directory.forget(principal.org_id, person_id)
            if done is not None:
                return
        raise Conflict("others are changing these budgets; try again")

    async def resume(self, principal: Principal, budget_id: str, *, person_id: str = "") -> dict[str, Any]:
        """Let a paused budget count on; a default budget for the one person who is named. Errors: NotFound, Forbidden,
        InvalidRequest."""
        found, _, _ = await self._find(principal, budget_id)
        default = found.scope.user == EVERYBODY
        person_id = (principal.person_id or person_id) if default else ""
        if default and not person_id:
            raise InvalidRequest("a default budget is resumed for one person; name them", param="user")
        self._scopes.must_be_own(principal, person_id or found.scope.user, "id")
        record = record_id(found, person_id)
        audit = self._audit(principal, "budget.resume", record, _PAUSED, _ACTIVE)
        told = msgspec.json.encode({"budget_id": record})
        await self._store.put_state(principal.org_id, record, "active", audit, event=("budget.resumed", told))
        (shown,) = await self._objects(await self._org(principal.org_id), [found], person_id)
        return shown

    async def _find(self, principal: Principal, budget_id: str, param: str = "id") -> tuple[BudgetDefinition, str, int]:
        """A budget, the person in whose record it stands, and the version of that part. Errors: NotFound."""
        org = await self._org(principal.org_id)
        for each in org.budgets:
            if each.budget_id == budget_id:
                return each, "", org.version
        persons = [principal.person_id] if principal.person_id else []
        if not persons:
            persons = [each.scope.user for each in await self._store.budgets(principal.org_id)
                       if each.budget_id == budget_id]  # fmt: skip
        for person_id in persons:
            person = await self._store.person(principal.org_id, person_id)
            for each in person.budgets if person is not None else ():
                if each.budget_id == budget_id:
                    return each, person_id, person.version if person is not None else 0
        raise NotFound("there is no such budget", param=param)

    async def _org(self, org_id: str) -> OrgView:
        org = await self._store.org(org_id)
        if org is None:
            raise Unavailable("the organization cannot be read")
        return org

    def _put_audit(
        self, principal: Principal, before: Sequence[BudgetDefinition], after: Sequence[BudgetDefinition]
    ) -> AuditEntry:
        """One entry: of a single budget itself, of several the lists."""
        ids = [each.budget_id for each in after]
        old = {each.budget_id: each for each in before}
        shown = [(old.get(each.budget_id), each) for each in after]
        if len(shown) == 1:
            return self._audit(principal, "budget.put", ids[0], *map(msgspec.json.encode, shown[0]))
        lists = zip(*shown, strict=True)
        return self._audit(principal, "budget.put", " ".join(ids), *map(msgspec.json.encode, lists))

    def _audit(self, principal: Principal, action: str, subject: str, before: bytes, after: bytes) -> AuditEntry:
        return AuditEntry(
            self._now_ms(), principal.org_id, principal.actor, principal.authenticated, action, subject, before, after
        )

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)
