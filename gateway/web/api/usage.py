"""`/api/usage`: what was used, by whom, and which pocket paid."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Permission
from gateway.core.errors import InvalidRequest
from gateway.core.money import usd_string
from gateway.core.windows import day_at
from gateway.flows.using import DAYS_MOST, FIGURES, GROUPS, MONEY, Using, shown
from gateway.web.api_bodies import NO_STORE, json_answer
from gateway.web.principal import Api

FORMATS = ("json", "csv", "focus")
# The columns of FOCUS (the FinOps cost and usage specification) that say the same as ours.
_FOCUS = {
    "day": "ChargePeriodStart", "model": "ResourceId", "user": "Tags/user", "key": "Tags/key", "requests":
    "ConsumedQuantity", "cost": "BilledCost", "included": "x_IncludedCost", "prepaid": "x_PrepaidCost",
    "postpaid": "x_PostpaidCost",
}  # fmt: skip


def usage_routes(api: Api, using: Using) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def usage(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        query = request.query_params
        groups = [word for word in query.get("group_by", "day,model,user").split(",") if word]
        if any(word not in GROUPS for word in groups) or len(set(groups)) != len(groups):
            raise InvalidRequest(f"must be some of {', '.join(GROUPS)}, with commas", param="group_by")
        form = query.get("format", "json")
        if form not in FORMATS:
            raise InvalidRequest(f"must be one of {', '.join(FORMATS)}", param="format")
        org = await api.directory.org(principal.org_id)
        zones = org.org.time_zones if org is not None else ()
        today, _ = day_at(zones, int(api.system.now_s() * 1_000))
        first, last = _days(query.get("from"), query.get("to"), today)
        person_id = principal.person_id or query.get("user", "")
        rows = await using.rows(principal.org_id, person_id=person_id, first_day=first, last_day=last, groups=groups)
        if form == "json":
            return json_answer({"data": [shown(row) for row in rows], "next": None})
        return _as_csv(rows, groups, focus=form == "focus")

    return [Route("/api/usage", usage, methods=["GET"])]


def _days(first: str | None, last: str | None, today: str) -> tuple[str, str]:
    """From and to, both inclusive; by default the last thirty days."""
    to = _day(last, "to") if last else date.fromisoformat(today)
    since = _day(first, "from") if first else to - timedelta(days=29)
    if since > to or (to - since).days >= DAYS_MOST:
        raise InvalidRequest(f"from is at most {DAYS_MOST} days before to", param="from")
    return since.isoformat(), to.isoformat()


def _day(text: str, param: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise InvalidRequest("must be a date, e.g. 2026-11-30", param=param) from None


def _as_csv(rows: list[dict[str, Any]], groups: list[str], *, focus: bool) -> Response:
    names = [*groups, *FIGURES]
    if focus:
        names = [name for name in names if name in _FOCUS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_FOCUS[name] for name in names] + ["BillingCurrency"] if focus else names)
    for row in rows:
        values = [usd_string(row[name]) if name in MONEY else _safe(row[name]) for name in names]
        writer.writerow([*values, "USD"] if focus else values)
    return Response(text.getvalue(), media_type="text/csv", headers=NO_STORE)


def _safe(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is kept from it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
