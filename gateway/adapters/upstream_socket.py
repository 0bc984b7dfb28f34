"""WebSockets to upstreams, over the `websockets` library.

Invariants: our credential goes to the configured host only (no redirect is followed), a frame has a limit, and what the
upstream sends ahead of its reader is bounded: beyond it the socket is not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from gateway.adapters.upstream import UpstreamTarget
from gateway.adapters.upstreams import UpstreamSettings
from gateway.core.errors import NotFound, UpstreamFailed, UpstreamTimeout
from gateway.core.headers import Headers
from gateway.ports import SocketRequest

# What uvicorn takes of a client, too.
FRAME_MOST_BYTES = 16 * 1024 * 1024
# Frames read ahead of the reader.
_AHEAD = (4, 1)
_CLOSE_TIMEOUT_S = 2.0
# The upstream refused us, not the payer.
_OUR_FAULT = frozenset({401, 402, 403, 407})
# The library would log whole handshakes, our credential among them, where debugging is on.
_log = logging.getLogger("farebox.upstream.socket")


class _Connect(connect):
    """Follows no redirect: our credential is for one host."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Socket:
    """One open WebSocket."""

    def __init__(self, connection: ClientConnection, closing: set[asyncio.Task[None]]) -> None:
        self._connection = connection
        self._closing = closing
        self._aborted = False
        response = connection.response
        pairs = list(response.headers.raw_items()) if response is not None else []
        self.headers: Headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        self.subprotocol: str | None = connection.subprotocol
        self.close_code: int | None = None
        self.close_reason = ""

    async def receive(self) -> str | bytes | None:
        """The next frame; None at the end."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                self.close_code, self.close_reason = closed.rcvd.code, closed.rcvd.reason
            return None

    async def send(self, frame: str | bytes) -> None:
        """Send a frame; waits while the upstream takes nothing."""
        with suppress(ConnectionClosed):  # whoever receives learns of it, and how
            await self._connection.send(frame)

    def abort(self) -> None:
        """Say goodbye now; the upstream has a moment to answer."""
        if not self._aborted:
            self._aborted = True
            task = asyncio.ensure_future(self._connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class UpstreamSocketSet:
    """Opens WebSockets by the name of the upstream."""

    def __init__(self, settings: Mapping[str, UpstreamSettings]) -> None:
        self._settings = dict(settings)
        self._closing: set[asyncio.Task[None]] = set()
        _log.setLevel(logging.WARNING)

    async def open(self, request: SocketRequest) -> Socket:
        """Open one. Errors: UpstreamFailed, UpstreamTimeout; NotFound for a name that is not configured."""
        settings = self._settings.get(request.upstream)
        if settings is None:
            raise NotFound(f"no upstream {request.upstream!r}", code="unknown_route")
        target = settings.target
        own = {name for name, _ in settings.headers}
        headers = [pair for pair in request.headers if pair[0] not in own] + settings.headers
        try:
            connection = await _Connect(
                _uri(target, request),
                additional_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
                subprotocols=[Subprotocol(each) for each in request.subprotocols] or None,
                user_agent_header=None,
                compression=None,
                proxy=None,
                open_timeout=target.connect_timeout_s,
                close_timeout=_CLOSE_TIMEOUT_S,
                max_size=FRAME_MOST_BYTES,
                max_queue=_AHEAD,
                logger=_log,
            )
        except TimeoutError:
            raise UpstreamTimeout(f"no WebSocket from the upstream within {target.connect_timeout_s:g} s") from None
        except InvalidStatus as error:
            raise _refused(error.response.status_code) from None
        except (OSError, InvalidHandshake, InvalidURI) as error:
            raise UpstreamFailed(f"cannot open a WebSocket to the upstream: {type(error).__name__}") from None
        return Socket(connection, self._closing)

    async def close(self) -> None:
        """Wait for the goodbyes under way."""
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=_CLOSE_TIMEOUT_S)


def _uri(target: UpstreamTarget, request: SocketRequest) -> str:
    scheme = "wss" if target.scheme == "https" else "ws"
    query = f"?{request.query.decode('latin-1')}" if request.query else ""
    return f"{scheme}://{target.host_header.decode()}{target.path_prefix}{request.path}{query}"


def _refused(status: int) -> UpstreamFailed:
    if status in _OUR_FAULT:
        return UpstreamFailed("the upstream refused the gateway's own credential or account")
    return UpstreamFailed(f"the upstream answered {status} where a WebSocket was asked for")
