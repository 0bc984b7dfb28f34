"""`GET /api/usage`: what was used, by whom, and which pocket paid; as JSON, CSV, or with the columns of FOCUS.

`from` and `to` are days of the account, both inclusive (or instants, which lie in such days); by default the last
thirty. `group_by` names some of day, model, user, key.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Org, Permission, TimeZoneRule, account_of_org
from gateway.core.errors import InvalidRequest
from gateway.core.focus import COLUMNS, Account, focus_row
from gateway.core.money import usd_string
from gateway.core.money_input import parse_instant
from gateway.core.windows import day_at
from gateway.flows.using import DAYS_MOST, FIGURES, GROUPS, MONEY, Using, shown
from gateway.web.api.budgets import asked_person
from gateway.web.api_bodies import NO_STORE, json_answer
from gateway.web.principal import Api

FORMATS = ("json", "csv", "focus")
_DAY_CHARACTERS = len("2026-11-30")
_YEARS = range(2000, 2200)


def usage_routes(api: Api, using: Using) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def usage(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        query = request.query_params
        groups, form = groups_asked(query, GROUPS, default="day,model,user"), query.get("format", "json")
        if form not in FORMATS:
            raise InvalidRequest(f"must be one of {', '.join(FORMATS)}", param="format")
        person_id = asked_person(request, principal)
        view = await api.directory.org(principal.org_id)
        org = view.org if view is not None else Org(principal.org_id)
        first, last = days_asked(query, org.time_zones, int(api.system.now_s() * 1_000))
        rows = await using.rows(principal.org_id, person_id=person_id, first_day=first, last_day=last, groups=groups)
        if form == "json":
            return json_answer({"data": [shown(row) for row in rows], "next": None})
        if form == "csv":
            return _csv([*groups, *FIGURES], ({**row, **_as_text(row)} for row in rows))
        zone = org.time_zones[-1].time_zone if org.time_zones else "UTC"
        account = Account(account_of_org(org.org_id), org.name, zone)
        return _csv(COLUMNS, (focus_row(row, account, first_day=first, last_day=last) for row in rows))

    return [Route("/api/usage", usage, methods=["GET"])]


def groups_asked(query: QueryParams, groups: Sequence[str], *, default: str) -> list[str]:
    """`group_by`. Errors: InvalidRequest."""
    asked = [word for word in query.get("group_by", default).split(",") if word]
    if any(word not in groups for word in asked) or len(set(asked)) != len(asked):
        raise InvalidRequest(f"must be some of {', '.join(groups)}, with commas", param="group_by")
    return asked


def days_asked(query: QueryParams, zones: Sequence[TimeZoneRule], now_ms: int) -> tuple[str, str]:
    """`from` and `to`, both inclusive; the last thirty days where they are left out. Errors: InvalidRequest."""
    last = _day(query["to"], "to", zones) if query.get("to") else date.fromisoformat(day_at(zones, now_ms)[0])
    first = _day(query["from"], "from", zones) if query.get("from") else last - timedelta(days=29)
    if not 0 <= (last - first).days < DAYS_MOST:
        raise InvalidRequest(f"from is not after to, and less than {DAYS_MOST} days before it", param="from")
    return first.isoformat(), last.isoformat()


def _day(text: str, param: str, zones: Sequence[TimeZoneRule]) -> date:
    if len(text) > _DAY_CHARACTERS:
        text = day_at(zones, parse_instant(text, param))[0]
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if len(text) != _DAY_CHARACTERS or day.year not in _YEARS:
        raise InvalidRequest("must be a date, e.g. 2026-11-30", param=param)
    return day


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: usd_string(row[name]) for name in MONEY}


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Response:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_safe(row[name]) for name in columns])
    return Response(text.getvalue(), media_type="text/csv", headers=NO_STORE)


def _safe(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is kept from it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
