"""Many requests at once over sockets of their own, so that a thousand of them are really in flight together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LEAD = b": farebox "
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Reply:
    """One answer. `complete`: it came to its proper end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    @property
    def request_id(self) -> str:
        """As the gateway names it."""
        return self.headers["farebox-request-id"]

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(json.loads(self.body)["code"])

    @property
    def note(self) -> dict[str, Any]:
        """What the comment in a stream says of its cost."""
        (line,) = [line for line in self.body.split(b"\n") if line.startswith(_LEAD)]
        members: dict[str, Any] = json.loads(line.removeprefix(_LEAD))
        return members


@dataclass(frozen=True)
class Ask:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    method: str = "POST"

    def as_bytes(self) -> bytes:
        """On the wire; the server ends the connection."""
        head = [f"{self.method} {self.path} HTTP/1.1", "host: gateway", "connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            head += ["content-type: application/json", f"content-length: {len(self.body)}"]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + self.body


async def ask_all(port: int, asks: Iterable[Ask]) -> list[Reply]:
    """All at once: every connection is open before the first request is sent."""
    wires = [(ask, *await asyncio.open_connection("127.0.0.1", port)) for ask in asks]
    for ask, _, writer in wires:
        writer.write(ask.as_bytes())
    return list(await asyncio.gather(*(_read(reader, writer) for _, reader, writer in wires)))


async def ask_one(port: int, ask: Ask) -> Reply:
    """One request."""
    (reply,) = await ask_all(port, [ask])
    return reply


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            data = await reader.read(-1)
    finally:
        writer.close()
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    content, complete = _dechunked(rest) if headers.get("transfer-encoding") == "chunked" else (rest, True)
    if "content-length" in headers:
        complete = len(content) == int(headers["content-length"])
    return Reply(int(first.split()[1]), headers, content, complete)


def _dechunked(data: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    while True:
        size, found, rest = data.partition(b"\r\n")
        if not found:
            return b"".join(parts), False
        length = int(size, 16)
        if length == 0:
            return b"".join(parts), True
        parts.append(rest[:length])
        data = rest[length + 2 :]
