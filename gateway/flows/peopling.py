"""Persons and plans: made by the API or on first sight; a plan gives a person, or an organization, an account with an
allowance for each period. Invented names get none.

Invariant: a plan's period and its credit limit are one step of the ledger, which alone knows what was given before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.directory import (
    AuditEntry,
    Org,
    Person,
    PersonView,
    Principal,
    account_of_org,
    account_of_person,
    person_part,
)
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.holds import Credited, Refused
from gateway.core.plans import Plan, period_of
from gateway.core.request_record import rfc3339
from gateway.flows.callers import Caller
from gateway.flows.directory import Directory
from gateway.people_ports import DirectoryStore
from gateway.policies import Policies
from gateway.ports import Ledger, System

_log = logging.getLogger(__name__)

_ATTEMPTS = 5
_ID_BYTES = 11


class Peopling:
    """Makes persons, begins plans."""

    def __init__(
        self,
        *,
        store: DirectoryStore,
        directory: Directory,
        ledger: Ledger,
        policies: Callable[[], Policies],
        system: System,
    ) -> None:
        self._store = store
        self._directory = directory
        self._ledger = ledger
        self._policies = policies
        self._system = system

    def plan(self, name: str) -> Plan:
        """A plan of the policies. Errors: InvalidRequest."""
        plan = self._policies().plans.get(name)
        if plan is None:
            there = ", ".join(self._policies().plans) or "none"
            raise InvalidRequest(f"there is no such plan; there are {there}", param="plan")
        return plan

    async def make(self, principal: Principal, person_id: str, plan_name: str) -> dict[str, Any]:
        """Make a person; the same again answers the same. Errors: InvalidRequest, Conflict."""
        plan = self.plan(plan_name) if plan_name else None
        if plan is not None and plan.is_money and not plan.app_may_give and not principal.operator:
            raise Forbidden("this plan is money: the operator gives it", param="plan")
        org = await self._store.org(principal.org_id)
        if org is None:
            raise NotFound("there is no such account")
        for _ in range(_ATTEMPTS):
            before = await self._store.person(principal.org_id, person_id)
            if before is not None and plan_name in ("", before.person.plan):
                return person_members(before.person)
            person = self._person(principal, person_id, before, plan_name)
            if plan is not None:
                await self.begin(org.org, person.account, plan)
            audit = self._audit(principal, "person.put", before, person)
            expected = before.version if before is not None else 0
            done = await self._store.put_person(person, audit, expected=expected)
            self._directory.forget(principal.org_id, person_id)
            if done is not None:
                return person_members(person)
        raise Conflict("others are changing this person; try again")

    async def change(
        self, principal: Principal, person_id: str, *, plan: str | None, suspended: bool | None
    ) -> dict[str, Any]:
        """Change a person (None: stays as it is; a plan of "" is taken off). Errors: NotFound, InvalidRequest,
        Conflict."""
        wanted = self.plan(plan) if plan else None
        for _ in range(_ATTEMPTS):
            org, before = await self._store.org(principal.org_id), await self._store.person(principal.org_id, person_id)
            if org is None or before is None:
                raise NotFound("there is no such person", param="person")
            after = before.person if plan is None else _with_plan(before.person, plan)
            after = after if suspended is None else replace(after, suspended=suspended)
            if wanted is not None and after != before.person:
                await self.begin(org.org, after.account, wanted)
            if after != before.person:
                audit = self._audit(principal, "person.change", before, after)
                done = await self._store.put_person(after, audit, expected=before.version)
                self._directory.forget(principal.org_id, person_id)
                if done is None:
                    continue
            if plan == "" and after.account:
                await self.end(after.account)
            return person_members(after)
        raise Conflict("others are changing this person; try again")

    def _person(self, principal: Principal, person_id: str, before: PersonView | None, plan: str) -> Person:
        old = before.person if before is not None else Person(
            person_id, principal.org_id, made_by=principal.key_id, created_at_ms=self._now_ms()
        )  # fmt: skip
        return replace(_with_plan(old, plan or old.plan), made="api")

    async def find(self, org_id: str, person_id: str) -> Person:
        """A person. Errors: NotFound."""
        found = await self._store.person(org_id, person_id)
        if found is None:
            raise NotFound("there is no such person", param="id")
        return found.person

    async def begin(self, org: Org, account: str, plan: Plan) -> None:
        """Begin a plan on an account, at once, whatever ran: a period that was begun before gives its limit again, but
        no second allowance. Errors: Conflict."""
        _must_begin(await self._begin(org, account, plan))

    async def _begin(self, org: Org, account: str, plan: Plan, *, follows: str = "") -> Credited | Refused:
        period_id, ends_at_ms = period_of(plan, org.time_zones, org.anchor_ms, self._now_ms())
        return await self._ledger.renew_allowance(
            account, f"{plan.name}:{period_id}", plan.included, plan=plan.name, ends_at_ms=ends_at_ms, follows=follows,
            limit=plan.credit_limit,
        )  # fmt: skip

    async def renew(self, caller: Caller) -> None:
        """The period of the caller's plan is over: begin the next, or end the plan that is no more."""
        person = caller.person.person if caller.person is not None and caller.person.person.account else None
        await self.renew_account(caller.org.org, caller.account, person.plan if person else caller.org.org.plan)

    async def renew_account(self, org: Org, account: str, plan_name: str) -> None:
        """The same, of any account. What somebody has begun meanwhile stays."""
        balance = await self._ledger.balance(account)
        if balance is None or not 0 < balance.period_ends_at_ms <= self._now_ms():
            return
        plan = self._policies().plans.get(plan_name)
        if plan is not None:
            answer = await self._begin(org, account, plan, follows=balance.period_id)
        else:
            answer = await self._end(account, follows=balance.period_id)
        if isinstance(answer, Refused):  # until a period begins, `place` refuses
            _log.warning("the period of %s on %s is not renewed: %s", plan_name, account, answer.reason.value)

    async def end(self, account: str) -> None:
        """End the plan that runs on an account: its allowance goes, and its credit limit, unless that is an operator's
        own. Errors: Conflict."""
        _must_begin(await self._end(account))

    async def _end(self, account: str, *, follows: str = "") -> Credited | Refused:
        period_id = f"none:{self._system.token_hex(_ID_BYTES)}"
        return await self._ledger.renew_allowance(account, period_id, 0, plan="", ends_at_ms=0, follows=follows)

    async def with_plan(self, principal: Principal, org: Org, plan_name: str) -> Org:
        """An organization with a plan, its period begun. Errors: InvalidRequest."""
        await self.begin(org, account_of_org(org.org_id), self.plan(plan_name))
        return replace(org, plan=plan_name)

    def _audit(self, principal: Principal, action: str, before: PersonView | None, after: Person) -> AuditEntry:
        shown = b"null" if before is None else msgspec.json.encode(person_members(before.person))
        return AuditEntry(
            self._now_ms(), principal.org_id, principal.actor, principal.authenticated, action,
            person_part(after.org_id, after.person_id), shown, msgspec.json.encode(person_members(after)),
        )  # fmt: skip

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def _must_begin(answer: Credited | Refused) -> None:
    if isinstance(answer, Refused):
        reason = answer.reason.value
        raise Conflict(f"the change of plan was refused: {reason}", members={"state": reason})


def _with_plan(person: Person, plan: str) -> Person:
    """A plan gives a person an account of their own, which stays theirs without it."""
    account = person.account or (account_of_person(person.org_id, person.person_id) if plan else "")
    return replace(person, plan=plan, account=account)


def person_members(person: Person) -> dict[str, Any]:
    """A person as the API shows them."""
    return {
        "id": person.person_id,
        "account": person.account or account_of_org(person.org_id),
        "plan": person.plan or None,
        "made": person.made,
        "state": "suspended" if person.suspended else "active",
        "created_at": rfc3339(person.created_at_ms),
    }
