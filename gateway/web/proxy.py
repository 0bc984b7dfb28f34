"""The relay's edge: raw ASGI, because a framework's request object costs more than the whole metering.

Reads a request once into typed values, hands it to the flow, renders refusals in the caller's dialect. It knows nothing
of money.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.core.call import Call
from gateway.core.credentials import Credential, CredentialReader, Malformed, NoCredential, Proved
from gateway.core.errors import Problem, TooLarge, Unavailable
from gateway.core.headers import Headers, content_type_of, header_value, is_grpc
from gateway.core.multipart import MultipartFields, boundary_of
from gateway.flows.proxying import Relay
from gateway.flows.trace import Trace
from gateway.ports import System
from gateway.web.addresses import Addresses
from gateway.web.bodies import ClientGone, Receive, Upload, check_size, digest_of, read_body
from gateway.web.http_protocol import EXTENSION, Direct
from gateway.web.outlet import Outlet, Send
from gateway.web.problems import render_failure, render_problem

log = logging.getLogger("farebox.relay")

# What of an upload is read ahead for its small fields.
UPLOAD_AHEAD_BYTES = 64 * 1024
# 104 bits: no two requests of one payer ever meet.
TAIL_BYTES = 13
TAILS_AT_ONCE = 64
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Observer(Protocol):
    """Counts and logs finished requests."""

    def finished(self, call: Call, trace: Trace) -> None: ...


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Limits of the edge, from the configuration."""

    body_most_bytes: int
    upload_most_bytes: int
    header_most_bytes: int
    open_requests_most: int
    upload_least_bytes_per_s: int = 1_024


class Proxy:
    """An ASGI application for every path that Farebox does not serve itself. `draining`: refuse new work."""

    def __init__(
        self, relay: Relay, *, system: System, addresses: Addresses, observer: Observer, limits: EdgeLimits,
        proved: Proved,
    ) -> None:  # fmt: skip
        self._relay = relay
        self._system = system
        self._addresses = addresses
        self._observer = observer
        self._limits = limits
        self._time: Callable[[], float] = asyncio.get_running_loop().time
        self.read_credential = CredentialReader(proved)
        self._tails: list[str] = []
        self.open_requests = 0
        self.draining = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        headers: Headers = scope["headers"].copy()  # the server adds trailers to its own list
        tail = self._tails.pop() if self._tails else self._new_tails()
        call = Call(
            scope["method"], scope["raw_path"].decode("ascii"), scope["query_string"], headers,
            self._addresses.of(scope, headers), tail, f"req_00{tail}", self._time(),
        )  # fmt: skip
        trace = Trace()
        extensions = scope.get("extensions")
        # Taken out: a scope and a cycle that hold each other wait for the collector (80 ms after 3,000 requests).
        direct: Direct | None = extensions.pop(EXTENSION, None) if extensions else None
        outlet = Outlet(receive, send, direct)
        self.open_requests += 1
        try:
            credential = self._enter(call)
            taken = direct.take_body() if direct is not None and self._is_whole(call) else None
            if taken is None:
                await self._read(call, credential, receive)
            else:
                check_size(len(taken), self._limits.body_most_bytes)
                call.body = taken
            await self._relay.serve(call, credential, outlet, trace)
        except ClientGone:
            trace.reason = "client_gone"
        except Problem as problem:
            trace.status, trace.reason = problem.status, problem.code
            await self._refuse(call, outlet, render_problem, problem)
        except Exception:
            log.exception("request %s failed", call.request_id)
            trace.status, trace.reason = 500, "internal"
            await self._refuse(call, outlet, render_failure)
        finally:
            self.open_requests -= 1
            if trace.match is None:  # refused before it was read: the route is told all the same
                trace.match = self._relay.match_of(call)
            self._observer.finished(call, trace)

    def _new_tails(self) -> str:
        """The random part of an id; of one reading of the machine's randomness come many (a reading costs 3 us)."""
        digits = self._system.token_hex(TAIL_BYTES * TAILS_AT_ONCE)
        length = 2 * TAIL_BYTES
        self._tails = [digits[at : at + length] for at in range(0, len(digits), length)]
        return self._tails.pop()

    def _enter(self, call: Call) -> Credential:
        """The credential of a request that may come in. Errors: Unavailable, AmbiguousCredential."""
        if self.draining:
            raise Unavailable("the gateway is being restarted", code="draining", retry_after_s=1)
        if self.open_requests > self._limits.open_requests_most:
            raise Unavailable("too many requests are open", code="overloaded", retry_after_s=1)
        return self.read_credential(call.headers, call.query)

    def _is_whole(self, call: Call) -> bool:
        """Whether the request has a body that is read whole before anything else is done."""
        if call.method in _BODILESS or self._relay.is_raw(call):
            return False
        return not content_type_of(call.headers).startswith(b"multipart/form-data")

    async def _read(self, call: Call, credential: Credential, receive: Receive) -> None:
        """Read the body of a request, or begin to."""
        if self._relay.is_raw(call):
            if not isinstance(credential, NoCredential | Malformed):  # who must pay first, sends the body later
                await self._begin_raw(call, receive)
        elif call.method not in _BODILESS:
            content_type = content_type_of(call.headers)
            if content_type.startswith(b"multipart/form-data"):
                await self._begin_upload(call, receive, header_value(call.headers, b"content-type") or b"")
            else:
                call.body = await read_body(receive, self._limits.body_most_bytes)

    async def _begin_upload(self, call: Call, receive: Receive, content_type: bytes) -> None:
        """Read the small fields of a form, and let the rest stream."""
        upload = self._upload(call, receive)
        call.form = MultipartFields(boundary_of(content_type))
        await upload.first(call.form, UPLOAD_AHEAD_BYTES)
        call.upload = upload.pieces(chunked=not call.upload_bytes)

    async def _begin_raw(self, call: Call, receive: Receive) -> None:
        """A body that nobody reads: what is small goes up whole, so that it can be sent again; the rest streams."""
        framing = (b"content-length", b"transfer-encoding")
        if not any(header_value(call.headers, name) for name in framing):
            return
        upload = self._upload(call, receive)
        whole = await upload.whole(UPLOAD_AHEAD_BYTES)
        if whole is None:
            call.upload = upload.pieces(chunked=not call.upload_bytes)
        else:
            call.body, call.upload_bytes = whole, 0

    def _upload(self, call: Call, receive: Receive) -> Upload:
        length = header_value(call.headers, b"content-length")
        call.upload_bytes = int(length) if length is not None and length.isdigit() else 0
        if call.upload_bytes > self._limits.upload_most_bytes:
            raise TooLarge(f"the upload is larger than {self._limits.upload_most_bytes} bytes", param="body")
        call.upload_digest = digest_of(call.headers)
        return Upload(
            receive,
            digest=call.upload_digest,
            limit_bytes=self._limits.upload_most_bytes,
            least_bytes_per_s=self._limits.upload_least_bytes_per_s,
        )

    async def _refuse(self, call: Call, outlet: Outlet, render: Callable[..., Any], *problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun: then the connection just breaks off."""
        if outlet.begun:
            return
        own: Headers = [(b"farebox-request-id", call.request_id.encode())]
        status, headers, body = render(*problem, self._relay.dialect_of(call), grpc=is_grpc(call.headers))
        await outlet.respond(status, [*headers, *own], body)
