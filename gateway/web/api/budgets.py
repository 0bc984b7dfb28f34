"""`/api/budgets`.

Each of these is one call:

* not more than 50 USD this month:
  `PUT {"limit": {"amount": "50.00", "currency": "USD"}, "window": "month"}`
* tell me at 80 %:
  `PUT {"limit": {"amount": "50.00", "currency": "USD"}, "window": "month", "alerts_pct": [80]}`
* pause everything at 100 USD:
  `PUT {"limit": {"amount": "100.00", "currency": "USD"}, "window": "total", "on_exceed": "pause"}`
* 75 USD until Friday evening, then 50 again:
  `PUT {"limit": {"amount": "75.00", "currency": "USD"}, "window": "month", "until": "2026-11-27T18:00:00Z"}`
* every person by themselves, 5 USD a day: `PUT {"scope": {"user": "*"}, "limit": ..., "window": "day"}`

Without `scope` it is the budget of whoever asks: of the organization, or with `Farebox-User` of that person. What is
left out of a budget that stands stays as it is. The body is one budget, a list, or `{"budgets": [...]}`.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.budget_input import parse_budgets
from gateway.core.directory import Permission, Principal
from gateway.core.errors import Forbidden
from gateway.flows.budgeting import Budgeting
from gateway.web.api_bodies import GREATEST_BODY_BYTES, json_answer, page, read_json
from gateway.web.bodies import read_body
from gateway.web.idempotency import once
from gateway.web.principal import Api, payer_of


def budget_routes(api: Api, budgeting: Budgeting) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def listed(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        limit, after = page(request)
        data = await budgeting.listed(
            principal.org_id, person_id=asked_person(request, principal), after=after, most=limit
        )
        return json_answer({"data": data, "next": data[-1]["id"] if len(data) == limit else None})

    async def put(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        raw = await read_body(request.receive, GREATEST_BODY_BYTES)  # type: ignore[arg-type]
        body = read_json(raw)
        given = parse_budgets(body, int(api.system.now_s() * 1_000))
        single = isinstance(body, dict) and "budgets" not in body

        async def act() -> tuple[Any, bool]:
            done = await budgeting.put(principal, given)
            return (done[0] if single else {"data": done, "next": None}), True

        return await once(api.records, request, payer_of(principal), raw, act)

    async def delete(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        await budgeting.delete(principal, request.path_params["id"])
        return json_answer({"id": request.path_params["id"], "deleted": True})

    async def resume(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        person_id = asked_person(request, principal)

        async def act(_: dict[str, Any]) -> Any:
            return await budgeting.resume(principal, request.path_params["id"], person_id=person_id)

        return await api.changed(request, principal, act, allowed=())

    return [
        Route("/api/budgets", listed, methods=["GET"]),
        Route("/api/budgets", put, methods=["PUT"]),
        Route("/api/budgets/{id}", delete, methods=["DELETE"]),
        Route("/api/budgets/{id}/resume", resume, methods=["POST"]),
    ]


def asked_person(request: Request, principal: Principal) -> str:
    """The person of `?user=`, or in whose name is asked. Errors: Forbidden where these are two."""
    asked = request.query_params.get("user", "")
    if principal.person_id not in ("", asked) and asked:
        raise Forbidden("a person sees no other", param="user")
    return principal.person_id or asked
