"""What operators look at: `/admin/api/audit`, `/admin/api/revenue`, `/admin/api/disputes`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.errors import InvalidRequest
from gateway.flows.auditing import GATEWAY, Auditing
from gateway.flows.operating import Operating
from gateway.flows.revenue import GROUPS, Revenue, revenue_members
from gateway.web.api.admin_paths import named_in_query
from gateway.web.api.usage import days_asked, groups_asked
from gateway.web.api_bodies import json_answer, page, paged
from gateway.web.principal import Api

_NUMBER_DIGITS = 15


def book_routes(api: Api, operating: Operating, auditing: Auditing, revenue: Revenue) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def audit(request: Request) -> Response:
        """Of an account; without one what belongs to none: which policies came into force."""
        await api.operator(request)
        limit, after = page(request)
        if after and not (after.isascii() and after.isdigit() and len(after) <= _NUMBER_DIGITS):
            raise InvalidRequest("must be the number of an entry", param="after")
        org_id, named = GATEWAY, request.query_params.get("account")
        if named is not None:
            org_id = await operating.owning_organization(named_in_query("account", named))
        data = await auditing.listed(org_id, after=int(after or 0), most=limit)
        return json_answer({"data": data, "next": str(data[-1]["number"]) if len(data) == limit else None})

    async def earned(request: Request) -> Response:
        await api.operator(request)
        query, (limit, after) = request.query_params, page(request)
        groups = groups_asked(query, GROUPS, default="day")
        first, last = days_asked(query, (), int(api.system.now_s() * 1_000))
        rows = await revenue.rows(first_day=first, last_day=last, groups=groups)
        data, beyond = paged(rows, limit, after, lambda row: "|".join(row.group))
        answer = {"data": [revenue_members(row, groups) for row in data], "next": beyond, "from": first, "to": last}
        # What agents paid is told once, with the first page: it is the same for all of them.
        return json_answer(answer | {"agents": None if after else await revenue.agents()})

    async def disputes(request: Request) -> Response:
        """There are none yet: nothing can be disputed before there are tasks."""
        await api.operator(request)
        page(request)
        return json_answer({"data": [], "next": None})

    return [
        Route("/admin/api/audit", audit, methods=["GET"]),
        Route("/admin/api/revenue", earned, methods=["GET"]),
        Route("/admin/api/disputes", disputes, methods=["GET"]),
    ]
