"""What webhooks say of a budget, in the words of the API.

The ledger tells what it knows where a limit is passed: keys, and amounts in nanousd. An app reads money objects, the
scope and window of the budget object, and whose default budget it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from msgspec import to_builtins
from msgspec.structs import replace

from gateway.core.budgets import EVERYBODY, scope_of_text
from gateway.core.directory import BudgetDefinition, Org
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339
from gateway.core.windows import named_window, window_at

KINDS = frozenset({"budget.alert", "budget.forecast", "budget.paused", "budget.resumed"})
_MONEY = ("limit", "used", "held", "forecast")


def record_of(told: Mapping[str, Any]) -> tuple[str, str]:
    """The budget's id, and the person whose default budget it is, "" for a budget of its own. Errors: KeyError."""
    budget_id, _, person = str(told["budget_id"]).partition("~")
    return budget_id, unquote(person)


def readable(told: Mapping[str, Any], org: Org, definition: BudgetDefinition | None) -> dict[str, Any]:
    """The event's data. `definition` None: the budget is there no more, and nobody knows when its window would have
    ended. Errors: KeyError, TypeError, ValueError where the ledger told something else."""
    budget_id, person_id = record_of(told)
    members: dict[str, Any] = {"budget_id": budget_id, "user": person_id or None}
    if "pct" in told:
        members["pct"] = told["pct"]
    if "scope" in told:
        scope = scope_of_text(told["scope"])
        members["user"] = scope.user or None
        members["scope"] = to_builtins(replace(scope, user=EVERYBODY) if person_id else scope)
        members |= _window(told["window"], org, definition)
    return members | {name: money_object(int(told[name]), Unit.NANOUSD) for name in _MONEY if name in told}


def _window(window_id: str, org: Org, definition: BudgetDefinition | None) -> dict[str, Any]:
    kind, starts_at_ms = named_window(window_id)
    ends_at_ms = None
    if definition is not None and starts_at_ms:
        window = window_at(definition.rules, org.time_zones, org.anchor_ms, starts_at_ms)
        ends_at_ms = window.ends_at_ms if window.window_id == window_id else None
    return {
        "window": kind,
        "window_starts_at": rfc3339(starts_at_ms) if starts_at_ms else None,
        "resets_at": None if ends_at_ms is None else rfc3339(ends_at_ms),
    }
