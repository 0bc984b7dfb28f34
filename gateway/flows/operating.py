"""What operators do with accounts: make them, look at them, change and suspend them; each change is one audited step.

An account is an organization's, or a person's own (a plan gives them one). Both are listed and shown; a person's is
changed where the person is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.directory import AuditEntry, Org, OrgView, Person, Principal, TimeZoneRule, account_of_org
from gateway.core.errors import Conflict, NotFound
from gateway.core.holds import Balance
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339
from gateway.core.windows import with_zone, zone_of
from gateway.flows.directory import Directory
from gateway.flows.owners import organization_of, owner_of
from gateway.flows.peopling import Peopling
from gateway.people_ports import AccountIndex, DirectoryStore
from gateway.ports import Ledger, System

_ID_BYTES = 11
_ATTEMPTS = 5


class Operating:
    """Makes and changes accounts."""

    def __init__(
        self,
        *,
        store: DirectoryStore,
        directory: Directory,
        accounts: AccountIndex,
        ledger: Ledger,
        peopling: Peopling,
        system: System,
    ) -> None:
        self._store = store
        self._directory = directory
        self._accounts = accounts
        self._ledger = ledger
        self._peopling = peopling
        self._system = system

    async def make(self, principal: Principal, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Make an account. `settings` are fields of `Org`, `time_zone` and `plan`."""
        now_ms = self._now_ms()
        zone_of(settings.get("time_zone", "UTC"))
        plan = settings.get("plan", "")
        if plan:
            self._peopling.plan(plan)
        org = Org(
            f"org_{self._system.token_hex(_ID_BYTES)}",
            time_zones=(TimeZoneRule(0, settings.get("time_zone", "UTC")),),
            anchor_ms=now_ms,
            created_at_ms=now_ms,
        )
        org = replace(org, **{name: value for name, value in settings.items() if name not in ("time_zone", "plan")})
        if plan:
            org = await self._peopling.with_plan(principal, org, plan)
        await self._store.put_org(org, self._entry(principal, org.org_id, "account.create", None, org), expected=0)
        return await self.shown(org)

    async def change(self, principal: Principal, org_id: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Change settings; a time zone applies from the next window, a plan of "" takes the plan off. Errors: NotFound,
        InvalidRequest, Conflict."""
        for _ in range(_ATTEMPTS):
            view = await self._org(org_id)
            after = replace(
                view.org, **{name: value for name, value in settings.items() if name not in ("time_zone", "plan")}
            )
            if "time_zone" in settings:
                after = replace(after, time_zones=with_zone(after.time_zones, settings["time_zone"], self._now_ms()))
            plan = settings.get("plan", view.org.plan)
            if plan and plan != view.org.plan:
                after = await self._peopling.with_plan(principal, after, plan)
            entry = self._entry(principal, org_id, "account.change", view.org, replace(after, plan=plan))
            done = await self._store.put_org(replace(after, plan=plan), entry, expected=view.version)
            self._directory.forget(org_id)
            if done is not None:
                if "plan" in settings and not plan:
                    await self._peopling.end(account_of_org(org_id))
                return await self.shown(replace(after, plan=plan))
        raise Conflict("others are changing this account; try again")

    async def listed(self, *, after: str, most: int) -> tuple[list[dict[str, Any]], str | None]:
        """Accounts in the order of their ids, above the account `after`; and what `next` is."""
        accounts = [account for account in await self._accounts.all() if account > after]
        shown = await asyncio.gather(*map(self.find, accounts[:most]))
        return shown, accounts[most - 1] if len(accounts) > most else None

    async def find(self, account: str) -> dict[str, Any]:
        """One account. Errors: NotFound."""
        owner = await owner_of(self._accounts, account)
        org = await self._org(owner.org_id)
        if not owner.person_id:
            return await self.shown(org.org)
        person = await self._store.person(owner.org_id, owner.person_id)
        if person is None:
            raise NotFound("there is no such account", param="id")
        return await self._shown_person(org.org, person.person)

    async def organization(self, account: str) -> str:
        """The organization whose account this is. Errors: NotFound, for a person's own too."""
        return await organization_of(self._accounts, account)

    async def owning_organization(self, account: str) -> str:
        """The organization to which this account belongs, also a person's own. Errors: NotFound."""
        return (await owner_of(self._accounts, account)).org_id

    async def _org(self, org_id: str) -> OrgView:
        view = await self._store.org(org_id)
        if view is None:
            raise NotFound("there is no such account", param="id")
        return view

    async def shown(self, org: Org) -> dict[str, Any]:
        """An organization's account with its balance."""
        account = account_of_org(org.org_id)
        return {
            "id": org.org_id,
            "account": account,
            "org": org.org_id,
            "user": None,
            "name": org.name,
            "time_zone": org.time_zones[-1].time_zone if org.time_zones else "UTC",
            "plan": org.plan or None,
            "persons_per_minute": org.persons_per_minute,
            "most_open_holds": org.most_open_holds,
            "share_ppm": org.share_ppm,
            "state": "suspended" if org.suspended else "active",
            "created_at": rfc3339(org.created_at_ms),
            **_balances(await self._ledger.balance(account)),
        }

    async def _shown_person(self, org: Org, person: Person) -> dict[str, Any]:
        """A person's own account; what is their organization's to set is as it says."""
        return await self.shown(org) | {
            "id": person.account,
            "account": person.account,
            "user": person.person_id,
            "plan": person.plan or None,
            "state": "suspended" if person.suspended else "active",
            "created_at": rfc3339(person.created_at_ms),
            **_balances(await self._ledger.balance(person.account)),
        }

    def _entry(self, principal: Principal, org_id: str, action: str, before: Org | None, after: Org) -> AuditEntry:
        return AuditEntry(
            self._now_ms(), org_id, principal.actor, principal.authenticated, action, org_id, _redacted(before),
            _redacted(after),
        )  # fmt: skip

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def _balances(balance: Balance | None) -> dict[str, Any]:
    names = ("available", "held", "credited", "posted", "debt")
    return {name: money_object(getattr(balance, name) if balance is not None else 0, Unit.NANOUSD) for name in names}


def _redacted(org: Org | None) -> bytes:
    if org is None:
        return b"null"
    return msgspec.json.encode(replace(org, webhook_secret="set" if org.webhook_secret else ""))
