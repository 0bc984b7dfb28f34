"""A running stream's question for more, and how it is told. Amounts are nanousd."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from gateway.core.ids import request_of_hold
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339

ACTIONS = ("stop", "approve_overage")


class Question(Struct, frozen=True):
    """`state`: open | approved | stopped | expired. `reason`: cap (an agreed maximum) | budget. `additional_max` is
    what was agreed to beside `original_max`. `of_organization`: it lifts a budget that is not the person's alone."""

    overage_id: str
    hold_id: str
    org_id: str
    person_id: str
    original_max: int
    current_cost: int
    additional_needed: int
    reason: str
    tier: str
    asked_at_ms: int
    expires_at_ms: int
    state: str = "open"
    additional_max: int = 0
    answered_by: str = ""
    budget_ids: tuple[str, ...] = ()
    of_organization: bool = False


def question_members(question: Question) -> dict[str, Any]:
    """What `overage_approval_needed` carries."""
    request_id = request_of_hold(question.hold_id)
    needed = _money(question.additional_needed)
    amounts = {
        "original_max": _money(question.original_max),
        "current_cost": _money(question.current_cost),
        "additional_needed": needed,
    }
    return {
        "request_id": request_id,
        "execution_id": request_id,
        "overage_id": question.overage_id,
        **amounts,
        "reason": question.reason,
        "tier": question.tier,
        "user": question.person_id or None,
        "options": [
            {"action": "stop", "additional_cost": _money(0), "includes": "what was streamed so far"},
            {"action": "approve_overage", "additional_cost": needed, "includes": "the stream goes on"},
        ],
        "amounts": amounts,
        "expires_at": rfc3339(question.expires_at_ms),
    }


def answer_members(question: Question) -> dict[str, Any]:
    """What `overage_answered` carries, and an answer over HTTP gets."""
    return {
        "request_id": request_of_hold(question.hold_id),
        "overage_id": question.overage_id,
        "state": question.state,
        "additional_max": _money(question.additional_max),
        "answered_by": question.answered_by or None,
    }


def as_json(members: dict[str, Any]) -> bytes:
    """Members as bytes."""
    return msgspec.json.encode(members)


def _money(amount: int) -> dict[str, Any]:
    return money_object(amount, Unit.NANOUSD)
