"""What operators do with accounts: make them, credit and correct them, set how much may be owed, suspend them. Every
change is audited; credits and debits are the ledger's own steps, once per id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.directory import AuditEntry, Org, Principal, TimeZoneRule, account_of_org
from gateway.core.errors import Conflict, Forbidden, NotFound
from gateway.core.holds import Refused
from gateway.core.money import NO_RATE, Unit, money_object
from gateway.core.request_record import rfc3339
from gateway.core.windows import with_zone, zone_of
from gateway.flows.directory import Directory
from gateway.flows.peopling import Peopling
from gateway.people_ports import AuditLog, DirectoryStore
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
        audit: AuditLog,
        ledger: Ledger,
        peopling: Peopling,
        system: System,
    ) -> None:
        self._store = store
        self._directory = directory
        self._audit_log = audit
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
        """Change settings; a time zone applies from the next window. Errors: NotFound, InvalidRequest, Conflict."""
        for _ in range(_ATTEMPTS):
            view = await self._store.org(org_id)
            if view is None:
                raise NotFound("there is no such account", param="id")
            after = replace(
                view.org, **{name: value for name, value in settings.items() if name not in ("time_zone", "plan")}
            )
            if "time_zone" in settings:
                after = replace(after, time_zones=with_zone(after.time_zones, settings["time_zone"], self._now_ms()))
            if settings.get("plan") and settings["plan"] != view.org.plan:
                after = await self._peopling.with_plan(principal, after, settings["plan"])
            entry = self._entry(principal, org_id, "account.change", view.org, after)
            done = await self._store.put_org(after, entry, expected=view.version)
            self._directory.forget(org_id)
            if done is not None:
                return await self.shown(after)
        raise Conflict("others are changing this account; try again")

    async def listed(self) -> list[dict[str, Any]]:
        """Every account."""
        return [await self.shown(org) for org in await self._store.orgs()]

    async def find(self, org_id: str) -> dict[str, Any]:
        """One account. Errors: NotFound."""
        view = await self._store.org(org_id)
        if view is None:
            raise NotFound("there is no such account", param="id")
        return await self.shown(view.org)

    async def shown(self, org: Org) -> dict[str, Any]:
        """An account with its balance."""
        balance = await self._ledger.balance(account_of_org(org.org_id))

        def money(name: str) -> dict[str, Any]:
            return money_object(getattr(balance, name) if balance is not None else 0, Unit.NANOUSD)

        return {
            "id": org.org_id,
            "account": account_of_org(org.org_id),
            "name": org.name,
            "time_zone": org.time_zones[-1].time_zone if org.time_zones else "UTC",
            "plan": org.plan or None,
            "persons_per_minute": org.persons_per_minute,
            "most_open_holds": org.most_open_holds,
            "share_ppm": org.share_ppm,
            "state": "suspended" if org.suspended else "active",
            "created_at": rfc3339(org.created_at_ms),
            **{name: money(name) for name in ("available", "held", "credited", "posted", "debt")},
        }

    async def credit(
        self, principal: Principal, account: str, amount: int, *, cause: str, source: str, credit_id: str
    ) -> dict[str, Any]:
        """Add money, once per id. Errors: NotFound, Conflict."""
        org_id = await self._org_of(account)
        credit_id = credit_id or f"op:{self._system.token_hex(_ID_BYTES)}"
        answer = await self._ledger.credit(
            credit_id, account, amount, unit=Unit.NANOUSD, rate=NO_RATE, source=source, cause=cause
        )
        if isinstance(answer, Refused):
            raise Conflict(f"the credit was refused: {answer.reason.value}", members={"state": answer.reason.value})
        told = {"amount": amount, "cause": cause, "source": source, "outcome": answer.outcome}
        await self._log(principal, org_id, "credit.add", credit_id, told)
        return {
            "id": credit_id,
            "account": account,
            "outcome": answer.outcome,
            "amount": money_object(amount, Unit.NANOUSD),
            "available": money_object(answer.available, Unit.NANOUSD),
            "debt_paid": money_object(answer.debt_paid, Unit.NANOUSD),
        }

    async def debit(
        self, principal: Principal, account: str, amount: int, *, cause: str, debit_id: str
    ) -> dict[str, Any]:
        """Take money back, once per id: what is available, the rest becomes debt. Errors: NotFound, Conflict."""
        org_id = await self._org_of(account)
        debit_id = debit_id or f"op:{self._system.token_hex(_ID_BYTES)}"
        answer = await self._ledger.debit(debit_id, account, amount, cause=cause)
        if isinstance(answer, Refused):
            raise Conflict(f"the debit was refused: {answer.reason.value}", members={"state": answer.reason.value})
        await self._log(principal, org_id, "credit.take", debit_id, {"amount": amount, "cause": cause})
        return {
            "id": debit_id,
            "account": account,
            "taken": money_object(answer.taken, Unit.NANOUSD),
            "owed": money_object(answer.owed, Unit.NANOUSD),
            "available": money_object(answer.available, Unit.NANOUSD),
        }

    async def credit_limit(self, principal: Principal, account: str, limit: int) -> dict[str, Any]:
        """How much may be owed, absolute. Errors: NotFound, Conflict."""
        org_id = await self._org_of(account)
        change_id = f"op:{self._system.token_hex(_ID_BYTES)}"
        answer = await self._ledger.set_credit_limit(account, limit, change_id=change_id)
        if isinstance(answer, Refused):
            raise Conflict(f"the limit was refused: {answer.reason.value}", members={"state": answer.reason.value})
        await self._log(principal, org_id, "credit.limit", account, {"limit": limit})
        return {
            "account": account,
            "limit": money_object(limit, Unit.NANOUSD),
            "available": money_object(answer.available, Unit.NANOUSD),
        }

    async def audited(self, org_id: str, *, after: int, most: int) -> list[dict[str, Any]]:
        """The audit log of an account."""
        return [
            {
                "number": entry.number,
                "at": rfc3339(entry.at_ms),
                "actor": entry.actor,
                "authenticated": entry.authenticated,
                "action": entry.action,
                "subject": entry.subject,
                "before": msgspec.json.decode(entry.before),
                "after": msgspec.json.decode(entry.after),
                "digest": entry.digest,
            }
            for entry in await self._audit_log.read(org_id, after=after, most=most)
        ]

    async def _org_of(self, account: str) -> str:
        """The organization whose account this is. Errors: NotFound."""
        org_id = account.replace("ac_", "org_", 1)
        try:
            view = await self._store.org(org_id)
        except ValueError:
            view = None
        if view is None:
            raise NotFound("there is no such account", param="id")
        if view.org.suspended:
            raise Forbidden("this account is suspended")
        return org_id

    async def _log(self, principal: Principal, org_id: str, action: str, subject: str, told: dict[str, Any]) -> None:
        shown = msgspec.json.encode(told)
        await self._audit_log.append(
            AuditEntry(self._now_ms(), org_id, principal.actor, "operator", action, subject, b"null", shown)
        )

    def _entry(self, principal: Principal, org_id: str, action: str, before: Org | None, after: Org) -> AuditEntry:
        return AuditEntry(
            self._now_ms(), org_id, principal.actor, "operator", action, org_id, _redacted(before), _redacted(after)
        )

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def _redacted(org: Org | None) -> bytes:
    if org is None:
        return b"null"
    return msgspec.json.encode(replace(org, webhook_secret="set" if org.webhook_secret else ""))
