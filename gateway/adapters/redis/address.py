"""Where the store is, as a URL says it, parsed once.

`redis://`, `rediss://` and `unix://` are redis-py's own forms. Sentinel and Cluster take several hosts, which
those forms cannot carry:

    redis+sentinel://[user:password@]host:port,host:port/service?db=0&sentinel_username=..&sentinel_password=..
    redis+cluster://[user:password@]host:port,host:port

(`rediss+sentinel`, `rediss+cluster` with TLS). A key of the query that is not known is refused: a mistyped
`ssl_ca_certs` must not silently become a connection that trusts anybody. Printed addresses never carry the password.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from gateway.core.errors import InvalidRequest

_DEFAULT_PORT = 6379
_DEFAULT_SENTINEL_PORT = 26379
_TLS_KEYS = frozenset(
    f"ssl_{name}"
    for name in (
        "keyfile",
        "certfile",
        "cert_reqs",
        "ca_certs",
        "ca_data",
        "ca_path",
        "check_hostname",
        "password",
        "ciphers",
    )
)
_KEYS = _TLS_KEYS | {"db", "username", "password"}
_SENTINEL_KEYS = frozenset({"sentinel_username", "sentinel_password"})


class Layout(StrEnum):
    """How the servers behind a URL stand to each other."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """One server and how to enter it. `path` is a Unix socket; else host and port."""

    host: str = "localhost"
    port: int = _DEFAULT_PORT
    path: str | None = None
    username: str | None = None
    password: str | None = None
    db: int = 0
    tls: ssl.SSLContext | None = None

    def at(self, host: str, port: int) -> Address:
        """The same way in, at another server of the same store."""
        return replace(self, host=host, port=port, path=None)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:  # the dataclass's own would print the password
        return f"Address({self})"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed URL. `seeds` are the hosts it names: the server, the sentinels, or some nodes of the cluster."""

    layout: Layout
    address: Address
    seeds: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = None

    def __repr__(self) -> str:
        return f"StoreUrl({self.layout}, {self.address})"


def parse_store_url(url: str) -> StoreUrl:
    """Read a store's URL. Errors: InvalidRequest(param="redis.url")."""
    scheme = url.partition("://")[0]
    base, _, layout = scheme.partition("+")
    if (
        base not in ("redis", "rediss", "unix")
        or layout not in ("", "sentinel", "cluster")
        or (base == "unix" and layout)
    ):
        raise _wrong(
            f"scheme {scheme!r} is not one of redis, rediss, unix, and redis or rediss with +sentinel or +cluster"
        )
    if not layout:
        address = _address(url)
        return StoreUrl(Layout.SINGLE, address, ((address.host, address.port),))
    return _several(url, base, Layout(layout))


def _several(url: str, base: str, layout: Layout) -> StoreUrl:
    parts = urlsplit(url)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    default_port = _DEFAULT_SENTINEL_PORT if layout is Layout.SENTINEL else _DEFAULT_PORT
    seeds = tuple(_seed(host, default_port) for host in hosts.split(",") if host)
    if not seeds:
        raise _wrong("no host: name one or more as host:port,host:port")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    extra = {name: query.pop(name) for name in sorted(_SENTINEL_KEYS & query.keys()) if layout is Layout.SENTINEL}
    kept = parts.query if not extra else "&".join(f"{name}={value}" for name, value in query.items())
    service = unquote(parts.path.strip("/")) if layout is Layout.SENTINEL else ""
    if layout is Layout.SENTINEL and not service:
        raise _wrong("a Sentinel URL ends in the name of its service: redis+sentinel://host:26379/service")
    address = _address(f"{base}://{userinfo}{at}placeholder/?{kept}")
    if layout is Layout.CLUSTER and (address.db or parts.path.strip("/")):
        raise _wrong("a cluster has only database 0: leave the path and db away")
    return StoreUrl(
        layout,
        address.at(*seeds[0]),
        seeds,
        service=service,
        sentinel_username=extra.get("sentinel_username"),
        sentinel_password=extra.get("sentinel_password"),
    )


def _seed(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "localhost", parts.port or default_port
    except ValueError as error:
        raise _wrong(f"{text!r} is not host:port") from error


def _address(url: str) -> Address:
    """One address by redis-py's own rules."""
    try:
        known: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise _wrong(str(error)) from error
    connection_class = known.pop("connection_class", None)
    host = known.pop("host", "localhost")
    port = known.pop("port", _DEFAULT_PORT)
    path = known.pop("path", None)
    if url.startswith("unix://") and not path:
        raise _wrong("a unix URL names the socket's path: unix:///run/valkey.sock")
    tls_options = {name: known[name] for name in sorted(known.keys() & _TLS_KEYS)}
    unknown = sorted(known.keys() - _KEYS)
    if unknown:
        raise _wrong(f"{unknown[0]!r} is not known; known are {', '.join(sorted(_KEYS | _SENTINEL_KEYS))}")
    tls: ssl.SSLContext | None = None
    if connection_class is SSLConnection:
        try:
            tls = SSLConnection(**tls_options).ssl_context.get()
        except (OSError, ValueError, TypeError) as error:
            raise _wrong(f"the TLS options do not work: {error}") from error
    elif tls_options:
        raise _wrong(f"{next(iter(tls_options))} needs rediss://")
    return Address(
        host=host,
        port=port,
        path=path,
        username=known.get("username"),
        password=known.get("password"),
        db=int(known.get("db", 0)),
        tls=tls,
    )


def _wrong(detail: str) -> InvalidRequest:
    return InvalidRequest(f"redis.url: {detail}", param="redis.url")
