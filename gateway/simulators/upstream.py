"""A simulated upstream: OpenAI, Anthropic, Gemini and Ollama on one socket, in their own dialects.

It exists so that every test, benchmark and demonstration has an upstream whose tokens are known exactly: the same
request gets the same bytes, and `GET /sim/log` tells what was really sent. It is a raw ASGI application and remembers
small answers, because it must cost less than what is measured against it. `x-sim-*` headers ask for lengths, pace and
faults (see `upstream_orders.Wish`); no other state exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

from msgspec import DecodeError, json
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.simulators.upstream_headers import HeaderReader, Heard
from gateway.simulators.upstream_log import Record, RequestLog
from gateway.simulators.upstream_orders import Answer, Asked, BadOrder, Wish, read_wish
from gateway.simulators.upstream_realtime import serve_realtime
from gateway.simulators.upstream_routes import error_body, resolve
from gateway.simulators.upstream_sending import send_answer

GREATEST_BODY_BYTES = 64 * 2**20
# What is remembered: small requests with short answers, as a benchmark repeats them.
GREATEST_REMEMBERED = 2_048
GREATEST_REMEMBERED_BODY_BYTES = 16_384
GREATEST_REMEMBERED_TOKENS = 1_024
GREATEST_REMEMBERED_BYTES = 1_048_576
# Providers stand behind a proxy that sets a cookie; whoever relays answers has to take it out.
_HEADERS = [(b"set-cookie", b"__cf_bm=simulated; path=/; HttpOnly; Secure"), (b"cf-cache-status", b"DYNAMIC")]
_REQUEST_ID_HEADER = {"openai": b"x-request-id", "anthropic": b"request-id"}

_Remembered = tuple[Answer, Wish, str]


class SimulatedUpstream:
    """The ASGI application. `log` is its ground truth."""

    def __init__(self, log: RequestLog | None = None) -> None:
        self.log = log or RequestLog()
        self._headers = HeaderReader()
        self._remembered: dict[tuple[Any, ...], _Remembered] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/sim/log":
                await self._serve_log(scope, send)
            else:
                await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await serve_realtime(self.log, self._headers, scope, receive, send)
        else:
            await _live(receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.log.open(scope["method"], scope["path"])
        record.heard, record.request_id = self._headers.read(scope["headers"], scope["query_string"])
        try:
            body = await _body(receive)
            if body is None:
                record.cut()
                return
            answer, wish = self._answer(scope, body, record)
            record.model, record.status = answer.model, answer.status
            record.input_tokens, record.output_tokens = answer.input_tokens, answer.output_tokens
            await send_answer(answer, wish, record, receive, send)
        finally:
            record.end()

    def _answer(self, scope: Scope, body: bytes, record: Record) -> tuple[Answer, Wish]:
        heard = record.heard
        key = (
            body,
            scope["method"],
            scope["path"],
            scope["query_string"],
            heard.wishes,
            heard.speaks,
            heard.content_type,
        )
        found = self._remembered.get(key)
        if found is None:
            digest = sha256(body)
            found = (*_worked_out(scope, body, digest.digest(), heard), digest.hexdigest())
            self._remember(key, found)
        answer, wish, record.body_sha256 = found
        return answer, wish

    def _remember(self, key: tuple[Any, ...], found: _Remembered) -> None:
        answer, wish, digest = found
        body: bytes = key[0]
        if len(body) > GREATEST_REMEMBERED_BODY_BYTES or answer.output_tokens > GREATEST_REMEMBERED_TOKENS:
            return
        answer.pieces = tuple(answer.pieces)
        if sum(len(data) for data, _ in answer.pieces) > GREATEST_REMEMBERED_BYTES:
            return
        if len(self._remembered) >= GREATEST_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = (answer, wish, digest)

    async def _serve_log(self, scope: Scope, send: Send) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        after = asked.get("after", ["0"])[0]
        if scope["method"] == "DELETE":
            self.log.clear()
            await _send(send, 200, b"[]")
        elif scope["method"] != "GET":
            await _send(send, 405, error_body("openai", 405, "GET or DELETE"))
        elif not after.isdecimal() or len(after) > 18:
            await _send(send, 400, error_body("openai", 400, "after: a whole number"))
        else:
            listed = self.log.listed(after=int(after), request_id=asked.get("request_id", [None])[0])
            await _send(send, 200, json.encode(listed))


def upstream_app() -> ASGIApp:
    """The simulated upstream as an ASGI application."""
    return SimulatedUpstream()


def _worked_out(scope: Scope, body: bytes, digest: bytes, heard: Heard) -> tuple[Answer, Wish]:
    """The answer to a request; refusals are answers too."""
    path = scope["path"]
    route = resolve(scope["method"], path, heard.speaks)
    if route is None:
        return _refusal(heard.speaks, 404, f"Invalid URL ({scope['method']} {path})"), Wish()
    try:
        wish = read_wish(dict(heard.wishes))
        asked = Asked(
            path=path,
            model=route.model,
            query=scope["query_string"].decode("latin-1"),
            content_type=heard.content_type,
            body=body,
            payload={} if route.dialect == "raw" else _payload(body, heard.content_type),
            wish=wish,
            seed=sha256(digest + path.encode()).digest(),
        )
        if wish.fault == "status-500":
            return _refusal(route.dialect, 500, "The server had an error while processing your request"), wish
        answer = route.handler(asked)
    except (BadOrder, ValueError, TypeError, AttributeError) as error:
        return _refusal(route.dialect, 400, str(error)), Wish()
    request_id = b"req_" + asked.seed.hex()[:24].encode()
    answer.headers = [*_HEADERS, (_REQUEST_ID_HEADER.get(route.dialect, b"x-request-id"), request_id)]
    return answer, wish


def _payload(body: bytes, content_type: str) -> dict[str, Any]:
    if not body or content_type.startswith("multipart/"):
        return {}
    try:
        payload = json.decode(body)
    except (DecodeError, UnicodeDecodeError):
        payload = None
    if not isinstance(payload, dict):
        message = "We could not parse the JSON body of your request."
        raise BadOrder(message)
    return payload


def _refusal(dialect: str, status: int, message: str) -> Answer:
    return Answer([(error_body(dialect, status, message), 0)], status=status)


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None when the client went away before its end or sent too much."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > GREATEST_BODY_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


if __name__ == "__main__":
    from gateway.simulators.upstream_serving import main

    main()
