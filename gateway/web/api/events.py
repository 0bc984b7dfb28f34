"""`/api/requests/{id}/events` (WebSocket, or server-sent events) and `/api/requests/{id}/overage`.

Events stand in the store, so that it does not matter which worker streams and which one is watched; whoever comes back
with the last id that it saw misses nothing. A page of another origin is refused: browsers send cookies and keys for it.
Whoever answers on an open socket is looked at anew: it outlives keys and tokens. Only so many watch at once, for each
of them asks the store again and again.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gateway.core.directory import Permission, Principal
from gateway.core.errors import Forbidden, InvalidRequest, Problem, RateLimited
from gateway.core.holds import HoldRecord
from gateway.core.money import Unit, money_object
from gateway.core.money_input import parse_money
from gateway.core.proofs import METHODS
from gateway.flows.answering import Answering
from gateway.people_ports import Questions
from gateway.ports import Ledger
from gateway.web.api.proofs import proof_of
from gateway.web.api_bodies import json_answer, members, read_json, text_of
from gateway.web.principal import Api
from gateway.web.problems import problem_body
from gateway.web.requests import hold_of_principal, unknown_request

# How often the store is asked for events of a watched request: a person does not notice, the store neither.
POLL_S = 0.2
_EVENTS_AT_ONCE = 100
_ANSWER = ("action", "overage_id", "additional_max", *METHODS)
_REFUSED = 4_400
# As the store makes them; with a digit more it takes them for no id at all.
EVENT_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
# Of one request, and with one key; each asks the store five times a second.
WATCHERS_OF_REQUEST_MOST, WATCHERS_OF_KEY_MOST = 16, 256


def event_routes(
    api: Api, ledger: Ledger, questions: Questions, answering: Answering, public_url: str
) -> list[BaseRoute]:
    """The routes. Handlers raise `Problem`."""
    watchers = _Watchers()

    async def overage(request: Request) -> Response:
        principal, hold = await _own(api, ledger, request, Permission.APPROVE)

        async def act(body: dict[str, Any]) -> Any:
            return await _answer(answering, principal, hold.hold_id, body)

        return await api.changed(request, principal, act, allowed=_ANSWER, required=("action",))

    async def listen(request: Request) -> Response:
        _check_origin(request, public_url)
        principal, hold = await _own(api, ledger, request, Permission.READ)
        after = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        watch = _Watch(ledger, questions, hold, _event_id(after))
        place = watchers.enter(principal.key_id, hold.hold_id)
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        return StreamingResponse(_server_sent(watch, place), media_type="text/event-stream", headers=headers)

    async def socket(websocket: WebSocket) -> None:
        try:
            _check_origin(websocket, public_url)
            principal, hold = await _own(api, ledger, websocket, Permission.READ)
            after = _event_id(websocket.query_params.get("last_event_id", ""))
            place = watchers.enter(principal.key_id, hold.hold_id)
        except Problem as problem:
            await _deny(websocket, problem)
            return

        async def take(body: dict[str, Any]) -> None:
            now, _ = await _own(api, ledger, websocket, Permission.APPROVE)
            await _answer(answering, now, hold.hold_id, body)

        with place:
            await websocket.accept()
            watch = _Watch(ledger, questions, hold, after)
            sending = asyncio.ensure_future(_send_events(websocket, watch))
            try:
                await _take_answers(websocket, take, sending)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    return [
        Route("/api/requests/{id}/overage", overage, methods=["POST"]),
        Route("/api/requests/{id}/events", listen, methods=["GET"]),
        WebSocketRoute("/api/requests/{id}/events", socket),
    ]


class _Watchers:
    """How many watch in this worker, by request and by key."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def enter(self, key_id: str, hold_id: str) -> ExitStack:
        """A place, given back at the end. Errors: RateLimited."""
        for name, most in ((hold_id, WATCHERS_OF_REQUEST_MOST), (key_id, WATCHERS_OF_KEY_MOST)):
            if self._counts[name] >= most:
                raise RateLimited(f"{most} watch this already, which is the most at once", retry_after_s=5)
        self._counts.update((hold_id, key_id))
        leaving = ExitStack()
        leaving.callback(self._leave, hold_id, key_id)
        return leaving

    def _leave(self, *names: str) -> None:
        self._counts.subtract(names)
        for name in names:
            if not self._counts[name]:
                del self._counts[name]


class _Watch:
    """Reads a request's events above the last one that was seen, and how the request stands."""

    def __init__(self, ledger: Ledger, questions: Questions, hold: HoldRecord, after: str) -> None:
        self._ledger = ledger
        self._questions = questions
        self._hold = hold
        self._after = after
        self._told_state = ""
        self.over = False

    async def events(self) -> list[tuple[str, str, bytes]]:
        """What is new: (id, event, data). A `state` event has the id of the last one before it."""
        found = list(await self._questions.events(self._hold.hold_id, after=self._after, most=_EVENTS_AT_ONCE))
        if found:
            self._after = found[-1][0]
        hold = await self._ledger.hold(self._hold.hold_id) or self._hold
        if hold.state != self._told_state:
            self._told_state = hold.state
            cost = hold.earned if hold.state == "open" else hold.posted
            told = {"state": hold.state, "cost": money_object(cost, Unit.NANOUSD)}
            found.append((self._after, "state", msgspec.json.encode(told)))
        self.over = hold.state != "open"
        return found


async def _own(
    api: Api, ledger: Ledger, request: HTTPConnection, permission: Permission
) -> tuple[Principal, HoldRecord]:
    """Who asks, and the hold of their own request. Errors: Problem."""
    principal = await api.principal(request, permission)
    request_id: str = request.path_params["id"]
    hold = await hold_of_principal(ledger, principal, request_id)
    if hold is None:
        raise unknown_request(request_id)
    return principal, hold


async def _answer(answering: Answering, principal: Principal, hold_id: str, body: dict[str, Any]) -> Any:
    more = body.get("additional_max")
    return await answering.answer(
        principal,
        hold_id,
        action=text_of(body, "action"),
        overage_id=text_of(body, "overage_id", default=""),
        additional_max=parse_money(more, "additional_max") if more is not None else None,
        proof=proof_of(body),
    )


async def _server_sent(watch: _Watch, place: ExitStack) -> AsyncIterator[bytes]:
    with place:
        while True:
            for event_id, event, data in await watch.events():
                # An empty id would make a client forget the last one that it saw.
                numbered = f"id: {event_id}\n" if event_id else ""
                yield f"event: {event}\n{numbered}data: ".encode() + data + b"\n\n"
            if watch.over:
                return
            await asyncio.sleep(POLL_S)


async def _send_events(websocket: WebSocket, watch: _Watch) -> None:
    while True:
        for event_id, event, data in await watch.events():
            frame = b'{"event":%b,"id":%b,"data":%b}' % (
                msgspec.json.encode(event), msgspec.json.encode(event_id), data,
            )  # fmt: skip
            await websocket.send_text(frame.decode())
        if watch.over:
            await websocket.close()
            return
        await asyncio.sleep(POLL_S)


async def _take_answers(
    websocket: WebSocket, take: Callable[[dict[str, Any]], Awaitable[None]], sending: asyncio.Future[None]
) -> None:
    """Answers come on the socket until either side closes it."""
    while not sending.done():
        receiving = asyncio.ensure_future(websocket.receive_text())
        both: set[asyncio.Future[Any]] = {receiving, sending}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not receiving.done():
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            return
        try:
            body = read_json(receiving.result().encode())
            if not isinstance(body, dict):
                raise InvalidRequest("a frame is a JSON object", param="body")
            members(body, _ANSWER, required=("action",))
            await take(body)
        except (WebSocketDisconnect, KeyError, RuntimeError):
            return
        except Problem as problem:
            error = {"event": "error", "id": "", "data": problem_body(problem)}
            await websocket.send_text(msgspec.json.encode(error).decode())


def _event_id(text: str) -> str:
    """An id of an event. Errors: InvalidRequest."""
    if text and EVENT_ID.fullmatch(text) is None:
        raise InvalidRequest("must be the id of an event", param="last_event_id")
    return text


def _check_origin(request: HTTPConnection, public_url: str) -> None:
    """Errors: Forbidden for a page of another origin."""
    origin = request.headers.get("origin")
    if origin is None:
        return
    hosts = {request.headers.get("host", ""), urlsplit(public_url).netloc}
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        host = ""  # what cannot be read is nobody's own
    if host not in hosts - {""}:
        raise Forbidden("pages of another origin may not watch requests", code="foreign_origin")


async def _deny(websocket: WebSocket, problem: Problem) -> None:
    """Refuse an upgrade: with the problem where the server can, else by closing."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(json_answer(problem_body(problem), problem.status))
    elif websocket.client_state is WebSocketState.CONNECTING:
        await websocket.close(code=_REFUSED, reason=problem.code)
