"""Reads request bodies: JSON whole, up to a limit; uploads as they come, at a least rate.

Bodies are read before the hold, so that a slow sender holds nobody's money; uploads stream, so a least rate stands in.
An upload whose sender names its digest (RFC 9530) is held to it: its last part goes nowhere unless all of it fits, so
that what somebody approved is what is sent.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from typing import Any

from gateway.core.errors import InvalidRequest, TooLarge
from gateway.core.headers import Headers, header_value
from gateway.core.multipart import MultipartFields

Receive = Callable[[], Awaitable[dict[str, Any]]]

_SHA256 = re.compile(rb"(?:^|[,\s])sha-256=:([^:]*):")
# A sender may begin slowly: the least rate counts from here on.
_RATE_GRACE_S = 10.0
# A JSON body that is not there by then will not come.
_BODY_TIMEOUT_S = 60.0


class ClientGone(Exception):
    """The client hung up before its request was complete. Nobody is left to answer."""


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """The whole body. Errors: TooLarge; ClientGone; InvalidRequest when it does not come in time."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        check_size(len(body), limit_bytes)
        return body
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await _read_rest(receive, body, limit_bytes)
    except TimeoutError:
        raise InvalidRequest(f"the body did not come within {_BODY_TIMEOUT_S:g} s", param="body") from None


async def _read_rest(receive: Receive, first: bytes, limit_bytes: int) -> bytes:
    parts, size = [first], len(first)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        check_size(size, limit_bytes)
        if not message.get("more_body", False):
            return b"".join(parts)


def digest_of(headers: Headers) -> str:
    """SHA-256 in hex as `Content-Digest` names it, "" where it does not. Errors: InvalidRequest where it cannot be
    read."""
    value = header_value(headers, b"content-digest")
    found = _SHA256.search(value) if value is not None else None
    if found is None:
        return ""
    try:
        digest = b64decode(found[1], validate=True)
    except ValueError:
        digest = b""
    if len(digest) != sha256().digest_size:
        raise InvalidRequest("sha-256 is 32 bytes in base64, between colons", param="content-digest")
    return digest.hex()


def check_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise TooLarge(f"the body is larger than {limit_bytes} bytes", param="body")


class Upload:
    """A body that streams. `first` reads ahead for its small fields; iterating gives everything from the start."""

    def __init__(
        self, receive: Receive, *, limit_bytes: int, least_bytes_per_s: int, grace_s: float = _RATE_GRACE_S,
        digest: str = "",
    ) -> None:  # fmt: skip
        self._digest = digest
        self._hash = sha256() if digest else None
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._least_bytes_per_s = least_bytes_per_s
        self._grace_s = grace_s
        self._loop = asyncio.get_running_loop()
        self._waited_s = 0.0  # for the sender alone: an upstream that takes slowly is not the sender's fault
        self._ahead: list[bytes] = []
        self._size = 0
        self._more = True
        self._form: MultipartFields | None = None

    async def first(self, form: MultipartFields, most_bytes: int) -> None:
        """Read ahead until the form's small fields are known, the body ends or `most_bytes` have come. The form goes on
        reading what streams later: a field that bears cost and comes too late is refused."""
        self._form = form
        while self._more and self._size < most_bytes and not form.complete:
            self._ahead.append(await self._next())

    async def whole(self, most_bytes: int) -> bytes | None:
        """The body if it ends within `most_bytes`; None when it is longer, and is to be streamed."""
        while self._more and self._size < most_bytes:
            self._ahead.append(await self._next())
        return None if self._more else b"".join(self._ahead)

    async def _next(self) -> bytes:
        started = self._loop.time()
        budget_s = self._grace_s + self._size / max(self._least_bytes_per_s, 1) - self._waited_s
        try:
            async with asyncio.timeout(max(budget_s, 0.0)):
                message = await self._receive()
        except TimeoutError:
            raise InvalidRequest(
                f"the upload is slower than {self._least_bytes_per_s} bytes a second", param="body"
            ) from None
        self._waited_s += self._loop.time() - started
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        self._size += len(part)
        check_size(self._size, self._limit_bytes)
        self._more = message.get("more_body", False)
        if self._form is not None:
            self._form.feed(part)
        if self._hash is not None:
            self._hash.update(part)
            if not self._more and self._hash.hexdigest() != self._digest:
                raise InvalidRequest("the body has another SHA-256 than the header says", param="content-digest")
        return part

    async def pieces(self, *, chunked: bool) -> AsyncIterator[bytes]:
        """The body from its start; in HTTP chunks when the upstream is not told its length."""
        ahead, self._ahead = self._ahead, []
        for part in ahead:
            if part:
                yield _framed(part) if chunked else part
        while self._more:
            part = await self._next()
            if part:
                yield _framed(part) if chunked else part
        if chunked:
            yield b"0\r\n\r\n"


def _framed(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)
