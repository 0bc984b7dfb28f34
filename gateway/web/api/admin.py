"""`/admin/api`: what operators do with accounts; the audit log; reading the policies again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.accounts import CreditCause, DebitCause
from gateway.core.directory import Permission, Principal
from gateway.core.errors import InvalidRequest
from gateway.core.money_input import parse_money
from gateway.flows.keying import Keying
from gateway.flows.operating import Operating
from gateway.web.api.keys import KEY_MEMBERS, make_key
from gateway.web.api_bodies import json_answer, number_of, page, text_of
from gateway.web.principal import Api

SETTINGS = ("name", "time_zone", "plan", "persons_per_minute", "most_open_holds", "share_ppm", "suspended")
_CREDITS = (CreditCause.PAYMENT, CreditCause.PROMOTION, CreditCause.GOODWILL)
_DEBITS = tuple(DebitCause)
_BASE = "/admin/api/accounts"


def admin_routes(api: Api, operating: Operating, keying: Keying, reload: Callable[[], Awaitable[str]]) -> list[Route]:
    """The routes. Handlers raise `Problem`."""
    return [*_account_routes(api, operating, keying), *_money_routes(api, operating), *_other(api, operating, reload)]


def _account_routes(api: Api, operating: Operating, keying: Keying) -> list[Route]:
    async def listed(request: Request) -> Response:
        await api.operator(request)
        return json_answer({"data": await operating.listed(), "next": None})

    async def make(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(body: dict[str, Any]) -> Any:
            return await operating.make(principal, _settings(body))

        return await api.changed(request, principal, act, allowed=SETTINGS, status=201)

    async def read(request: Request) -> Response:
        await api.operator(request)
        return json_answer(await operating.find(_org_id(request)))

    async def change(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(body: dict[str, Any]) -> Any:
            return await operating.change(principal, _org_id(request), _settings(body))

        return await api.changed(request, principal, act, allowed=SETTINGS)

    async def key(request: Request) -> Response:
        operator = await api.operator(request)
        org_id = _org_id(request)
        await operating.find(org_id)
        principal = Principal(org_id, operator.key_id, "", tuple(Permission), operator=True, vouched="operator")

        async def act(body: dict[str, Any]) -> Any:
            return await make_key(api, keying, principal, body)

        return await api.changed(request, principal, act, allowed=KEY_MEMBERS, status=201)

    return [
        Route(_BASE, listed, methods=["GET"]),
        Route(_BASE, make, methods=["POST"]),
        Route(_BASE + "/{id}", read, methods=["GET"]),
        Route(_BASE + "/{id}", change, methods=["PATCH"]),
        Route(_BASE + "/{id}/keys", key, methods=["POST"]),
    ]


def _money_routes(api: Api, operating: Operating) -> list[Route]:
    async def credit(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(body: dict[str, Any]) -> Any:
            cause = _cause(body, _CREDITS)
            source = text_of(body, "source", most=64, default="operator")
            credit_id = _id(body)
            return await operating.credit(
                principal, _account_id(request), _amount(body), cause=cause, source=source, credit_id=credit_id
            )

        allowed = ("amount", "cause", "source", "id")
        return await api.changed(request, principal, act, allowed=allowed, required=("amount",), status=201)

    async def debit(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(body: dict[str, Any]) -> Any:
            cause = _cause(body, _DEBITS)
            return await operating.debit(
                principal, _account_id(request), _amount(body), cause=cause, debit_id=_id(body)
            )

        allowed = ("amount", "cause", "id")
        return await api.changed(request, principal, act, allowed=allowed, required=("amount", "cause"), status=201)

    async def credit_limit(request: Request) -> Response:
        principal = await api.operator(request)

        async def act(body: dict[str, Any]) -> Any:
            return await operating.credit_limit(principal, _account_id(request), parse_money(body["limit"], "limit"))

        return await api.changed(request, principal, act, allowed=("limit",), required=("limit",))

    return [
        Route(_BASE + "/{id}/credits", credit, methods=["POST"]),
        Route(_BASE + "/{id}/debits", debit, methods=["POST"]),
        Route(_BASE + "/{id}/credit-limit", credit_limit, methods=["PUT"]),
    ]


def _other(api: Api, operating: Operating, reload: Callable[[], Awaitable[str]]) -> list[Route]:
    async def audit(request: Request) -> Response:
        await api.operator(request)
        limit, after = page(request)
        if after and not (after.isascii() and after.isdigit() and len(after) < 16):
            raise InvalidRequest("must be the number of an entry", param="after")
        org_id = request.query_params.get("account", "").replace("ac_", "org_", 1)
        await operating.find(org_id)
        data = await operating.audited(org_id, after=int(after or 0), most=limit)
        return json_answer({"data": data, "next": str(data[-1]["number"]) if len(data) == limit else None})

    async def again(request: Request) -> Response:
        await api.operator(request)
        return json_answer({"detail": await reload()})

    return [
        Route("/admin/api/audit", audit, methods=["GET"]),
        Route("/admin/api/reload", again, methods=["POST"]),
    ]


def _settings(body: dict[str, Any]) -> dict[str, Any]:
    """The settings of a body. Errors: InvalidRequest."""
    settings: dict[str, Any] = {}
    for name in ("name", "time_zone", "plan"):
        if name in body:
            settings[name] = text_of(body, name, default="" if name != "time_zone" else None)
    ranges = {"persons_per_minute": (0, 1_000_000), "most_open_holds": (1, 1_000_000), "share_ppm": (1, 1_000_000)}
    for name, (least, most) in ranges.items():
        if name in body:
            settings[name] = number_of(body, name, least=least, most=most)
    if "suspended" in body:
        if not isinstance(body["suspended"], bool):
            raise InvalidRequest("must be true or false", param="suspended")
        settings["suspended"] = body["suspended"]
    return settings


def _amount(body: dict[str, Any]) -> int:
    amount = parse_money(body["amount"], "amount")
    if amount == 0:
        raise InvalidRequest("must be above zero", param="amount")
    return amount


def _cause(body: dict[str, Any], causes: tuple[str, ...]) -> str:
    cause = body.get("cause", causes[0])
    if not isinstance(cause, str) or cause not in causes:
        raise InvalidRequest(f"must be one of {', '.join(causes)}", param="cause")
    return cause


def _id(body: dict[str, Any]) -> str:
    """An id that the caller chose for the movement, so that a repeat moves nothing."""
    given = text_of(body, "id", most=100, default="")
    if given and not all(c.isascii() and (c.isalnum() or c in "._:@-") for c in given):
        raise InvalidRequest("must be letters, digits and . _ : @ -", param="id")
    return given


def _org_id(request: Request) -> str:
    given: str = request.path_params["id"]
    return given.replace("ac_", "org_", 1)


def _account_id(request: Request) -> str:
    given: str = request.path_params["id"]
    return given.replace("org_", "ac_", 1)
