"""`GET /api/requests/{id}`: what became of a request, for the payer it belongs to and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.credentials import AppKey, IdentityToken, parse_credential
from gateway.core.directory import Permission, Principal
from gateway.core.errors import NotFound
from gateway.core.holds import HoldRecord
from gateway.core.ids import hold_of_request, is_request_id
from gateway.core.money import Unit
from gateway.core.request_record import request_record
from gateway.ports import Ledger
from gateway.web.principal import Api

# The account of a request's L402 credential; raises Problem (a challenge, where there is none).
AccountOf = Callable[[Request], Awaitable[str]]


def request_routes(ledger: Ledger, account_of: AccountOf, api: Api) -> list[Route]:
    """The routes, for the application's table."""

    async def read(request: Request) -> Response:
        request_id: str = request.path_params["id"]
        credential = parse_credential(request.scope["headers"], request.scope["query_string"])
        if isinstance(credential, AppKey) or (isinstance(credential, IdentityToken) and api.identity is not None):
            principal = await api.principal(request, Permission.READ)
            hold = await hold_of_principal(ledger, principal, request_id)
        else:
            account = await account_of(request)
            found = await ledger.hold(hold_of_request(request_id)) if is_request_id(request_id) else None
            hold = found if found is not None and found.account == account else None
        if hold is None:
            raise unknown_request(request_id)
        unit = Unit.MSAT if hold.account.startswith("tk_") else Unit.NANOUSD
        body = msgspec.json.encode(request_record(hold, unit))
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    return [Route("/api/requests/{id}", read, methods=["GET"])]


async def hold_of_principal(ledger: Ledger, principal: Principal, request_id: str) -> HoldRecord | None:
    """The hold of a request of this organization, and of this person where one asks; None: not theirs, or unknown."""
    hold = await ledger.hold(hold_of_request(request_id)) if is_request_id(request_id) else None
    if hold is None or not hold.labels:
        return None
    labels = msgspec.json.decode(hold.labels)
    own = labels.get("org") == principal.org_id and principal.person_id in ("", labels.get("user"))
    return hold if own else None


def unknown_request(request_id: str) -> NotFound:
    """The same answer for another's request as for none: ids of others are not told."""
    said = f"no paid request {request_id!r} of this payer is known; listings and token counts are not recorded"
    return NotFound(said, param="id")
