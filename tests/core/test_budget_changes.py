"""What a budget becomes when somebody asks for it: in words of the API, without a store."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.budget_changes import changed, is_lowered_below, live_record, made, must_be_alone, named
from gateway.core.budget_input import BudgetInput, parse_budgets
from gateway.core.budgets import has_ended, standing_for
from gateway.core.directory import BudgetDefinition, Org, OrgView, Scope, TimeZoneRule
from gateway.core.errors import Conflict, InvalidRequest

NOW = 1_795_000_000_000
LATER = NOW + 3_600_000
ORG = Org("org_7f00", time_zones=(TimeZoneRule(0, "Europe/Berlin"),))
SCOPE = Scope(org="org_7f00", user="alice")


def asked(**fields: Any) -> BudgetInput:
    return BudgetInput(**fields)


def a_budget(**fields: Any) -> BudgetDefinition:
    return made(asked(**({"limit": 100} | fields)), SCOPE, ORG, "bu_7f01", NOW)


def test_the_simplest_budget_is_monthly_and_refuses() -> None:
    budget = a_budget()
    assert (budget.rules[0].window, budget.rules[0].period, budget.rules[0].from_ms) == ("month", "calendar", 0)
    assert (budget.on_exceed, budget.alerts_pct, budget.forecast, budget.until_ms) == ("refuse", (), False, 0)
    assert live_record(budget, fresh=True).state == "active" and live_record(budget, fresh=False).state == ""


def test_a_budget_without_a_limit_is_none() -> None:
    with pytest.raises(InvalidRequest) as refused:
        made(asked(prefix="budgets[2]."), SCOPE, ORG, "bu_7f01", NOW)
    assert refused.value.param == "budgets[2].limit"
    with pytest.raises(InvalidRequest):
        changed(a_budget(), asked(until_ms=LATER), ORG, NOW)


def test_only_what_is_said_changes() -> None:
    before = a_budget(window="day", alerts_pct=(50,), forecast=True, on_exceed="ask")
    assert changed(before, asked(), ORG, NOW) == before
    after = changed(before, asked(alerts_pct=(), forecast=False, on_exceed="pause"), ORG, NOW)
    assert (after.alerts_pct, after.forecast, after.on_exceed, after.limit) == ((), False, "pause", 100)


def test_an_end_makes_a_raise_and_a_limit_without_one_ends_it() -> None:
    raised = changed(a_budget(), asked(limit=300, until_ms=LATER), ORG, NOW)
    assert (raised.limit, raised.raised_to, raised.raised_until_ms) == (100, 300, LATER)
    assert changed(raised, asked(alerts_pct=(80,)), ORG, NOW).raised_to == 300
    ended = changed(raised, asked(limit=200), ORG, NOW)
    assert (ended.limit, ended.raised_to, ended.raised_until_ms) == (200, 0, 0)


def test_a_new_budget_with_an_end_ends() -> None:
    budget = a_budget(until_ms=LATER)
    assert not has_ended(budget, NOW) and has_ended(budget, LATER) and not has_ended(a_budget(), LATER)
    assert changed(budget, asked(limit=5), ORG, NOW).until_ms == 0


def test_another_window_holds_from_the_next_one_on() -> None:
    after = changed(a_budget(), asked(window="week"), ORG, NOW)
    assert [rule.window for rule in after.rules] == ["month", "week"] and after.rules[1].from_ms > NOW
    assert named([after], asked(window="week"), SCOPE) == after and named([after], asked(), SCOPE) is None


def test_a_window_that_runs_is_taken_until_its_change_and_the_next_one_from_then() -> None:
    changing = changed(a_budget(), asked(window="day"), ORG, NOW)
    for taken in ("month", "day"):
        with pytest.raises(
            Conflict, match=r"bu_7f01 counts this .* \(its window changes on 2026-11-30T23:00:00.000Z\)"
        ) as refused:
            must_be_alone(replace(a_budget(window=taken), budget_id="bu_7f02"), [changing], "budgets[1].", NOW)
        assert refused.value.param == "budgets[1].window"
    other = replace(a_budget(window="week"), budget_id="bu_7f02")
    must_be_alone(other, [changing], "", NOW)
    must_be_alone(changing, [changing, other], "", NOW)
    must_be_alone(replace(a_budget(), budget_id="bu_7f02"), [changing], "", changing.rules[1].from_ms)
    # One that comes to a window only after the other has left it.
    early = replace(changed(a_budget(window="day"), asked(window="week"), ORG, NOW), budget_id="bu_7f02")
    must_be_alone(early, [changing], "", NOW)


def test_a_default_budget_is_replaced_by_the_one_that_counts_now() -> None:
    default = replace(a_budget(), budget_id="bu_7f09", scope=replace(SCOPE, user="*"))
    org = OrgView(1, ORG, (default,))
    changing = changed(a_budget(), asked(window="day"), ORG, NOW)
    assert standing_for([changing], org, NOW) == [changing]
    assert standing_for([changing], org, changing.rules[1].from_ms) == [changing, default]
    assert standing_for([a_budget(until_ms=NOW)], org, NOW)[1:] == [default]


def test_it_is_found_by_scope_and_window() -> None:
    budget = a_budget()
    assert named([budget], asked(), SCOPE) is budget
    assert named([budget], asked(window="day"), SCOPE) is None
    assert named([budget], asked(), replace(SCOPE, user="bob")) is None


@pytest.mark.parametrize(
    ("limit", "until_ms", "used", "lowered"),
    [(50, 0, 60, True), (50, 0, 50, False), (150, 0, 160, False), (50, LATER, 60, False)],
)
def test_lowered_below_what_is_used(limit: int, until_ms: int, used: int, lowered: bool) -> None:
    before = a_budget()
    after = changed(before, asked(limit=limit, until_ms=until_ms), ORG, NOW)
    assert is_lowered_below(before, after, used, NOW) is lowered


def test_the_end_of_a_raise_counts_as_lowering() -> None:
    raised = changed(a_budget(), asked(limit=300, until_ms=LATER), ORG, NOW)
    assert is_lowered_below(raised, changed(raised, asked(limit=100), ORG, NOW), 200, NOW)


@pytest.mark.parametrize(
    ("body", "count"),
    [({"limit": "1.00"}, 1), ([{"limit": "1"}, {"limit": "2"}], 2), ({"budgets": [{"limit": "1"}]}, 1)],
)
def test_one_object_a_list_or_budgets(body: Any, count: int) -> None:
    assert len(parse_budgets(body, NOW)) == count


def test_org_true_is_the_callers_own() -> None:
    (given,) = parse_budgets({"limit": "1", "scope": {"org": True}}, NOW)
    assert given.scope == Scope()
    with pytest.raises(InvalidRequest):
        parse_budgets({"limit": "1", "scope": {"user": True}}, NOW)
