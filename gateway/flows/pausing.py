"""What a budget that says `pause` does once it is used up: the ledger refuses until somebody resumes it.

The refusal that says so is of a moment ago. The failure this prevents: a limit that was raised meanwhile is paused all
the same, and whoever raised it has to find out and resume it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.accounts import Budget
from gateway.core.budgets import EVERYBODY, limit_now
from gateway.core.directory import AuditEntry, BudgetDefinition, OrgView, PersonView, org_part, person_part
from gateway.core.holds import LimitHit
from gateway.ports import System

_ATTEMPTS = 8
_ACTIVE = b'{"state":"active"}'


class Store(Protocol):
    """What of the directory's store matters here."""

    async def org(self, org_id: str) -> OrgView | None: ...
    async def person(self, org_id: str, person_id: str) -> PersonView | None: ...
    async def live_budgets(self, org_id: str, record_ids: Sequence[str]) -> list[Budget | None]: ...
    async def pause(
        self, org_id: str, record_id: str, audit: AuditEntry, *, part: str, expected: int, event: tuple[str, bytes]
    ) -> bool: ...


class Pausing:
    """Pauses a budget whose limit was met; tells and audits it."""

    def __init__(self, store: Store, system: System) -> None:
        self._store = store
        self._system = system

    async def pause(self, budget: BudgetDefinition, hit: LimitHit) -> bool:
        """Pause it where the limit that was met still holds: compared and written in one step. Whether it is paused
        now. `budget` says where it stands, `hit` which record of it."""
        assert hit.budget_id is not None, "only a budget pauses"
        org_id, told = budget.org_id, told_of(hit.budget_id, (hit.window, hit.scope), hit.limit, hit.used, hit.held)
        for _ in range(_ATTEMPTS):
            now_ms = int(self._system.now_s() * 1_000)
            part, version, found = await self._stands(budget)
            (live,) = await self._store.live_budgets(org_id, [hit.budget_id])
            if found is None or limit_now(found, live, now_ms) > hit.limit:
                return False
            if live is not None and live.state == "paused":
                return True
            audit = AuditEntry(now_ms, org_id, "ledger", "ledger", "budget.pause", hit.budget_id, _ACTIVE, told)
            event = ("budget.paused", told)
            if await self._store.pause(org_id, hit.budget_id, audit, part=part, expected=version, event=event):
                return True
        return False

    async def _stands(self, budget: BudgetDefinition) -> tuple[str, int, BudgetDefinition | None]:
        """The part of the directory that a budget belongs to, its version, and the budget as it is in it."""
        org_id, person_id = budget.org_id, budget.scope.user
        view: OrgView | PersonView | None
        if person_id in ("", EVERYBODY):
            part, view = org_part(org_id), await self._store.org(org_id)
        else:
            part, view = person_part(org_id, person_id), await self._store.person(org_id, person_id)
        if view is None:
            return part, 0, None
        return part, view.version, next((each for each in view.budgets if each.budget_id == budget.budget_id), None)


def told_of(record: str, name: tuple[str, str], limit: int, used: int, held: int) -> bytes:
    """What a webhook says of a budget, as the ledger's own alerts say it: amounts are nanousd, in text."""
    window, scope = name
    return msgspec.json.encode({
        "budget_id": record, "scope": scope, "window": window, "limit": str(limit), "used": str(used),
        "held": str(held),
    })  # fmt: skip
