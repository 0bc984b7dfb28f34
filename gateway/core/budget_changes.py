"""What a budget becomes when somebody asks for it or for another one: pure.

What is left out stays as it stands; of a new budget it has the simplest meaning. A limit with an end is, on a budget
that stands, a raise or a lowering that ends by itself; a new budget ends then. A change of the window applies from the
next one. The failure this prevents: a raise that forgets the alerts, a limit that quietly becomes a monthly one, and
two limits on one counter, of which only one counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from gateway.core.accounts import Budget
from gateway.core.budget_input import BudgetInput
from gateway.core.budgets import has_ended
from gateway.core.directory import BudgetDefinition, Org, Scope, WindowRule
from gateway.core.errors import Conflict, InvalidRequest
from gateway.core.request_record import rfc3339
from gateway.core.windows import share_a_window, with_rule

DEFAULT_WINDOW, DEFAULT_PERIOD = "month", "calendar"
_NO_LIMIT = 'missing; e.g. {"amount": "50.00", "currency": "USD"}'


def named(definitions: Iterable[BudgetDefinition], given: BudgetInput, scope: Scope) -> BudgetDefinition | None:
    """The budget of this scope and window, where there is one."""
    window = given.window or DEFAULT_WINDOW
    return next((each for each in definitions if each.scope == scope and each.rules[-1].window == window), None)


def made(given: BudgetInput, scope: Scope, org: Org, budget_id: str, now_ms: int) -> BudgetDefinition:
    """A new budget. Errors: InvalidRequest where it has no limit."""
    if given.limit is None:
        raise InvalidRequest(_NO_LIMIT, param=f"{given.prefix}limit")
    return BudgetDefinition(
        budget_id=budget_id,
        org_id=org.org_id,
        scope=scope,
        rules=(WindowRule(0, given.window or DEFAULT_WINDOW, given.period or DEFAULT_PERIOD),),
        limit=given.limit,
        alerts_pct=given.alerts_pct or (),
        forecast=given.forecast or False,
        on_exceed=given.on_exceed or "refuse",
        until_ms=given.until_ms,
        created_at_ms=now_ms,
    )


def changed(before: BudgetDefinition, given: BudgetInput, org: Org, now_ms: int) -> BudgetDefinition:
    """The budget as it becomes. Errors: InvalidRequest where an end is given without the limit that ends."""
    last = before.rules[-1]
    rule = WindowRule(now_ms, given.window or last.window, given.period or last.period)
    common = replace(
        before,
        rules=with_rule(before.rules, org.time_zones, org.anchor_ms, rule, now_ms)
        if given.window or given.period
        else before.rules,
        alerts_pct=before.alerts_pct if given.alerts_pct is None else given.alerts_pct,
        forecast=before.forecast if given.forecast is None else given.forecast,
        on_exceed=given.on_exceed or before.on_exceed,
    )
    if given.until_ms:
        if given.limit is None:
            raise InvalidRequest(_NO_LIMIT, param=f"{given.prefix}limit")
        return replace(common, raised_to=given.limit, raised_until_ms=given.until_ms)
    if given.limit is None:
        return common
    return replace(common, limit=given.limit, raised_to=0, raised_until_ms=0, until_ms=0)


def must_be_alone(after: BudgetDefinition, standing: Iterable[BudgetDefinition], prefix: str, now_ms: int) -> None:
    """Two budgets of one scope and window would be one counter with two limits, also where one of them is about to have
    another window, or had another one until then. Errors: Conflict."""
    for each in standing:
        if each.scope != after.scope or each.budget_id == after.budget_id or has_ended(each, now_ms):
            continue
        if not share_a_window(each.rules, after.rules, now_ms):
            continue
        message = f"the budget {each.budget_id} counts this scope and window already; change that one"
        if len(each.rules) > 1 and each.rules[-1].from_ms > now_ms:
            message += f" (its window changes on {rfc3339(each.rules[-1].from_ms)})"
        raise Conflict(message, param=f"{prefix}window", members={"state": "active"})


def live_record(after: BudgetDefinition, *, fresh: bool) -> Budget:
    """What the ledger is told of it. A budget that stands keeps its state: whether it is paused the ledger knows
    best."""
    state = "active" if fresh else ""
    return Budget(after.budget_id, after.limit, state, after.raised_to, after.raised_until_ms)


def is_lowered_below(before: BudgetDefinition, after: BudgetDefinition, used: int, now_ms: int) -> bool:
    """Whether the limit was lowered, for good, below what is used already. A lowering that ends by itself pauses
    nothing: the pause would not."""
    limit_before = before.raised_to if now_ms < before.raised_until_ms else before.limit
    return not now_ms < after.raised_until_ms and after.limit < limit_before and used > after.limit
