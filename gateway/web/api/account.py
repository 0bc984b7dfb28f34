"""`GET /api/account`: balances by pocket, the plan, what it includes, what is left of it and what went beyond."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Permission
from gateway.flows.balances import Balances
from gateway.web.api_bodies import json_answer
from gateway.web.principal import Api


def account_routes(api: Api, balances: Balances) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def account(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        return json_answer(await balances.shown(principal))

    return [Route("/api/account", account, methods=["GET"])]
