"""What a webhook says of a budget: money, scope and window as the budget object has them."""

from __future__ import annotations

import pytest

from gateway.core.budget_events import readable
from gateway.core.directory import BudgetDefinition, Org, Scope, TimeZoneRule, WindowRule

ORG = Org("org_7f", time_zones=(TimeZoneRule(0, "Europe/Berlin"),))
TOLD = {
    "pct": 80, "budget_id": "bu_7f01", "window": "m20261031T230000", "scope": "org_7f&user=alice&model=gpt-4o",
    "limit": "50000000000", "used": "40000000001",
}  # fmt: skip


def budget(window: str = "month", user: str = "alice", period: str = "calendar") -> BudgetDefinition:
    return BudgetDefinition("bu_7f01", "org_7f", Scope("org_7f", user=user), (WindowRule(0, window, period),), 1)


def test_an_alert_has_money_scope_and_window_of_the_budget_object() -> None:
    assert readable(TOLD, ORG, budget()) == {
        "budget_id": "bu_7f01",
        "user": "alice",
        "pct": 80,
        "scope": {"org": "org_7f", "user": "alice", "model": "gpt-4o"},
        "window": "month",
        "window_starts_at": "2026-10-31T23:00:00.000Z",
        "resets_at": "2026-11-30T23:00:00.000Z",
        "limit": {"amount": "50.00", "currency": "USD"},
        "used": {"amount": "40.000000001", "currency": "USD"},
    }


def test_a_default_budget_is_named_without_its_person_who_is_named_beside_it() -> None:
    told = {**TOLD, "budget_id": "bu_7f01~%c3%bcser%20%26%3d1", "scope": "org_7f&user=%c3%bcser%20%26%3d1"}
    members = readable(told, ORG, budget(user="*"))
    assert (members["budget_id"], members["user"]) == ("bu_7f01", "üser &=1")
    assert members["scope"] == {"org": "org_7f", "user": "*"}, "as GET /api/budgets shows it"


def test_a_forecast_and_a_pause_have_their_amounts_too() -> None:
    told = {name: TOLD[name] for name in ("budget_id", "window", "scope", "limit", "used")}
    members = readable({**told, "forecast": "90000000000", "held": "5"}, ORG, budget())
    assert members["forecast"] == {"amount": "90.00", "currency": "USD"}
    assert members["held"] == {"amount": "0.000000005", "currency": "USD"} and "pct" not in members


def test_a_total_never_resets() -> None:
    members = readable({**TOLD, "window": "total"}, ORG, budget("total"))
    assert (members["window"], members["window_starts_at"], members["resets_at"]) == ("total", None, None)


@pytest.mark.parametrize(("window_id", "kind", "ends"), [
    ("d20261031T230000", "day", "2026-11-01T23:00:00.000Z"), ("w20261025T230000", "week", "2026-11-01T23:00:00.000Z"),
])  # fmt: skip
def test_every_window_is_named(window_id: str, kind: str, ends: str) -> None:
    members = readable({**TOLD, "window": window_id}, ORG, budget(kind))
    assert (members["window"], members["resets_at"]) == (kind, ends)


@pytest.mark.parametrize("definition", [None, budget("day"), budget("month", period="anniversary")])
def test_where_the_budget_has_gone_or_changed_its_end_is_not_made_up(definition: BudgetDefinition | None) -> None:
    assert readable(TOLD, ORG, definition)["resets_at"] is None


def test_a_budget_that_was_resumed_is_named() -> None:
    assert readable({"budget_id": "bu_7f01"}, ORG, budget()) == {"budget_id": "bu_7f01", "user": None}
    assert readable({"budget_id": "bu_7f01~bob"}, ORG, None) == {"budget_id": "bu_7f01", "user": "bob"}


@pytest.mark.parametrize("change", [{"window": "x"}, {"window": "t20261031T230000"}, {"scope": "org_7f&color=red"},
                                    {"limit": "many"}, {"window": "m2026"}])  # fmt: skip
def test_what_the_ledger_never_says_is_an_error_and_no_guess(change: dict[str, str]) -> None:
    with pytest.raises((TypeError, ValueError)):
        readable(TOLD | change, ORG, budget())
