"""`/admin/api/accounts/{id}/credits`, `/debits`, `/credit-limit`: money that operators move, once per id.

The id is the caller's, else it follows from the `Idempotency-Key`, so that also a repeat which finds no answer any more
moves nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.accounts import CreditCause, DebitCause
from gateway.core.directory import Principal
from gateway.core.errors import InvalidRequest
from gateway.core.money_input import parse_money
from gateway.flows.funding import Funding
from gateway.web.api.admin_paths import ACCOUNTS, named_account
from gateway.web.api_bodies import text_of
from gateway.web.idempotency import movement_id
from gateway.web.principal import Api, payer_of

CREDITS = (CreditCause.PAYMENT, CreditCause.PROMOTION, CreditCause.GOODWILL)
SOURCE_CHARACTERS, ID_CHARACTERS = 64, 100
# What the ledger takes as a name.
_WORD = re.compile(r"[A-Za-z0-9._:@-]+", re.ASCII)


def money_routes(api: Api, funding: Funding) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def credit(request: Request) -> Response:
        principal, account = await api.operator(request), named_account(request)

        async def act(body: dict[str, Any]) -> Any:
            cause = _cause(body, CREDITS)
            source = _word(body, "source", SOURCE_CHARACTERS, default="operator")
            credit_id = _id(body, request, principal)
            return await funding.credit(
                principal, account, _amount(body), cause=cause, source=source, credit_id=credit_id
            )

        allowed = ("amount", "cause", "source", "id")
        return await api.changed(request, principal, act, allowed=allowed, required=("amount",), status=201)

    async def debit(request: Request) -> Response:
        principal, account = await api.operator(request), named_account(request)

        async def act(body: dict[str, Any]) -> Any:
            cause, debit_id = _cause(body, tuple(DebitCause)), _id(body, request, principal)
            return await funding.debit(principal, account, _amount(body), cause=cause, debit_id=debit_id)

        allowed = ("amount", "cause", "id")
        return await api.changed(request, principal, act, allowed=allowed, required=("amount", "cause"), status=201)

    async def credit_limit(request: Request) -> Response:
        principal, account = await api.operator(request), named_account(request)

        async def act(body: dict[str, Any]) -> Any:
            if "limit" not in body:
                raise InvalidRequest("missing", param="limit")
            limit = None if body["limit"] is None else parse_money(body["limit"], "limit")
            change_id = movement_id(request, payer_of(principal))
            return await funding.credit_limit(principal, account, limit, change_id=change_id)

        return await api.changed(request, principal, act, allowed=("limit",))

    return [
        Route(ACCOUNTS + "/{id}/credits", credit, methods=["POST"]),
        Route(ACCOUNTS + "/{id}/debits", debit, methods=["POST"]),
        Route(ACCOUNTS + "/{id}/credit-limit", credit_limit, methods=["PUT"]),
    ]


def _amount(body: dict[str, Any]) -> int:
    amount = parse_money(body["amount"], "amount")
    if amount == 0:
        raise InvalidRequest("must be above zero", param="amount")
    return amount


def _cause(body: dict[str, Any], causes: Collection[str]) -> str:
    cause = body.get("cause", next(iter(causes)))
    if not isinstance(cause, str) or cause not in causes:
        raise InvalidRequest(f"must be one of {', '.join(causes)}", param="cause")
    return cause


def _word(body: dict[str, Any], name: str, most: int, *, default: str) -> str:
    """A member that the ledger keeps as a name. Errors: InvalidRequest."""
    word = text_of(body, name, most=most, default=default)
    if word and not _WORD.fullmatch(word):
        raise InvalidRequest("must be letters, digits and . _ : @ -", param=name)
    return word


def _id(body: dict[str, Any], request: Request, principal: Principal) -> str:
    return _word(body, "id", ID_CHARACTERS, default="") or movement_id(request, payer_of(principal))
