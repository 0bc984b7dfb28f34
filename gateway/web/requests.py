"""`GET /api/requests/{id}`: what became of a request, for the payer it belongs to and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.errors import NotFound
from gateway.core.ids import hold_of_request, is_request_id
from gateway.core.money import Unit
from gateway.core.request_record import request_record
from gateway.ports import Ledger

# The account of a request's credential; raises Problem (a challenge, where there is none).
AccountOf = Callable[[Request], Awaitable[str]]


def request_routes(ledger: Ledger, account_of: AccountOf) -> list[Route]:
    """The routes, for the application's table."""

    async def read(request: Request) -> Response:
        account = await account_of(request)
        request_id: str = request.path_params["request_id"]
        hold = await ledger.hold(hold_of_request(request_id)) if is_request_id(request_id) else None
        if hold is None or hold.account != account:
            # The same answer for another's request as for none: ids of others are not told.
            raise NotFound(f"no request {request_id!r} of this payer is known", param="request_id")
        unit = Unit.MSAT if hold.account.startswith("tk_") else Unit.NANOUSD
        body = msgspec.json.encode(request_record(hold, unit))
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    return [Route("/api/requests/{request_id}", read, methods=["GET"])]
