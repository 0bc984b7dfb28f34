"""Plans: what a period includes before prepaid credit is drawn, and how much may be owed after it; in nanousd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.directory import TimeZoneRule, WindowRule
from gateway.core.money import Unit, money_object
from gateway.core.windows import window_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`included` is the allowance of each period (`month`, `week` or `day`), `credit_limit` what may be owed.
    `app_may_give`: an app's key may give it to persons that it names; else only the operator, whose money it is."""

    name: str
    included: int = 0
    credit_limit: int = 0
    window: str = "month"
    period: str = "calendar"
    app_may_give: bool = False

    @property
    def is_money(self) -> bool:
        """Whether somebody pays for it."""
        return self.included > 0 or self.credit_limit > 0


def period_of(plan: Plan, zones: Sequence[TimeZoneRule], anchor_ms: int, now_ms: int) -> tuple[str, int]:
    """The id of the running period and the instant in ms at which it ends."""
    window = window_at((WindowRule(0, plan.window, plan.period),), zones, anchor_ms, now_ms)
    return window.window_id, window.ends_at_ms or 0


def plan_members(plan: Plan) -> dict[str, Any]:
    """A plan as the API shows it."""
    return {
        "name": plan.name,
        "included": money_object(plan.included, Unit.NANOUSD),
        "credit_limit": money_object(plan.credit_limit, Unit.NANOUSD),
        "window": plan.window,
        "period": plan.period,
        "app_may_give": plan.app_may_give,
    }
