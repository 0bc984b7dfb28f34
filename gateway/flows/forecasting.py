"""Tells when a budget's forecast passes its limit: a look each minute, one event a window, whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.accounts import Budget, CounterState
from gateway.core.budgets import EVERYBODY, definition_window, forecast, limit_now, scope_text
from gateway.core.directory import BudgetDefinition, Org
from gateway.ports import System


class Store(Protocol):
    """What of the directory matters here."""

    async def orgs(self) -> Sequence[Org]: ...
    async def budgets(self, org_id: str) -> Sequence[BudgetDefinition]: ...
    async def live_budgets(self, org_id: str, record_ids: Sequence[str]) -> list[Budget | None]: ...
    async def counters(
        self, org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]: ...
    async def tell_forecast(self, org_id: str, window: str, scope: str, data: bytes) -> bool: ...


class Forecaster:
    """Looks at the budgets that want to be told. Run `once` under a lease."""

    def __init__(self, *, store: Store, system: System) -> None:
        self._store = store
        self._system = system

    async def once(self) -> int:
        """How many forecasts were told."""
        told = 0
        for org in await self._store.orgs():
            wanted = [
                each for each in await self._store.budgets(org.org_id)
                if each.forecast and each.scope.user != EVERYBODY
            ]  # fmt: skip
            if wanted:
                told += await self._look(org, wanted)
        return told

    async def _look(self, org: Org, budgets: Sequence[BudgetDefinition]) -> int:
        now_ms, told = int(self._system.now_s() * 1_000), 0
        windows = [definition_window(each, org, now_ms) for each in budgets]
        names = [
            (window.window_id, scope_text(each.scope, org.org_id))
            for each, window in zip(budgets, windows, strict=True)
        ]
        lives = await self._store.live_budgets(org.org_id, [each.budget_id for each in budgets])
        counters = await self._store.counters(org.org_id, names)
        for each, window, live, (counter, _), (window_id, scope) in zip(
            budgets, windows, lives, counters, names, strict=True
        ):
            expected = forecast(counter.used, window, now_ms) if counter is not None else None
            limit = limit_now(each, live, now_ms)
            if expected is None or expected <= limit:
                continue
            data = {
                "budget_id": each.budget_id, "window": window_id, "scope": scope, "limit": str(limit),
                "used": str(counter.used if counter is not None else 0), "forecast": str(expected),
            }  # fmt: skip
            told += await self._store.tell_forecast(org.org_id, window_id, scope, msgspec.json.encode(data))
        return told
