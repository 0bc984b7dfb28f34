"""What of a budget is told once a window beside the postings: a forecast above the limit, and shares of the limit that
were passed before they were asked for. The counter remembers what was told, in the step that tells it."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.scripts import load
from gateway.core.budgets import detail_of
from gateway.core.directory import BudgetDefinition


class RedisBudgetAlerts:
    """Tells over one shared link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._forecast, self._alert = load("forecast"), load("alert")

    async def forecast(self, org_id: str, window: str, scope: str, data: bytes) -> bool:
        """Tell that a forecast passes the limit; whether it was told now."""
        of_tag = keys.tag(org_id)
        names = [_counter(of_tag, window, scope), keys.outbox_key(of_tag)]
        return bool(await self._link.script(self._forecast, names, [org_id, data]))

    async def passed(self, budget: BudgetDefinition, window: str, scope: str) -> None:
        """Tell the shares of its limit that a budget with a record of its own has used."""
        of_tag = keys.tag(budget.org_id)
        names = [_counter(of_tag, window, scope), keys.budget_key(of_tag, budget.budget_id), keys.outbox_key(of_tag)]
        # It is only told here: who pauses a budget, and when, is decided elsewhere.
        detail = detail_of(replace(budget, on_exceed="refuse"))
        await self._link.script(self._alert, names, [detail])


def _counter(of_tag: str, window: str, scope: str) -> str:
    return f"{of_tag}c:{window}|{scope}"
