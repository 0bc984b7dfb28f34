"""`/api/allowances`: "this session may spend 2 USD on these models, 0.20 a call, until 18:00"."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import PERSON_ID_CHARACTERS, SESSION_ID_CHARACTERS, Allowance, Permission
from gateway.core.errors import Forbidden, InvalidRequest
from gateway.core.money_input import parse_instant, parse_money
from gateway.core.proofs import METHODS
from gateway.flows.allowing import Allowing
from gateway.web.api.budgets import asked_person
from gateway.web.api.proofs import proof_of
from gateway.web.api_bodies import given, json_answer, number_of, page, text_of, texts_of
from gateway.web.principal import Api

_MEMBERS = ("user", "session", "routes", "models", "cap", "per_call_cap", "expires_at", "count", *METHODS)


def allowance_routes(api: Api, allowing: Allowing) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def listed(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        limit, after = page(request)
        person_id = asked_person(request, principal)
        data = await allowing.listed(principal.org_id, person_id=person_id, after=after, most=limit)
        return json_answer({"data": data, "next": data[-1]["id"] if len(data) == limit else None})

    async def make(request: Request) -> Response:
        principal = await api.principal(request, Permission.APPROVE)

        async def act(body: dict[str, Any]) -> Any:
            user = text_of(body, "user", most=PERSON_ID_CHARACTERS, default=principal.person_id)
            if principal.person_id not in ("", user):
                raise Forbidden("a person allows their own sessions only", param="user")
            session = text_of(body, "session", most=SESSION_ID_CHARACTERS, default=principal.session)
            cap = parse_money(body["cap"], "cap")
            per_call = parse_money(body["per_call_cap"], "per_call_cap") if given(body, "per_call_cap") else cap
            for amount, name in ((cap, "cap"), (per_call, "per_call_cap")):
                if amount == 0:
                    raise InvalidRequest("must be above zero", param=name)
            expires = parse_instant(body["expires_at"], "expires_at") if given(body, "expires_at") else 0
            wanted = Allowance(
                allowance_id="",
                org_id=principal.org_id,
                person_id=user,
                session=session,
                routes=texts_of(body, "routes"),
                models=texts_of(body, "models"),
                cap=cap,
                per_call_cap=per_call,
                count=number_of(body, "count", least=1, most=10**9) if given(body, "count") else 0,
                expires_at_ms=expires,
            )
            return await allowing.make(principal, wanted, proof_of(body))

        return await api.changed(request, principal, act, allowed=_MEMBERS, required=("cap",), status=201)

    async def revoke(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        return json_answer(await allowing.revoke(principal, request.path_params["id"]))

    return [
        Route("/api/allowances", listed, methods=["GET"]),
        Route("/api/allowances", make, methods=["POST"]),
        Route("/api/allowances/{id}", revoke, methods=["DELETE"]),
    ]
