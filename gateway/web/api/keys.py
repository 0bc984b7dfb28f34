"""`/api/keys`: made, listed, rotated, revoked."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Key, Permission, Principal
from gateway.core.errors import InvalidRequest
from gateway.core.money_input import parse_instant
from gateway.flows.keying import Keying, all_permissions
from gateway.web.api_bodies import json_answer, members, number_of, page, paged, text_of, texts_of
from gateway.web.principal import Api

KEY_MEMBERS = ("name", "permissions", "routes", "models", "addresses", "expires_at", "hide_prices")
# A week is long enough for the slowest deployment.
GRACE_MOST_S = 7 * 86_400
GRACE_S = 3_600


def key_routes(api: Api, keying: Keying) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def listed(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        limit, after = page(request)
        data, beyond = paged(await keying.listed(principal.org_id), limit, after, lambda key: str(key["id"]))
        return json_answer({"data": data, "next": beyond})

    async def make(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(body: dict[str, Any]) -> Any:
            return await make_key(api, keying, principal, body)

        return await api.changed(request, principal, act, allowed=KEY_MEMBERS, status=201)

    async def rotate(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(body: dict[str, Any]) -> Any:
            grace_s = number_of(body, "grace_s", least=0, most=GRACE_MOST_S, default=GRACE_S)
            return await keying.rotate(principal, request.path_params["id"], grace_s)

        return await api.changed(request, principal, act, allowed=("grace_s",))

    async def revoke(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        return json_answer(await keying.revoke(principal, request.path_params["id"]))

    return [
        Route("/api/keys", listed, methods=["GET"]),
        Route("/api/keys", make, methods=["POST"]),
        Route("/api/keys/{id}/rotate", rotate, methods=["POST"]),
        Route("/api/keys/{id}", revoke, methods=["DELETE"]),
    ]


async def make_key(api: Api, keying: Keying, principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    """Make the key that a body asks for. Errors: InvalidRequest, Forbidden."""
    members(body, KEY_MEMBERS)
    expires_at_ms = None
    if body.get("expires_at") is not None:
        expires_at_ms = parse_instant(body["expires_at"], "expires_at")
        if expires_at_ms <= api.system.now_s() * 1_000:
            raise InvalidRequest("must be in the future", param="expires_at")
    names = texts_of(body, "permissions")
    if body.get("permissions") == []:
        raise InvalidRequest("must name some; without the member a key may do everything", param="permissions")
    for index, name in enumerate(names):
        if name not in list(Permission):
            there = ", ".join(Permission)
            raise InvalidRequest(f"must be one of {there}", param=f"permissions[{index}]")
    addresses = texts_of(body, "addresses")
    for index, address in enumerate(addresses):
        try:
            ip_network(address)
        except ValueError:
            raise InvalidRequest("must be a network, e.g. 10.0.0.0/8", param=f"addresses[{index}]") from None
    hide_prices = body.get("hide_prices", False)
    if not isinstance(hide_prices, bool):
        raise InvalidRequest("must be true or false", param="hide_prices")
    wanted = Key(
        key_id="",
        org_id=principal.org_id,
        digest="",
        name=text_of(body, "name", default=""),
        permissions=all_permissions(names),
        routes=texts_of(body, "routes"),
        models=texts_of(body, "models"),
        addresses=addresses,
        expires_at_ms=expires_at_ms,
        hide_prices=hide_prices,
    )
    return await keying.make(principal, wanted)
