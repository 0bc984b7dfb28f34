"""The edge of realtime sessions: raw ASGI over a WebSocket.

Whoever may not pass is answered before the upgrade is accepted, with the same problem as on HTTP: as a response where
the server can deny an upgrade with one, else by closing with 4000 and the status (4402).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from gateway.core.call import Call
from gateway.core.credentials import Proved, parse_credential
from gateway.core.errors import Problem, Unavailable
from gateway.core.headers import Headers
from gateway.core.operations import Dialect
from gateway.flows.realtime import KEY_SUBPROTOCOL, RealtimeRelay
from gateway.flows.trace import Trace
from gateway.ports import System
from gateway.web.addresses import Addresses
from gateway.web.bodies import Receive
from gateway.web.outlet import Send
from gateway.web.problems import render_failure, render_problem
from gateway.web.proxy import Observer

log = logging.getLogger("farebox.relay")

PREIMAGE_DIGITS = 64
# RFC 6455: a reason has at most 123 bytes.
_REASON_MOST_BYTES = 123


class Doors(Protocol):
    """What is open here, and whether more may come (web/proxy.py)."""

    open_requests: int
    draining: bool


class SocketClient:
    """The client's side of one session."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._loop = asyncio.get_running_loop()
        self.accepted = False
        self.blocked_since: float | None = None

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Accept the upgrade."""
        message = await self._receive()
        if message["type"] != "websocket.connect":
            raise ConnectionResetError
        self.accepted = True
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})

    async def receive(self) -> str | bytes | None:
        """The next frame; None when the client has gone."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return None
        text = message.get("text")
        return text if text is not None else message.get("bytes") or b""

    async def send(self, frame: str | bytes) -> bool:
        """Send a frame; waits while the client takes nothing. False when it has gone."""
        kind = "text" if isinstance(frame, str) else "bytes"
        self.blocked_since = self._loop.time()
        try:
            await self._send({"type": "websocket.send", kind: frame})
        except OSError:
            return False
        finally:
            self.blocked_since = None
        return True

    async def close(self, code: int, reason: str) -> None:
        """Close the session."""
        short = reason.encode()[:_REASON_MOST_BYTES].decode(errors="ignore")
        await self._send({"type": "websocket.close", "code": code, "reason": short})


class RealtimeEdge:
    """An ASGI application for WebSockets of the relay."""

    def __init__(
        self, relay: RealtimeRelay, *, system: System, addresses: Addresses, observer: Observer, doors: Doors,
        most: int, proved: Proved,
    ) -> None:  # fmt: skip
        """`most`: how many requests and sessions may be open."""
        self._relay = relay
        self._system = system
        self._addresses = addresses
        self._observer = observer
        self._doors = doors
        self._proved = proved
        self._most = most
        self._time: Callable[[], float] = asyncio.get_running_loop().time

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one session."""
        call = self._call(scope)
        trace = Trace()
        client = SocketClient(receive, send)
        self._doors.open_requests += 1
        try:
            await self._serve(call, scope, client, trace)
        except OSError:
            trace.reason = "client_gone"
        except Problem as problem:
            trace.status, trace.reason = problem.status, problem.code
            await self._refuse(scope, call, client, send, problem)
        except Exception:
            log.exception("session %s failed", call.request_id)
            trace.status, trace.reason = 500, "internal"
            await self._refuse(scope, call, client, send, None)
        finally:
            self._doors.open_requests -= 1
            self._observer.finished(call, trace)

    def _call(self, scope: dict[str, Any]) -> Call:
        headers: Headers = [(name.lower(), value) for name, value in scope["headers"]]
        tail = self._system.token_hex(13)
        return Call(
            method="GET",
            path=scope["raw_path"].decode("ascii"),
            query=scope["query_string"],
            headers=headers,
            address=self._addresses.of(scope, headers),
            tail=tail,
            request_id=f"req_00{tail}",
            started_s=self._time(),
        )

    async def _serve(self, call: Call, scope: dict[str, Any], client: SocketClient, trace: Trace) -> None:
        if self._doors.draining:
            raise Unavailable("the gateway is being restarted", code="draining", retry_after_s=1)
        if self._doors.open_requests > self._most:
            raise Unavailable("too many requests are open", code="overloaded", retry_after_s=1)
        subprotocols: list[str] = scope.get("subprotocols") or []
        shown: Headers = list(call.headers)
        for each in subprotocols:
            if each.startswith(KEY_SUBPROTOCOL):  # browsers cannot set headers: what they show is a key as any other
                shown.append((b"api-key", _key_of(each)))
        credential = parse_credential(shown, call.query, self._proved)
        await self._relay.serve(call, credential, subprotocols, client, trace)

    async def _refuse(
        self, scope: dict[str, Any], call: Call, client: SocketClient, send: Send, problem: Problem | None
    ) -> None:
        """Deny the upgrade, or close what was accepted already."""
        status = problem.status if problem is not None else 500
        code = problem.code if problem is not None else "internal"
        try:
            if client.accepted:
                await client.close(1011, code)
            elif "websocket.http.response" in (scope.get("extensions") or {}):
                own: Headers = [(b"farebox-request-id", call.request_id.encode())]
                rendered = (
                    render_failure(Dialect.OPENAI) if problem is None else render_problem(problem, Dialect.OPENAI)
                )
                _, headers, body = rendered
                await send({"type": "websocket.http.response.start", "status": status, "headers": [*headers, *own]})
                await send({"type": "websocket.http.response.body", "body": body})
            else:
                await client.close(4000 + status, code)
        except OSError:
            log.info("session %s: the client went before it was answered", call.request_id)


def _key_of(subprotocol: str) -> bytes:
    """The key in a subprotocol. A subprotocol has no colon (RFC 6455, 4.1), so a dot may stand before the preimage."""
    key = subprotocol.removeprefix(KEY_SUBPROTOCOL)
    macaroon, _, preimage = key.rpartition(".")
    return (f"{macaroon}:{preimage}" if macaroon and len(preimage) == PREIMAGE_DIGITS else key).encode("latin-1")
