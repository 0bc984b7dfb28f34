"""A budget as somebody asks for it, read from JSON. What is left out stays as it stands; of a new budget it has the
simplest meaning: `{limit}` is a monthly limit on whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from gateway.core.budgets import EXCEED
from gateway.core.directory import PERSON_ID_CHARACTERS, Scope
from gateway.core.errors import InvalidRequest
from gateway.core.money_input import parse_instant, parse_money
from gateway.core.windows import PERIODS, WINDOWS

ALERTS_MOST = 10
BUDGETS_MOST = 100
_MEMBERS = frozenset({
    "id", "scope", "window", "period", "limit", "alerts_pct", "forecast_alert", "on_exceed", "until",
})  # fmt: skip
# A budget object as it was read may be sent back: these are what we told, and change nothing.
_TOLD = frozenset({"used", "held", "resets_at", "state", "alerted_pct", "forecast", "limit_after", "next"})
_SCOPE = ("org", "key", "user", "session", "task", "model")


class BudgetInput(Struct, frozen=True):
    """What is asked for; None: nothing is said of it. `until_ms` 0: for good. `scope` None: that of the budget that the
    id names, else whoever asks. `prefix` stands before the names of members in errors."""

    limit: int | None = None
    scope: Scope | None = None
    window: str | None = None
    period: str | None = None
    alerts_pct: tuple[int, ...] | None = None
    forecast: bool | None = None
    on_exceed: str | None = None
    until_ms: int = 0
    budget_id: str = ""
    prefix: str = ""


def parse_budgets(body: Any, now_ms: int) -> list[BudgetInput]:
    """One object, a list, or `{budgets: [...]}`. Errors: InvalidRequest naming the member."""
    given = body.get("budgets") if isinstance(body, dict) and "budgets" in body else body
    if isinstance(body, dict) and "budgets" in body and len(body) > 1:
        raise InvalidRequest("beside budgets there is no other member", param=next(n for n in body if n != "budgets"))
    objects = given if isinstance(given, list) else [given]
    if not 0 < len(objects) <= BUDGETS_MOST:
        raise InvalidRequest(f"give 1 to {BUDGETS_MOST} budgets", param="budgets")
    is_list = isinstance(given, list)
    return [parse_budget(each, f"budgets[{index}]." if is_list else "", now_ms) for index, each in enumerate(objects)]


def parse_budget(members: Any, prefix: str, now_ms: int) -> BudgetInput:
    """One budget. `prefix` stands before the names of members in errors."""
    if not isinstance(members, dict):
        raise InvalidRequest("a budget is an object", param=prefix.rstrip(".") or "body")
    for name in members:
        if name not in _MEMBERS and name not in _TOLD:
            raise InvalidRequest(
                f"no such member; there are {', '.join(sorted(_MEMBERS))}", param=f"{prefix}{name}"[:99]
            )
    until_ms = 0
    if members.get("until") is not None:
        until_ms = parse_instant(members["until"], f"{prefix}until")
        if until_ms <= now_ms:
            raise InvalidRequest("must be in the future", param=f"{prefix}until")
    forecast = members.get("forecast_alert")
    if forecast is not None and not isinstance(forecast, bool):
        raise InvalidRequest("must be true or false", param=f"{prefix}forecast_alert")
    budget_id = members.get("id", "")
    if not isinstance(budget_id, str) or len(budget_id) > 64:
        raise InvalidRequest("must be the id of a budget", param=f"{prefix}id")
    limit = members.get("limit")
    return BudgetInput(
        limit=None if limit is None else parse_money(limit, f"{prefix}limit"),
        scope=_scope(members.get("scope"), f"{prefix}scope"),
        window=_word(members.get("window"), WINDOWS, f"{prefix}window"),
        period=_word(members.get("period"), PERIODS, f"{prefix}period"),
        alerts_pct=_alerts(members.get("alerts_pct"), f"{prefix}alerts_pct"),
        forecast=forecast,
        on_exceed=_word(members.get("on_exceed"), EXCEED, f"{prefix}on_exceed"),
        until_ms=until_ms,
        budget_id=budget_id,
        prefix=prefix,
    )


def _word(value: Any, words: Sequence[str], param: str) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in words):
        raise InvalidRequest(f"must be one of {', '.join(words)}", param=param)
    return value


def _scope(value: Any, param: str) -> Scope | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f"must be an object with {', '.join(_SCOPE)}", param=param)
    for name, text in value.items():
        if name not in _SCOPE:
            raise InvalidRequest(f"no such member; there are {', '.join(_SCOPE)}", param=f"{param}.{name}"[:99])
        if name == "org" and text is True:
            continue  # the caller's own, whatever its id
        if not isinstance(text, str) or not 0 < len(text) <= PERSON_ID_CHARACTERS or not text.isprintable():
            raise InvalidRequest(f"must be 1 to {PERSON_ID_CHARACTERS} characters", param=f"{param}.{name}")
    return Scope(**{name: text for name, text in value.items() if text is not True})


def _alerts(value: Any, param: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > ALERTS_MOST:
        raise InvalidRequest(f"must be a list of at most {ALERTS_MOST} percentages", param=param)
    for index, pct in enumerate(value):
        if type(pct) is not int or not 1 <= pct <= 1_000:
            raise InvalidRequest("must be a whole number of per cent from 1 to 1000", param=f"{param}[{index}]")
    return tuple(sorted(set(value)))
