"""`/api/quotes` and `/api/approvals`: what waits for an answer, and the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Permission, Principal
from gateway.core.money_input import parse_money
from gateway.core.proofs import METHODS
from gateway.core.questions import Question, question_members
from gateway.core.quotes import Quote, QuoteState
from gateway.flows.quoting import Quoting, bound_to, quote_members
from gateway.web.api.proofs import proof_of
from gateway.web.api_bodies import json_answer, page, paged
from gateway.web.principal import Api

Waiting = Callable[[str, int], Awaitable[Sequence[Quote | Question]]]
# What a person's passkey must sign: options for the browser, None where they have none.
PasskeyOptions = Callable[[Principal, str], Awaitable[dict[str, Any] | None]]


def quote_routes(api: Api, quoting: Quoting, waiting: Waiting, passkey_options: PasskeyOptions) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def approvals(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        found = await waiting(principal.org_id, int(api.system.now_s() * 1_000))
        mine = [
            each for each in found
            if principal.person_id in ("", each.person_id) or (isinstance(each, Quote) and each.two_persons)
        ]  # fmt: skip
        limit, after = page(request)
        data, beyond = paged(sorted(mine, key=_place), limit, after, _place)  # the first to expire comes first
        return json_answer({"data": [_waits(each) for each in data], "next": beyond})

    async def read(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        quote = await quoting.shown_to(principal, request.path_params["id"])
        shown = quote_members(quote)
        if principal.person_id and quote.state is QuoteState.OPEN:
            asked = request.query_params.get("approved_max")
            most = parse_money(asked, "approved_max") if asked else quote.estimate.most
            options = await passkey_options(principal, bound_to(quote, min(most, quote.estimate.most)))
            if options is not None:
                shown["passkey_options"] = options
        return json_answer(shown)

    async def approve(request: Request) -> Response:
        principal = await api.principal(request, Permission.APPROVE)

        async def act(body: dict[str, Any]) -> Any:
            most = parse_money(body["approved_max"], "approved_max") if body.get("approved_max") is not None else None
            quote = await quoting.approve(principal, request.path_params["id"], most, proof_of(body))
            enough = quote.state is not QuoteState.OPEN
            return {**quote_members(quote), "status": "approved" if enough else "needs_second_person"}

        return await api.changed(request, principal, act, allowed=("approved_max", *METHODS))

    async def refuse(request: Request) -> Response:
        principal = await api.principal(request, Permission.APPROVE)

        async def act(_: dict[str, Any]) -> Any:
            quote = await quoting.refuse(principal, request.path_params["id"])
            return {**quote_members(quote), "status": "refused"}

        return await api.changed(request, principal, act, allowed=())

    return [
        Route("/api/approvals", approvals, methods=["GET"]),
        Route("/api/quotes/{id}", read, methods=["GET"]),
        Route("/api/quotes/{id}/approve", approve, methods=["POST"]),
        Route("/api/quotes/{id}/refuse", refuse, methods=["POST"]),
    ]


def _place(waiting: Quote | Question) -> str:
    """Where it stands in the list."""
    name = waiting.quote_id if isinstance(waiting, Quote) else waiting.overage_id
    return f"{waiting.expires_at_ms:015d}:{name}"


def _waits(waiting: Quote | Question) -> dict[str, Any]:
    """What waits, and for whom."""
    if isinstance(waiting, Question):
        return {**question_members(waiting), "waits_for": waiting.person_id or "the key's owner"}
    whom = "two persons of the organization" if waiting.two_persons else waiting.person_id or "the key's owner"
    return {**quote_members(waiting), "waits_for": whom}
