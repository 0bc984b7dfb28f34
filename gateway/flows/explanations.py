"""How it is told what would become of a request: the members of `POST /api/policies/explain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.accounts import CounterState
from gateway.core.allowances import allowance_object, allowance_scope
from gateway.core.approvals import ApprovalPolicy
from gateway.core.budgets import budget_object, definition_window
from gateway.core.directory import Allowance, BudgetDefinition
from gateway.core.holds import Measure
from gateway.core.money import Unit, money_object
from gateway.core.quotes import Estimate, Tier
from gateway.core.request_record import rfc3339
from gateway.flows.account_refusals import find_budget, sees_figures, why_share
from gateway.flows.accounts import Request
from gateway.flows.callers import Caller
from gateway.flows.limits import LimitState


@dataclass(frozen=True, slots=True)
class Verdict:
    """`decision`: allow | refuse | ask. `rule`: key | suspended | open_requests | share | budget | balance | allowance
    | tier | cumulative | free."""

    decision: str
    rule: str
    why: str
    tier: Tier


def limit_verdict(caller: Caller, state: LimitState, tier: Tier) -> Verdict:
    """Why this limit refuses."""
    claim = state.claim
    if claim.measure is Measure.OPEN:
        return Verdict("refuse", "open_requests", f"{state.held} requests of this payer are open", tier)
    if claim.measure is Measure.SHARE:
        return Verdict("refuse", "share", why_share(state.held), tier)
    if state.is_paused:
        return Verdict("refuse", "budget", f"the budget {claim.budget_id} is paused until it is resumed", tier)
    if not sees_figures(caller, *_budget_of(caller, state)):
        return Verdict("refuse", "budget", f"the budget {claim.budget_id} has too little left", tier)
    left = _money(max(state.left(), 0))["amount"]
    return Verdict("refuse", "budget", f"the budget {claim.budget_id} has {left} USD left, which is too little", tier)


def cost_members(of: Estimate) -> dict[str, Any]:
    """What it is expected to cost."""
    return {
        "min": _money(of.least),
        "expected": _money(of.expected),
        "max": _money(of.most),
        "confidence": of.confidence,
    }


def limit_members(caller: Caller, state: LimitState, floor: int, now_ms: int) -> dict[str, Any]:
    """A budget that applies, as the API shows budgets, and whether it would refuse."""
    claim = state.claim
    budget_id, definition = _budget_of(caller, state)
    if not sees_figures(caller, budget_id, definition):
        return {"id": budget_id, "state": "paused" if state.is_paused else "active"}
    told = {"left": _money(max(state.left(), 0)), "refuses": state.refuses(floor)}
    if definition is None:
        resets_at = None if claim.window_ends_at_ms is None else rfc3339(claim.window_ends_at_ms)
        return {"id": claim.budget_id, "limit": _money(state.limit or 0), "used": _money(state.used),
                "held": _money(state.held), "resets_at": resets_at} | told  # fmt: skip
    window = definition_window(definition, caller.org.org, now_ms)
    counter = CounterState(state.used, state.held)
    return (
        budget_object(
            definition, window=window, live=state.live, counter=counter, now_ms=now_ms, alerted_pct=state.alerted_pct
        )
        | told
    )


def _budget_of(caller: Caller, state: LimitState) -> tuple[str, BudgetDefinition | None]:
    budget_id = (state.claim.budget_id or "").partition("~")[0]
    return budget_id, find_budget(caller, budget_id)


def allowance_members(allowance: Allowance | None, states: Sequence[LimitState], now_ms: int) -> dict[str, Any] | None:
    """The allowance under which it would run."""
    if allowance is None:
        return None
    of_it = {each.claim.measure: each for each in states if each.claim.scope == allowance_scope(allowance)}
    money, uses = of_it[Measure.MONEY], of_it.get(Measure.USES)
    calls = uses.used + uses.held if uses is not None else 0
    return allowance_object(allowance, used=money.used, held=money.held, calls=calls, now_ms=now_ms)


def approval_members(
    policy: ApprovalPolicy, verdict: Verdict, most: int, automatic: Sequence[LimitState]
) -> dict[str, Any]:
    """How many have to say yes, by which proofs; what goes without asking until the hour is over, where it is near."""
    asks = verdict.decision == "ask"
    two = asks and policy.two_persons_above is not None and most > policy.two_persons_above
    left = min((each.left() for each in automatic), default=None)
    return {
        "needed": (2 if two else 1) if asks else 0,
        "two_persons": two,
        "methods": list(policy.step_up_methods) if asks and verdict.tier is Tier.STEP_UP else [],
        "app_may_approve": policy.app_may_approve,
        "automatic_left": None if left is None else _money(max(left, 0)),
    }


def free_members(request: Request) -> dict[str, Any]:
    """What costs nothing."""
    nothing = Estimate(0, 0, 0, 1.0)
    return {
        "decision": "allow",
        "rule": "free",
        "why": "this costs nothing",
        "tier": Tier.AUTO.value,
        "model": request.facts.model,
        "route": request.match.route.path,
        "cost": cost_members(nothing),
        "limits": [],
        "allowance": None,
        "approvals": {"needed": 0, "two_persons": False, "methods": []},
    }


def _money(amount: int) -> dict[str, Any]:
    return money_object(amount, Unit.NANOUSD)
