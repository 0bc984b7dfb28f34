"""`/api/budgets`. Each of these is one call:

* not more than 50 USD this month: `PUT {"limit": {"amount": "50.00", "currency": "USD"}, "window": "month"}`
* tell me at 80 %: the same with `"alerts_pct": [80]`
* pause everything at 100 USD: `PUT {"limit": {"amount": "100.00", "currency": "USD"}, "window": "total",
  "on_exceed": "pause"}`
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.budget_input import parse_budgets
from gateway.core.directory import Permission
from gateway.flows.budgeting import Budgeting
from gateway.web.api_bodies import GREATEST_BODY_BYTES, json_answer, once, read_json
from gateway.web.bodies import read_body
from gateway.web.principal import Api


def budget_routes(api: Api, budgeting: Budgeting) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def listed(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        person_id = principal.person_id or request.query_params.get("user", "")
        data = await budgeting.listed(principal.org_id, person_id=person_id)
        return json_answer({"data": data, "next": None})

    async def put(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        raw = await read_body(request.receive, GREATEST_BODY_BYTES)  # type: ignore[arg-type]
        body = read_json(raw)
        given = parse_budgets(body, int(api.system.now_s() * 1_000))
        single = isinstance(body, dict) and "budgets" not in body

        async def act() -> tuple[Any, bool]:
            done = await budgeting.put(principal, given)
            return (done[0] if single else {"data": done, "next": None}), True

        return await once(api.records, request, principal.org_id, raw, act)

    async def delete(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        await budgeting.delete(principal, request.path_params["id"])
        return json_answer({"id": request.path_params["id"], "deleted": True})

    async def resume(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(_: dict[str, Any]) -> Any:
            return await budgeting.resume(principal, request.path_params["id"])

        return await api.changed(request, principal, act, allowed=())

    return [
        Route("/api/budgets", listed, methods=["GET"]),
        Route("/api/budgets", put, methods=["PUT"]),
        Route("/api/budgets/{id}", delete, methods=["DELETE"]),
        Route("/api/budgets/{id}/resume", resume, methods=["POST"]),
    ]
