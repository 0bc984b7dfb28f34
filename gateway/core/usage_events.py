"""Each charge of an account as a CloudEvent (1.0, structured mode), for whoever feeds their own books with them.

The journal's entry says what was charged, the hold what for. The id is the entry's number in its partition: however
often a charge is told, it is the same event; and what all events of a request cost is what the request cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.directory import account_of_org
from gateway.core.holds import HoldRecord
from gateway.core.ids import request_of_hold
from gateway.core.journal import JournalEntry
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339

TYPE = "farebox.usage.posted"
_CHARGES = frozenset({"posted", "late_post", "orphan_post"})


def is_charge(entry: JournalEntry) -> bool:
    """Whether a movement charges a payer. A hold that expired charges what it had earned, often nothing."""
    return entry.kind in _CHARGES or (entry.kind == "expired" and entry.adds.posted > 0)


def usage_event(org_id: str, entry: JournalEntry, hold: HoldRecord | None) -> dict[str, Any] | None:
    """The event of a charge; None where it is not of this organization. `hold` None: it is forgotten."""
    labels = _members(hold.labels if hold is not None else b"")
    if entry.account != account_of_org(org_id) and labels.get("org") != org_id:
        return None
    outcome = _members(hold.outcome if hold is not None else b"")
    request_id = request_of_hold(entry.id)
    return {
        "specversion": "1.0",
        "type": TYPE,
        "source": f"/accounts/{org_id}",
        "id": f"ch_{entry.id.rpartition('_')[2][:2]}{entry.number}",
        "time": rfc3339(entry.at_ms),
        "subject": request_id,
        "datacontenttype": "application/json",
        "data": {
            "request_id": request_id,
            "kind": entry.kind,
            "user": labels.get("user") or None,
            "key": labels.get("key") or None,
            "model": outcome.get("model") or labels.get("model"),
            "route": labels.get("route"),
            "usage": outcome.get("usage"),
            "basis": outcome.get("basis"),
            "cost": money_object(entry.adds.posted, Unit.NANOUSD),
        },
    }


def _members(raw: bytes) -> Mapping[str, Any]:
    members: Mapping[str, Any] = msgspec.json.decode(raw) if raw else {}
    return members
