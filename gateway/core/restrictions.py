"""What a token allows: its caveats folded once into restrictions, the restrictions judged for each request.

Caveats only ever restrict: every one of them is enforced, a repeat must lie within what came before it, and whatever
cannot be enforced denies. Counters (`n_uses`, `max_sats`) are kept under the HMAC right after their caveat, so that
appending another caveat, or the same one again, never starts them afresh.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import assert_never
from urllib.parse import unquote

from gateway.core.caveats import (
    Capabilities,
    Caveat,
    Ignored,
    Methods,
    PathPrefix,
    Preimage,
    Services,
    Spend,
    Unreadable,
    Uses,
    ValidUntil,
    is_under,
    parse_caveat,
    segments_of,
)
from gateway.core.holds import Measure, ScopeClaim


@dataclass(slots=True, unsafe_hash=True)
class RequestContext:
    """The facts that caveats are judged on. `path` is decoded once, without query. `names` are what a capability can
    mean here: the operation, the upstream. `service` None: what every service shares (a balance)."""

    now_s: int
    service: str | None
    method: str
    path: str
    route: str = ""
    model: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What all caveats of one macaroon amount to. `expires_at_s` is the earliest of all instants."""

    services: frozenset[str]
    expires_at_s: int
    capabilities: tuple[tuple[str, frozenset[str]], ...] = ()
    methods: frozenset[str] | None = None
    path_prefix: str | None = None
    preimage: bytes | None = None
    claims: tuple[ScopeClaim, ...] = ()
    attenuated: bool = False


@dataclass(slots=True, unsafe_hash=True)
class Allowed:
    """The caveats let the request through, if the counters do."""

    counters: tuple[ScopeClaim, ...]


@dataclass(frozen=True, slots=True)
class Denied:
    """A caveat forbids it. `expired`: time alone forbids, so that paying anew would help."""

    reason: str
    expired: bool = False


def restrictions_of(
    links: Sequence[tuple[bytes, bytes]], *, payment_hash: bytes, own: int, ignorable: Collection[str] = ()
) -> Restrictions | Denied:
    """All caveats of one macaroon, each with the HMAC right after it. `own`: how many of them, at the start, are ours.

    A macaroon without `services` is refused, and so is one without an expiry.
    """
    folding = _Folding(payment_hash)
    for index, (text, signature) in enumerate(links):
        caveat = parse_caveat(text, services=folding.services or (), ignorable=ignorable)
        denied = folding.take(caveat, signature)
        if denied is not None:
            return denied
        if index >= own and not isinstance(caveat, Preimage):
            folding.attenuated = True
    return folding.restrictions()


def judge(restrictions: Restrictions | Denied, context: RequestContext) -> Allowed | Denied:
    """Whether the request is within the restrictions now."""
    if isinstance(restrictions, Denied):
        return restrictions
    if context.now_s >= restrictions.expires_at_s:
        return Denied("the token has expired", expired=True)
    if context.service is not None and context.service not in restrictions.services:
        return Denied("the token is for another service")
    for service, names in restrictions.capabilities:
        if service == context.service and context.route not in names and names.isdisjoint(context.names):
            return Denied("the token's capabilities do not include this")
    if restrictions.methods is not None and context.method.upper() not in restrictions.methods:
        return Denied("the token is not for this method")
    if restrictions.path_prefix is not None and not is_under(_request_path(context.path), restrictions.path_prefix):
        return Denied("the token is not for this path")
    return Allowed(restrictions.claims)


class _Folding:
    """Caveats taken one after the other; each must lie within what came before."""

    def __init__(self, payment_hash: bytes) -> None:
        self._payment_hash = payment_hash
        self.services: frozenset[str] | None = None
        self.attenuated = False
        self._until_s: dict[str | None, int] = {}
        self._capabilities: dict[str, frozenset[str]] = {}
        self._methods: frozenset[str] | None = None
        self._prefix: str | None = None
        self._preimage: bytes | None = None
        self._counts: dict[Measure, int] = {}
        self._claims: list[ScopeClaim] = []

    def take(self, caveat: Caveat, signature: bytes) -> Denied | None:  # noqa: C901, PLR0912 - one case a caveat
        """Add one; Denied when it cannot be enforced or would widen."""
        widened = Denied("a repeated caveat would widen the token")
        match caveat:
            case Unreadable(reason):
                return Denied(reason)
            case Services(names):
                if self.services is not None and not names <= self.services:
                    return widened
                self.services = names
            case Capabilities(service, names):
                if not names <= self._capabilities.get(service, names):
                    return widened
                self._capabilities[service] = names
            case ValidUntil(service, until_s):
                if until_s > self._until_s.get(service, until_s):
                    return widened
                self._until_s[service] = until_s
            case Methods(names):
                if self._methods is not None and not names <= self._methods:
                    return widened
                self._methods = names
            case PathPrefix(prefix):
                if self._prefix is not None and not is_under(prefix, self._prefix):
                    return widened
                self._prefix = prefix
            case Preimage(preimage):
                if sha256(preimage).digest() != self._payment_hash:
                    return Denied("the preimage in a caveat is not the payment's")
                self._preimage = preimage
            case Uses(most):
                return self._count(Measure.USES, most, signature)
            case Spend(most_msat):
                return self._count(Measure.MONEY, most_msat, signature)
            case Ignored():
                return None
            case _:
                assert_never(caveat)
        return None

    def _count(self, measure: Measure, most: int, signature: bytes) -> Denied | None:
        if most > self._counts.get(measure, most):
            return Denied("a repeated caveat would widen the token")
        self._counts[measure] = most
        scope = f"caveat:{signature.hex()}"
        self._claims.append(ScopeClaim(scope=scope, window="total", measure=measure, limit=most))
        return None

    def restrictions(self) -> Restrictions | Denied:
        """The whole."""
        if not self.services:
            return Denied("the token names no service")
        if not self._until_s:
            return Denied("the token has no expiry")
        return Restrictions(
            services=self.services,
            expires_at_s=min(self._until_s.values()),
            capabilities=tuple(self._capabilities.items()),
            methods=self._methods,
            path_prefix=self._prefix,
            preimage=self._preimage,
            claims=tuple(self._claims),
            attenuated=self.attenuated,
        )


def _request_path(path: str) -> str | None:
    """The path of a request, refused also where decoding it once more would climb."""
    return segments_of(path) if segments_of(unquote(path)) is not None else None
