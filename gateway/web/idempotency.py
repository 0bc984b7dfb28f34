"""`Idempotency-Key` on our own paths: the same key and body get the same answer, and happen once.

Of many requests at once one acts; the others wait for its answer a moment, then are told to come back. What was refused
leaves the key free; where the outcome is not known, the same body may go on at once. The failure this prevents: a
client that retries, or sends twice, and is credited twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.core.errors import Conflict, InvalidRequest, Problem, Unavailable
from gateway.core.idempotency import Answered, OtherBody, Ours, UnderWay
from gateway.ports import IdempotencyRecords
from gateway.web.api_bodies import NO_STORE, json_answer

GREATEST_KEY_CHARACTERS = 255
# Our own changes take milliseconds: whoever is not answered by then waits for a slow store, or for a dead worker.
WAIT_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.2
_COME_BACK_S = 1


def idempotency_key(request: Request) -> str | None:
    """The request's `Idempotency-Key`. Errors: InvalidRequest."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= GREATEST_KEY_CHARACTERS:
        raise InvalidRequest(f"A key has 1 to {GREATEST_KEY_CHARACTERS} characters.", param="idempotency-key")
    return key


def movement_id(request: Request, payer: str) -> str:
    """The id under which a request moves money, where the caller names none: the same whenever it is sent again, so
    that the ledger moves nothing twice, whoever acts. "" without a key. Errors: InvalidRequest."""
    key = idempotency_key(request)
    return "" if key is None else f"key:{sha256(f'{payer} {_path(request)} {key}'.encode()).hexdigest()}"


async def once(
    records: IdempotencyRecords,
    request: Request,
    payer: str,
    raw: bytes,
    act: Callable[[], Awaitable[tuple[Any, bool]]],
    *,
    status: int = 200,
) -> Response:
    """Act, once under the request's key. `raw` is the body; `act` gives the answer, and whether it is final. Errors:
    Conflict (the key was used for something else, or is under way), and those of `act`."""
    key = idempotency_key(request)
    if key is None:
        return json_answer((await act())[0], status)
    place = (payer, _path(request), key)
    begun = await _begin(records, place, request.url.query.encode() + b"\0" + raw)
    if isinstance(begun, Answered):
        return Response(begun.answer, status, NO_STORE, media_type="application/json")
    try:
        answer, final = await act()
    except Exception as error:
        refused = isinstance(error, Problem) and error.status < 500
        with suppress(Unavailable):
            await (records.forget if refused else records.release)(*place, begun.owner)
        raise
    response = json_answer(answer, status)
    # It has happened: a store that does not take the answer now changes nothing about that.
    with suppress(Unavailable):
        if final:
            await records.finish(*place, begun.owner, bytes(response.body))
        else:
            await records.release(*place, begun.owner)
    return response


async def _begin(records: IdempotencyRecords, place: tuple[str, str, str], asked: bytes) -> Ours | Answered:
    """Wait for whoever acts under this key now. Errors: Conflict."""
    ends_at_s, pause_s = asyncio.get_running_loop().time() + WAIT_S, _FIRST_PAUSE_S
    while True:
        begun = await records.begin(*place, asked)
        match begun:
            case OtherBody():
                raise Conflict("This Idempotency-Key was used with another body.", code="idempotency_mismatch")
            case UnderWay():
                if asyncio.get_running_loop().time() + pause_s >= ends_at_s:
                    message = "The request under this Idempotency-Key is still under way; send it again."
                    raise Conflict(message, retry_after_s=_COME_BACK_S)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            case _:
                return begun


def _path(request: Request) -> str:
    return f"{request.method} {request.url.path}"
