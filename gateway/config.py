"""Configuration: one YAML file and the environment, read once into frozen objects.

The names of the keys are a contract; `config.example.yaml` documents every one. Nothing is silently ignored: an unknown
key of the file or of the environment stops the start, with its path. Secrets never appear in a repr.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.config_environment import with_environment
from gateway.config_reader import ConfigError, FieldProblem, load_yaml, read
from gateway.core.operations import Dialect, Operation

# First path segments that the gateway serves itself; an upstream of that name could never be addressed.
RESERVED_NAMES = frozenset(
    ("api", "admin", "l402", "hooks", "health", "metrics", "dashboard", "console", "pay", "static", "deliverables")
)


# Signatures with a public key: with a shared one whoever verifies could also sign.
JWT_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class Payer(StrEnum):
    """Who a route admits: agents with an L402 credential, accounts with an app key."""

    AGENT = "agent"
    ACCOUNT = "account"


def _above_zero(record: object, *names: str) -> None:
    for name in names:
        if getattr(record, name) <= 0:
            raise FieldProblem(name, "must be above zero")


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """`url` empty: an embedded server under `data_dir`."""

    url: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """An AI API behind the gateway. `provider`: whose prices apply (default: by dialect)."""

    dialect: Dialect
    base_url: str
    api_key: str = field(default="", repr=False)
    provider: str | None = None
    drain_on_disconnect: bool = False  # True: the upstream bills the whole answer although the client has gone
    connect_timeout_s: float = 10.0
    first_byte_timeout_s: float = 600.0  # SDKs wait up to 600 s
    read_idle_timeout_s: float = 120.0
    connections_idle_most: int = 256  # a default of two idle connections churns
    connections_most: int = 2_048
    connection_idle_s: float = 55.0  # below the minute after which most servers and balancers close
    upload_least_bytes_per_s: int = 1_024
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^/?#\s]+[^?#\s]*", self.base_url):
            raise FieldProblem("base_url", "must be http://host[:port][/path] or https://..., without query")
        _above_zero(self, "connect_timeout_s", "first_byte_timeout_s", "read_idle_timeout_s", "connections_most")
        if "@" in self.base_url:
            raise FieldProblem("base_url", "must carry no user or password; give api_key instead")


@dataclass(frozen=True, slots=True)
class FlatPrice:
    """What one call of a `raw` route costs."""

    usd_per_call: Decimal

    def __post_init__(self) -> None:
        if self.usd_per_call < 0:
            raise FieldProblem("usd_per_call", "must not be negative")


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """A path (literal, `{name}` for one segment, a last `*` for the rest) bound to an upstream, a price and payers.

    `price`: absent for the price book, a flat price, or the name of a rule in policies/prices. `models`: globs."""

    path: str
    upstream: str
    methods: tuple[str, ...] = ("POST",)
    models: tuple[str, ...] = ()
    operation: Operation | None = None
    price: str | FlatPrice | None = None
    payers: tuple[Payer, ...] = (Payer.AGENT, Payer.ACCOUNT)

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise FieldProblem("path", "must begin with /")
        first = self.path.split("/")[1]
        if first in RESERVED_NAMES and self.path not in ("/api/chat", "/api/generate"):
            raise FieldProblem("path", f"/{first} is served by Farebox itself; choose another first segment")
        if not self.methods or any(not method.isupper() for method in self.methods):
            raise FieldProblem("methods", "must be upper-case HTTP methods, at least one")
        if not self.payers:
            raise FieldProblem("payers", "must name agent, account or both")


@dataclass(frozen=True, slots=True)
class LndConfig:
    """`tls_cert`: path of the PEM file. `macaroon`: path of the file, or its hex."""

    address: str = ""
    tls_cert: str = ""
    macaroon: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class LightningConfig:
    """Agents can pay when `lnd.address` is set. `service` is what tokens are bound to."""

    lnd: LndConfig = field(default_factory=LndConfig)
    service: str = "farebox"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", self.service):
            raise FieldProblem("service", "must be 1 to 32 of a-z 0-9 _ -")
        if self.lnd.address and not self.lnd.macaroon:
            raise FieldProblem("lnd.macaroon", "missing; an address needs a macaroon")


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """A rate feed over HTTP: `path` leads through its JSON to USD per BTC, e.g. `data.amount` or `result.0.last`."""

    url: str
    path: str


@dataclass(frozen=True, slots=True)
class RatesConfig:
    """BTC/USD: a fixed rate, or the median of feeds. `spread`: the share by which our rate is worse for the payer."""

    fixed_usd_per_btc: Decimal | None = None
    feeds: tuple[FeedConfig, ...] = ()
    stale_s: int = 600
    refresh_s: int = 60
    timeout_s: float = 5.0
    spread: Decimal = Decimal("0.01")

    def __post_init__(self) -> None:
        if self.fixed_usd_per_btc is not None and not 0 < self.fixed_usd_per_btc <= 10**9:
            raise FieldProblem("fixed_usd_per_btc", "must be above zero, at most 1000000000")
        if not 0 <= self.spread < 1:
            raise FieldProblem("spread", 'must be a share from "0" to below "1"')
        _above_zero(self, "stale_s", "refresh_s", "timeout_s")

    @property
    def fixed_microusd_per_btc(self) -> int | None:
        """The fixed rate as `core.money.Rate` wants it."""
        return None if self.fixed_usd_per_btc is None else int(self.fixed_usd_per_btc * 1_000_000)

    @property
    def spread_ppm(self) -> int:
        """The spread in millionths."""
        return int(self.spread * 1_000_000)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Limits of the machine, not of money: everything that grows has one."""

    challenges_per_minute: int = 60  # of one address prefix (/24, /48)
    open_invoices_per_address: int = 8
    open_invoices_per_prefix: int = 256
    open_invoices_most: int = 10_000
    body_most_bytes: int = 32 * 1024 * 1024  # JSON bodies, read whole before the hold
    upload_most_bytes: int = 512 * 1024 * 1024  # multipart bodies, streamed
    header_most_bytes: int = 64 * 1024
    whole_answer_most_bytes: int = 1024 * 1024  # JSON answers up to here are settled before their headers go out
    open_requests_most: int = 10_000
    stalled_reader_s: float = 60.0  # a client that takes nothing for so long is cut
    grace_s: float = 30.0  # SIGTERM: how long running streams may go on

    def __post_init__(self) -> None:
        _above_zero(self, *(each.name for each in fields(self)))


@dataclass(frozen=True, slots=True)
class SecretsConfig:
    """`macaroon_master`: version -> 64 hex digits; the greatest version signs, all verify. Empty: the file is used,
    and made (mode 0600) under `data_dir` when it does not exist. `macaroon_file` is relative to `data_dir`."""

    macaroon_master: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    macaroon_file: str = "macaroon.secret"

    def __post_init__(self) -> None:
        for version, secret in self.macaroon_master.items():
            if not 0 <= version <= 0xFFFF:
                raise FieldProblem(f"macaroon_master.{version}", "a version is a number from 0 to 65535")
            if not re.fullmatch(r"[0-9a-fA-F]{64}", secret):
                raise FieldProblem(f"macaroon_master.{version}", "must be 64 hex digits (32 random bytes)")


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """An identity provider whose tokens (JWT) name persons. `jwks`: its keys, an address or a path. `account`: whose
    persons they are; `key`: under whose limits a request with the token alone runs."""

    issuer: str
    audience: str
    jwks: str
    person_claim: str = "sub"
    account: str = ""
    key: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    leeway_s: int = 30

    def __post_init__(self) -> None:
        if not self.jwks:
            raise FieldProblem("jwks", "must be the address of the provider's key set, or a path")
        for name in self.algorithms:
            if name not in JWT_ALGORITHMS:
                raise FieldProblem("algorithms", f"must be some of {', '.join(JWT_ALGORITHMS)}")
        if self.account and not re.fullmatch(r"org_[0-9a-f]{4,64}", self.account):
            raise FieldProblem("account", "must be the id of an account: org_...")
        if self.key and not re.fullmatch(r"ak_[0-9a-f]{16}", self.key):
            raise FieldProblem("key", "must be the id of a key: ak_...")


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """Identity providers."""

    providers: tuple[ProviderConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class WebhooksConfig:
    """Outgoing webhooks. `allow_private_addresses`: receivers on the operator's own network, and plain http."""

    allow_private_addresses: bool = False
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        _above_zero(self, "timeout_s")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    listen: str = "127.0.0.1:8402"
    workers: int = 1
    public_url: str = ""  # as clients reach us; empty: from the request's Host
    data_dir: str = "./farebox-data"
    policies_dir: str = ""  # empty: the policies shipped with Farebox
    redis: RedisConfig = field(default_factory=RedisConfig)
    upstreams: Mapping[str, UpstreamConfig] = field(default_factory=lambda: MappingProxyType({}))
    routes: tuple[RouteConfig, ...] = ()
    default_routes: bool = True  # the routes out of the box, after those of `routes`
    lightning: LightningConfig = field(default_factory=LightningConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    trusted_proxies: tuple[str, ...] = ()
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    secrets: SecretsConfig = field(default_factory=SecretsConfig)
    webhooks: WebhooksConfig = field(default_factory=WebhooksConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)

    def __post_init__(self) -> None:
        _listen_parts(self.listen)
        if not 1 <= self.workers <= 256:
            raise FieldProblem("workers", "must be from 1 to 256")
        for name in self.upstreams:
            if name in RESERVED_NAMES:
                raise FieldProblem(f"upstreams.{name}", "this name is a path of Farebox's own; choose another")
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,31}", name) or name in ("v1", "v1beta"):
                raise FieldProblem(f"upstreams.{name}", "a name is 1 to 32 of a-z 0-9 _ . - (and not v1 or v1beta)")
        for index, proxy in enumerate(self.trusted_proxies):
            _network(f"trusted_proxies[{index}]", proxy)
        for index, route in enumerate(self.routes):
            if route.upstream not in self.upstreams:
                raise FieldProblem(f"routes[{index}].upstream", unknown_upstream(route.upstream, self.upstreams))

    @property
    def host(self) -> str:
        """The address part of `listen`, without brackets."""
        return _listen_parts(self.listen)[0]

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return _listen_parts(self.listen)[1]


def unknown_upstream(name: str, upstreams: Mapping[str, UpstreamConfig]) -> str:
    """The message for a route that names no upstream."""
    return f"no upstream is named {name!r}; there are {', '.join(upstreams) or 'none'}"


def _network(name: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise FieldProblem(name, f'{error}; write an address or a network, e.g. "10.0.0.0/8"') from None


def _listen_parts(listen: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+):([0-9]{1,5})", listen)
    if found is None or int(found[2]) > 65_535:
        raise FieldProblem("listen", 'must be "address:port", e.g. "127.0.0.1:8402" or "[::]:8402"')
    return found[1].strip("[]"), int(found[2])


def load_config(path: str | Path | None, *, environ: Mapping[str, str] | None = None) -> Config:
    """Read the file (None: only the environment; `environ` None: the process's own).

    Errors: ConfigError with every problem; OSError if the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    data = load_yaml(Path(path).read_text(encoding="utf-8"), source=str(path)) if path else {}
    return config_from(data, environ=environ)


def config_from(data: Any, *, environ: Mapping[str, str]) -> Config:
    """Build the configuration from parsed YAML, `${ENV}` in values, and `FAREBOX_` variables over both."""
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(["file: must be a mapping of keys"])
    data = with_environment(data, Config, environ)
    return read(Config, data)
