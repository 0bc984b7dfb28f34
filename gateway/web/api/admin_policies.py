"""What is in force: `/admin/api/plans`, `/admin/api/prices`; and `/admin/api/reload`, which reads it anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Principal
from gateway.core.plans import plan_members
from gateway.flows.price_list import PriceList
from gateway.policies import Policies
from gateway.web.api_bodies import json_answer, page, paged
from gateway.web.principal import Api

# Reads the policies anew in an operator's name, and says what happened.
Reload = Callable[[Principal], Awaitable[str]]


def policy_routes(api: Api, policies: Callable[[], Policies], prices: PriceList, reload: Reload) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def plans(request: Request) -> Response:
        await api.operator(request)
        limit, after = page(request)
        data, beyond = paged(list(policies().plans.values()), limit, after, lambda plan: plan.name)
        return json_answer({"data": [plan_members(plan) for plan in data], "next": beyond})

    async def priced(request: Request) -> Response:
        await api.operator(request)
        limit, after = page(request)
        query = request.query_params
        data, beyond = prices.listed(
            provider=query.get("provider", ""), model=query.get("model", ""), after=after, most=limit
        )
        return json_answer({"data": data, "next": beyond, **prices.fees()})

    async def again(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(_: dict[str, Any]) -> Any:
            return {"detail": await reload(principal)}

        return await api.changed(request, principal, act, allowed=())

    return [
        Route("/admin/api/plans", plans, methods=["GET"]),
        Route("/admin/api/prices", priced, methods=["GET"]),
        Route("/admin/api/reload", again, methods=["POST"]),
    ]
