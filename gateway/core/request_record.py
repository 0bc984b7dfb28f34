"""What `GET /api/requests/{id}` tells: a hold, seen as the request it was made for."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from gateway.core.holds import HoldRecord, UsageTokens
from gateway.core.ids import request_of_hold
from gateway.core.money import Unit, money_object
from gateway.core.usage import Basis, Usage

_STATES = {"open": "open", "posted": "posted", "voided": "voided", "expired": "expired"}


@lru_cache(maxsize=4_096)
def labels_json(model: str, dialect: str, route: str, org: str = "", user: str = "", key: str = "") -> bytes:
    """What of a request is kept with its hold from the start; of an account's also whose it is."""
    labels = {"model": model, "dialect": dialect, "route": route}
    if org:
        labels |= {"org": org, "user": user, "key": key}
    return msgspec.json.encode(labels)


def outcome_json(usage: Usage, basis: Basis, *, cut: str | None = None, model: str = "") -> bytes:
    """What of a request is kept with its hold at each checkpoint and at the end. `model`: the one that was served,
    where it is another than was asked for."""
    more = b""
    if cut is not None:
        more += b',"cut":' + msgspec.json.encode(cut)
    if model:
        more += b',"model":' + msgspec.json.encode(model)
    return b'{"usage":%b,"basis":"%b"%b}' % (usage.as_json(), basis.encode(), more)


def tokens_of(outcome: bytes) -> UsageTokens:
    """The tokens that an outcome tells, for the day's usage of a posting that is written later."""
    usage = msgspec.json.decode(outcome).get("usage", {}) if outcome else {}
    return UsageTokens(usage.get("input_tokens", 0), usage.get("cached_input_tokens", 0), usage.get("output_tokens", 0))


def request_record(hold: HoldRecord, unit: Unit) -> dict[str, Any]:
    """The members of the answer. While the request runs, and where its worker died, `usage` and `cost` are those of its
    last checkpoint."""
    labels = msgspec.json.decode(hold.labels) if hold.labels else {}
    outcome = msgspec.json.decode(hold.outcome) if hold.outcome else {}
    is_open = hold.state == "open"
    return {
        "request_id": request_of_hold(hold.hold_id),
        "state": _STATES.get(hold.state, hold.state),
        "model": outcome.get("model") or labels.get("model", ""),
        "dialect": labels.get("dialect", ""),
        "route": labels.get("route", ""),
        "usage": outcome.get("usage") or Usage().as_members(),
        "basis": outcome.get("basis", "estimated"),
        "cost": money_object(hold.earned if is_open else hold.posted, unit),
        "held": money_object(hold.amount if is_open else 0, unit),
        "shortfall": money_object(hold.shortfall, unit),
        "cut": outcome.get("cut"),
        "started_at": rfc3339(hold.placed_at_ms),
        "ended_at": None if hold.ended_at_ms is None else rfc3339(hold.ended_at_ms),
    }


def rfc3339(instant_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    instant = datetime.fromtimestamp(instant_ms / 1_000, UTC)
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant_ms % 1_000:03d}Z"
