"""uvicorn's HTTP/1.1 protocol with a shorter way for what the relay does all day.

Three things of uvicorn's cost a relay more than its own work: a timer made and cancelled for every request, two
messages with every header searched twice for an answer that is there as a whole, and a coroutine for every piece of a
stream. An application finds `Direct` under `scope["extensions"]["farebox.direct"]` and may use it where it can; ASGI's
`receive` and `send` go on working, and everything unusual (HEAD, `Expect`, a client that does not keep up, a
connection that is to close) is left to them.

Invariants: an answer goes out whole or by `send`, never partly by both; no header can end its own line, because the
line ends are counted.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.core.headers import Headers

EXTENSION = "farebox.direct"
_BODILESS = frozenset({204, 304})
_PLAIN_PATH = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/:@")


class Direct(RequestResponseCycle):
    """One request and its answer."""

    def take_body(self) -> bytes | None:
        """The whole body, where it has come already; None: `receive` it."""
        if self.more_body or self.waiting_for_100_continue or self.disconnected or self.response_complete:
            return None
        self.flow.resume_reading()
        self.message_event.clear()
        body = bytes(self.body)
        self.body = bytearray()
        return body

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole answer in one write. False: nothing was sent, `send` it."""
        if self.response_started or self.disconnected or self.flow.write_paused or not self.keep_alive:
            return False
        if status in _BODILESS or self.scope["method"] == "HEAD":
            return False
        lines, length = [STATUS_LINE[status]], -1
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name in {b"connection", b"transfer-encoding"}:
                return False
            lines += (name, b": ", value, b"\r\n")
        if length < 0:
            lines.append(b"content-length: %d\r\n\r\n" % len(body))
        elif length == len(body):
            lines.append(b"\r\n")
        else:
            return False
        head = b"".join(lines)
        if head.count(b"\n") != len(headers) + (3 if length < 0 else 2):
            return False  # `send` says what is wrong with it
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = False
        self.transport.write(head + body)
        self.message_event.set()
        self.on_response()
        return True

    def write(self, data: bytes) -> bool:
        """Send a piece of an answer that has begun and goes on. False: nothing was sent, `send` it."""
        if (
            not self.chunked_encoding
            or self.flow.write_paused
            or self.disconnected
            or self.response_complete
            or not data
        ):
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True


class RelayProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _idle_since_s: float | None = None

    def on_headers_complete(self) -> None:
        """The head of a request is whole: give it to the application."""
        scope, parser, url = self.scope, self.parser, self.url
        if self.limit_concurrency is not None or self.root_path or (parser.should_upgrade() and self._should_upgrade()):
            super().on_headers_complete()
            return
        http_version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        if _PLAIN_PATH.issuperset(url) and url[:1] == b"/":
            scope["raw_path"], scope["query_string"] = url, b""
            scope["path"] = url.decode("ascii")
        else:
            _split(scope, url)
        earlier = self.cycle
        cycle = self.cycle = Direct(
            scope, self.transport, self.flow, self.logger, self.access_logger, self.access_log,
            self.server_state.default_headers, asyncio.Event(), self.expect_100_continue,
            http_version != "1.0" and parser.should_keep_alive(), self.on_response_complete,
        )  # fmt: skip
        scope["extensions"] = cast(Any, {EXTENSION: cycle})
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined: its turn comes when the one before is answered
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    # One timer a connection, looked after when it rings, instead of one a request.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def on_response_complete(self) -> None:
        """An answer is out: the next request of the connection may begin."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing has come for the time, else look again when it could be over."""
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None or self.transport.is_closing():
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)


def _split(scope: Any, url: bytes) -> None:
    """Path and query, as uvicorn reads them."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    scope["raw_path"], scope["query_string"] = parsed.path, parsed.query or b""
    scope["path"] = unquote(path) if "%" in path else path
