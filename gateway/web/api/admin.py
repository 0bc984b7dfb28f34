"""`/admin/api/accounts`: what operators do with accounts; what they do with their money stands beside."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.errors import InvalidRequest
from gateway.flows.keying import Keying
from gateway.flows.operating import Operating
from gateway.web.api.admin_paths import ACCOUNTS, acting_in, named_account, named_in_query
from gateway.web.api.keys import KEY_MEMBERS, make_key
from gateway.web.api_bodies import json_answer, number_of, page, text_of
from gateway.web.principal import Api

SETTINGS = ("name", "time_zone", "plan", "persons_per_minute", "most_open_holds", "share_ppm", "suspended")
_RANGES = {"persons_per_minute": (0, 1_000_000), "most_open_holds": (1, 1_000_000), "share_ppm": (1, 1_000_000)}


def admin_routes(api: Api, operating: Operating, keying: Keying) -> list[Route]:
    """The routes of accounts. Handlers raise `Problem`."""

    async def listed(request: Request) -> Response:
        await api.operator(request)
        limit, after = page(request)
        data, beyond = await operating.listed(after=named_in_query("after", after) if after else "", most=limit)
        return json_answer({"data": data, "next": beyond})

    async def make(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(body: dict[str, Any]) -> Any:
            return await operating.make(principal, _settings(body))

        return await api.changed(request, principal, act, allowed=SETTINGS, status=201)

    async def read(request: Request) -> Response:
        await api.operator(request)
        return json_answer(await operating.find(named_account(request)))

    async def change(request: Request) -> Response:
        principal = await api.operator(request)
        org_id = await operating.organization(named_account(request))

        async def act(body: dict[str, Any]) -> Any:
            return await operating.change(principal, org_id, _settings(body))

        return await api.changed(request, principal, act, allowed=SETTINGS)

    async def key(request: Request) -> Response:
        operator = await api.operator(request)
        principal = acting_in(operator, await operating.organization(named_account(request)))

        async def act(body: dict[str, Any]) -> Any:
            return await make_key(api, keying, principal, body)

        return await api.changed(request, principal, act, allowed=KEY_MEMBERS, status=201)

    return [
        Route(ACCOUNTS, listed, methods=["GET"]),
        Route(ACCOUNTS, make, methods=["POST"]),
        Route(ACCOUNTS + "/{id}", read, methods=["GET"]),
        Route(ACCOUNTS + "/{id}", change, methods=["PATCH"]),
        Route(ACCOUNTS + "/{id}/keys", key, methods=["POST"]),
    ]


def _settings(body: dict[str, Any]) -> dict[str, Any]:
    """The settings of a body; a plan of null or "" is none. Errors: InvalidRequest."""
    settings: dict[str, Any] = {}
    if "name" in body:
        settings["name"] = text_of(body, "name", default="")
    if "time_zone" in body:
        settings["time_zone"] = text_of(body, "time_zone")
    if "plan" in body:
        settings["plan"] = plan_of(body)
    for name, (least, most) in _RANGES.items():
        if name in body:
            settings[name] = number_of(body, name, least=least, most=most)
    if "suspended" in body:
        settings["suspended"] = suspended_of(body)
    return settings


def plan_of(body: dict[str, Any]) -> str:
    """The name of a plan; "" where it is to be taken off. Errors: InvalidRequest."""
    return "" if body["plan"] is None else text_of(body, "plan", default="")


def suspended_of(body: dict[str, Any]) -> bool:
    """Errors: InvalidRequest."""
    suspended = body["suspended"]
    if not isinstance(suspended, bool):
        raise InvalidRequest("must be true or false", param="suspended")
    return suspended
