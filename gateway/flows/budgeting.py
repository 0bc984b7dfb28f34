"""Budgets: made, changed, paused and resumed, each change one audited step on the directory.

A PUT replaces what it names, by id or by scope and window, and removes nothing. Lowering a limit below what is used
pauses the budget and loses nothing. A fresh budget starts from what its window has used already, as far as the day's
usage tells, so that "not more than 50 USD this month" counts the whole month.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.accounts import Budget, CounterState
from gateway.core.budget_input import BudgetInput
from gateway.core.budgets import EVERYBODY, budget_object, definition_window, record_id, scope_text
from gateway.core.directory import AuditEntry, BudgetDefinition, OrgView, PersonView, Principal, Scope, WindowRule
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from gateway.core.holds import LimitHit
from gateway.core.windows import with_rule
from gateway.flows.directory import Directory
from gateway.ports import System

_ATTEMPTS = 8
_ID_BYTES = 11


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
        live: Sequence[Budget] = (), seeds: Sequence[tuple[str, int, int]] = (),
    ) -> int | None: ...  # fmt: skip
    async def delete_budget(self, budget: BudgetDefinition, audit: AuditEntry, *, expected: int) -> int | None: ...
    async def put_state(
        self, org_id: str, record_id: str, state: str, audit: AuditEntry, *, event: tuple[str, bytes] = ...
    ) -> None: ...


# What a scope has used since an instant, by the days' usage: (org, scope, since ms, now ms) -> nanousd.
UsedSince = Callable[[OrgView, Scope, int, int], Awaitable[int]]
# The canonical name of a model, None where the price book has none of that name.
Canonical = Callable[[str], str | None]
# Whether a key of the organization exists.
KeyExists = Callable[[str, str], Awaitable[bool]]


class Budgeting:
    """Lists and changes budgets."""

    def __init__(
        self,
        *,
        store: Store,
        directory: Directory,
        used_since: UsedSince,
        canonical: Canonical,
        key_exists: KeyExists,
        system: System,
    ) -> None:
        self._store = store
        self._directory = directory
        self._used_since = used_since
        self._canonical = canonical
        self._key_exists = key_exists
        self._system = system

    async def listed(self, org_id: str, *, person_id: str = "", model: str = "") -> list[dict[str, Any]]:
        """Budget objects; of a person those that count for them, the default ones as they stand for them."""
        org = await self._org(org_id)
        if person_id:
            person = await self._store.person(org_id, person_id)
            own = person.budgets if person is not None else ()
            mine = [each for each in org.budgets if each.scope.user in ("", EVERYBODY)]
            definitions = [*mine, *own]
        else:
            definitions = list(await self._store.budgets(org_id))
        return await self._objects(org, definitions, person_id)

    async def _objects(
        self, org: OrgView, definitions: Sequence[BudgetDefinition], person_id: str
    ) -> list[dict[str, Any]]:
        now_ms = self._now_ms()
        org_id = org.org.org_id
        windows = [definition_window(each, org.org, now_ms) for each in definitions]
        lives = await self._store.live_budgets(org_id, [record_id(each, person_id) for each in definitions])
        names = [
            (window.window_id, scope_text(each.scope, org_id, person_id))
            for each, window in zip(definitions, windows, strict=True)
        ]
        counters = await self._store.counters(org_id, names)
        return [
            budget_object(each, window=window, live=live, counter=counter, now_ms=now_ms, alerted_pct=fired)
            for each, window, live, (counter, fired) in zip(definitions, windows, lives, counters, strict=True)
            if not each.until_ms or now_ms < each.until_ms
        ]

    async def put(self, principal: Principal, given: Sequence[BudgetInput]) -> list[dict[str, Any]]:
        """Make or replace budgets, all or none of one person's, in the order given. Errors: InvalidRequest, Forbidden,
        NotFound, Conflict; nothing has changed then."""
        org_id = principal.org_id
        scopes = [await self._scope(principal, each, f"budgets[{index}]") for index, each in enumerate(given)]
        changed: list[BudgetDefinition] = []
        for each, scope in zip(given, scopes, strict=True):
            person_id = "" if scope.user == EVERYBODY else scope.user
            changed.append(await self._put_one(principal, org_id, person_id, each, scope))
        person_id = principal.person_id
        return await self._objects(await self._org(org_id), changed, person_id)

    async def _put_one(
        self, principal: Principal, org_id: str, person_id: str, given: BudgetInput, scope: Scope
    ) -> BudgetDefinition:
        for _ in range(_ATTEMPTS):
            org = await self._org(org_id)
            person = await self._store.person(org_id, person_id) if person_id else None
            budgets = person.budgets if person is not None else org.budgets
            expected = person.version if person is not None else org.version
            before = self._found(budgets, given, scope)
            now_ms = self._now_ms()
            after = self._definition(before, org, given, scope, now_ms)
            live, used = await self._live(org, before, after, now_ms)
            seeds = await self._seeds(org, after, used, now_ms) if before is None else ()
            audit = self._audit(principal, "budget.put", after.budget_id, before, after, now_ms)
            done = await self._store.put_budgets(
                org_id, person_id, [after], audit, expected=expected, live=live, seeds=seeds
            )
            self._directory.forget(org_id, person_id)
            if done is not None:
                return after
        raise Conflict("others are changing these budgets; try again")

    def _found(self, budgets: Sequence[BudgetDefinition], given: BudgetInput, scope: Scope) -> BudgetDefinition | None:
        if given.budget_id:
            found = next((each for each in budgets if each.budget_id == given.budget_id), None)
            if found is None:
                raise NotFound("there is no such budget", param="id")
            return found
        return next((each for each in budgets if each.scope == scope and each.rules[-1].window == given.window), None)

    def _definition(
        self, before: BudgetDefinition | None, org: OrgView, given: BudgetInput, scope: Scope, now_ms: int
    ) -> BudgetDefinition:
        org_id, zones, anchor = org.org.org_id, org.org.time_zones, org.org.anchor_ms
        rule = WindowRule(now_ms, given.window, given.period)
        if before is None:
            return BudgetDefinition(
                budget_id=f"bu_{org.org.partition}{self._system.token_hex(_ID_BYTES)}",
                org_id=org_id,
                scope=scope,
                rules=(replace(rule, from_ms=0),),
                limit=given.limit,
                alerts_pct=given.alerts_pct,
                forecast=given.forecast,
                on_exceed=given.on_exceed,
                until_ms=given.until_ms,
                created_at_ms=now_ms,
            )
        common = replace(
            before,
            rules=with_rule(before.rules, zones, anchor, rule, now_ms) if given.window else before.rules,
            alerts_pct=given.alerts_pct,
            forecast=given.forecast,
            on_exceed=given.on_exceed,
        )
        if given.until_ms:
            # On a budget that stands: a raise, or a lowering, that ends by itself.
            return replace(common, raised_to=given.limit, raised_until_ms=given.until_ms)
        return replace(common, limit=given.limit, raised_to=0, raised_until_ms=0, until_ms=0)

    async def _live(
        self, org: OrgView, before: BudgetDefinition | None, after: BudgetDefinition, now_ms: int
    ) -> tuple[list[Budget], int]:
        """The live record to write, and what is used already. Of a default budget nobody's record is touched."""
        if after.scope.user == EVERYBODY:
            return [], 0
        (old,) = await self._store.live_budgets(org.org.org_id, [after.budget_id])
        window = definition_window(after, org.org, now_ms)
        name = (window.window_id, scope_text(after.scope, org.org.org_id))
        ((counter, _),) = await self._store.counters(org.org.org_id, [name])
        if counter is not None:
            used = counter.used
        else:
            used = await self._used(org, after, now_ms) if before is None else 0
        limit = after.raised_to if now_ms < after.raised_until_ms else after.limit
        state = old.state if old is not None else "active"
        lowered = before is not None and limit < before.limit and used > limit
        live = Budget(
            after.budget_id, after.limit, "paused" if lowered else state, after.raised_to, after.raised_until_ms
        )
        return [live], used

    async def _used(self, org: OrgView, after: BudgetDefinition, now_ms: int) -> int:
        if after.scope.session or after.scope.task:
            return 0  # the days' usage does not tell these apart
        return await self._used_since(org, after.scope, definition_window(after, org.org, now_ms).starts_at_ms, now_ms)

    async def _seeds(
        self, org: OrgView, after: BudgetDefinition, used: int, now_ms: int
    ) -> tuple[tuple[str, int, int], ...]:
        """What the counter of a fresh budget starts from."""
        if used == 0:
            return ()
        window = definition_window(after, org.org, now_ms)
        ends_at_ms = 0 if window.ends_at_ms is None else window.ends_at_ms + 2 * 86_400_000
        return ((f"c:{window.window_id}|{scope_text(after.scope, org.org.org_id)}", used, ends_at_ms),)

    async def _scope(self, principal: Principal, given: BudgetInput, param: str) -> Scope:
        """The scope with canonical names. Errors: InvalidRequest where something of it does not exist; Forbidden."""
        scope, org_id = given.scope, principal.org_id
        if scope.org not in ("", org_id):
            raise Forbidden("this organization is not yours", param=f"{param}.scope.org")
        user = scope.user or ("" if any((scope.key, scope.session, scope.task, scope.model)) else principal.person_id)
        if principal.person_id and user != principal.person_id:
            raise Forbidden("a person changes their own budgets only", param=f"{param}.scope.user")
        if user and user != EVERYBODY and await self._directory.find_person(org_id, user) is None:
            raise InvalidRequest(
                f"there is no person {user!r}; POST /api/persons makes one", param=f"{param}.scope.user"
            )
        if scope.key and not await self._key_exists(org_id, scope.key):
            raise InvalidRequest(f"there is no key {scope.key!r}", param=f"{param}.scope.key")
        model = scope.model
        if model:
            canonical = self._canonical(model)
            if canonical is None:
                raise InvalidRequest(f"no model {model!r} has a price here", param=f"{param}.scope.model")
            model = canonical
        return replace(scope, org=org_id, user=user, model=model)

    async def delete(self, principal: Principal, budget_id: str) -> None:
        """Take a budget out. Errors: NotFound, Conflict."""
        for _ in range(_ATTEMPTS):
            found, person_id, expected = await self._find(principal, budget_id)
            audit = self._audit(principal, "budget.delete", budget_id, found, None, self._now_ms())
            done = await self._store.delete_budget(found, audit, expected=expected)
            self._directory.forget(principal.org_id, person_id)
            if done is not None:
                return
        raise Conflict("others are changing these budgets; try again")

    async def resume(self, principal: Principal, budget_id: str) -> dict[str, Any]:
        """Let a paused budget count on; `<id>` of a default budget resumes it for the person who is named."""
        found, _, _ = await self._find(principal, budget_id)
        person_id = principal.person_id if found.scope.user == EVERYBODY else ""
        if found.scope.user == EVERYBODY and not person_id:
            raise InvalidRequest("a default budget is resumed for a person; name them", param="farebox-user")
        audit = self._audit(principal, "budget.resume", budget_id, found, found, self._now_ms())
        await self._store.put_state(principal.org_id, record_id(found, person_id), "active", audit)
        (shown,) = await self._objects(await self._org(principal.org_id), [found], person_id)
        return shown

    async def pause(self, org_id: str, record: str, hit: LimitHit) -> None:
        """What a budget that says `pause` does at its limit. The ledger refuses until somebody resumes it."""
        members = {
            "budget_id": record, "scope": hit.scope, "window": hit.window, "limit": str(hit.limit),
            "used": str(hit.used), "held": str(hit.held),
        }  # fmt: skip
        told = msgspec.json.encode(members)
        audit = AuditEntry(self._now_ms(), org_id, "ledger", "ledger", "budget.pause", record, b"null", told)
        await self._store.put_state(org_id, record, "paused", audit, event=("budget.paused", told))

    async def _find(self, principal: Principal, budget_id: str) -> tuple[BudgetDefinition, str, int]:
        """A budget, the person whose record it stands in, and the version of that part."""
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
        raise NotFound("there is no such budget", param="id")

    async def _org(self, org_id: str) -> OrgView:
        org = await self._store.org(org_id)
        if org is None:
            raise Unavailable("the organization cannot be read")
        return org

    def _audit(
        self,
        principal: Principal,
        action: str,
        subject: str,
        before: BudgetDefinition | None,
        after: BudgetDefinition | None,
        now_ms: int,
    ) -> AuditEntry:
        return AuditEntry(
            now_ms, principal.org_id, principal.actor, principal.vouched if principal.person_id else "key", action,
            subject, msgspec.json.encode(before), msgspec.json.encode(after),
        )  # fmt: skip

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)
