"""Tells when a budget's forecast passes its limit: a look each minute, one event a window, whoever looks.

A default budget has a forecast for each person whose window has begun, which is where their counter stands. Persons are
looked at in turn, so many a minute, so that a great organization costs the store no more than a great one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.accounts import Budget, CounterState
from gateway.core.budgets import (
    EVERYBODY,
    definition_window,
    forecast,
    has_ended,
    limit_now,
    record_id,
    scope_text,
    standing_for,
)
from gateway.core.directory import BudgetDefinition, Org, OrgView, PersonView
from gateway.ports import System

# Of one organization in one look; the next look goes on after them. About 50 ms of the store's time.
PERSONS_A_LOOK = 2_000
_BATCH = 250


class Store(Protocol):
    """What of the directory matters here."""

    async def orgs(self) -> Sequence[Org]: ...
    async def org(self, org_id: str) -> OrgView | None: ...
    async def person_views(self, org_id: str, *, after: str, most: int) -> Sequence[PersonView]: ...
    async def live_budgets(self, org_id: str, record_ids: Sequence[str]) -> list[Budget | None]: ...
    async def counters(
        self, org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]: ...


class Alerts(Protocol):
    """Who tells a forecast, once a window."""

    async def forecast(self, org_id: str, window: str, scope: str, data: bytes) -> bool: ...


class Forecaster:
    """Looks at the budgets that want to be told. Run `once` under a lease."""

    def __init__(self, *, store: Store, alerts: Alerts, system: System, persons_a_look: int = PERSONS_A_LOOK) -> None:
        self._store = store
        self._alerts = alerts
        self._system = system
        self._persons_a_look = persons_a_look
        self._after: dict[str, str] = {}  # organization -> the person at whom the last look ended

    async def once(self) -> int:
        """How many forecasts were told."""
        told = 0
        for each in await self._store.orgs():
            org = await self._store.org(each.org_id)
            if org is not None:
                told += await self._look(org.org, "", [each for each in org.budgets if each.scope.user != EVERYBODY])
                told += await self._look_at_persons(org)
        return told

    async def _look_at_persons(self, org: OrgView) -> int:
        told, org_id = 0, org.org.org_id
        for start in range(0, self._persons_a_look, _BATCH):
            most = min(_BATCH, self._persons_a_look - start)
            persons = await self._store.person_views(org_id, after=self._after.pop(org_id, ""), most=most)
            now_ms = self._now_ms()
            looks = [
                self._look(org.org, each.person.person_id, standing_for(each.budgets, org, now_ms)) for each in persons
            ]
            told += sum(await asyncio.gather(*looks))
            if len(persons) < most:
                return told
            self._after[org_id] = persons[-1].person.person_id
        return told

    async def _look(self, org: Org, person_id: str, budgets: Sequence[BudgetDefinition]) -> int:
        """Look at budgets of the organization, or of one person."""
        now_ms, told = self._now_ms(), 0
        wanted = [each for each in budgets if each.forecast and not has_ended(each, now_ms)]
        if not wanted:
            return 0
        windows = [definition_window(each, org, now_ms) for each in wanted]
        names = [
            (window.window_id, scope_text(each.scope, org.org_id, person_id))
            for each, window in zip(wanted, windows, strict=True)
        ]
        counters = await self._store.counters(org.org_id, names)
        for each, window, name, (counter, _) in zip(wanted, windows, names, counters, strict=True):
            expected = forecast(counter.used, window, now_ms) if counter is not None else None
            if counter is not None and expected is not None:
                told += await self._tell(each, record_id(each, person_id), name, counter.used, expected, now_ms)
        return told

    async def _tell(
        self, budget: BudgetDefinition, record: str, name: tuple[str, str], used: int, expected: int, now_ms: int
    ) -> bool:
        (live,) = await self._store.live_budgets(budget.org_id, [record])
        limit = limit_now(budget, live, now_ms)
        if expected <= limit:
            return False
        window, scope = name
        data = {
            "budget_id": record, "window": window, "scope": scope, "limit": str(limit), "used": str(used),
            "forecast": str(expected),
        }  # fmt: skip
        return await self._alerts.forecast(budget.org_id, window, scope, msgspec.json.encode(data))

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)
