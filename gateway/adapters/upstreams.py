"""All configured upstreams: builds the head of a request as each wants it, and opens it on that upstream's pool."""

from __future__ import annotations

import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.adapters.upstream import UpstreamPool, UpstreamTarget
from gateway.core.errors import NotFound
from gateway.core.headers import Headers
from gateway.ports import Answer, UpstreamRequest


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One upstream: where it is, and the headers that we add (its credential among them; never shown in a repr)."""

    target: UpstreamTarget
    headers: Headers

    def __repr__(self) -> str:
        return (
            f"UpstreamSettings({self.target.scheme}://{self.target.host}:{self.target.port}{self.target.path_prefix})"
        )


class UpstreamSet:
    """Pools by name. Made inside a running loop."""

    def __init__(self, settings: Mapping[str, UpstreamSettings], *, tls: ssl.SSLContext | None = None) -> None:
        self._pools = {name: UpstreamPool(each.target, tls=tls) for name, each in settings.items()}
        self._prefixes = {name: each.target.path_prefix.encode() for name, each in settings.items()}
        self._fixed = {name: _fixed_lines(each) for name, each in settings.items()}
        self._own = {name: frozenset(header for header, _ in each.headers) for name, each in settings.items()}

    def open(self, request: UpstreamRequest) -> Coroutine[Any, Any, Answer]:
        """Send a request and wait for the answer's head. Errors: UpstreamFailed, UpstreamTimeout; NotFound for a name
        that is not configured."""
        pool = self._pools.get(request.upstream)
        if pool is None:
            raise NotFound(f"no upstream {request.upstream!r}", code="unknown_route")
        return pool.open(self._head(request), request.body if request.upload is None else b"", request.upload)

    def _head(self, request: UpstreamRequest) -> bytes:
        name = request.upstream
        own = self._own[name]
        query = b"?" + request.query if request.query else b""
        lines = [
            request.method.encode(), b" ", self._prefixes[name], request.path.encode("ascii"), query, b" HTTP/1.1\r\n",
            self._fixed[name],
        ]  # fmt: skip
        for header, value in request.headers:
            if header not in own:
                lines += (header, b": ", value, b"\r\n")
        if request.upload is not None:
            if request.upload_bytes:
                lines.append(b"content-length: %d\r\n" % request.upload_bytes)
            else:
                lines.append(b"transfer-encoding: chunked\r\n")
        elif request.body or request.method in {"POST", "PUT", "PATCH"}:
            lines.append(b"content-length: %d\r\n" % len(request.body))
        lines.append(b"\r\n")
        return b"".join(lines)

    @property
    def open_connections(self) -> dict[str, int]:
        """Sockets by upstream."""
        return {name: pool.open_connections for name, pool in self._pools.items()}

    def close(self) -> None:
        """End all connections."""
        for pool in self._pools.values():
            pool.close()


def _fixed_lines(settings: UpstreamSettings) -> bytes:
    lines = [b"host: ", settings.target.host_header, b"\r\naccept-encoding: identity\r\n"]
    for header, value in settings.headers:
        lines += (header, b": ", value, b"\r\n")
    return b"".join(lines)
