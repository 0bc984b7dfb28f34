"""One restriction of a token: `key=value`, split at the first `=`, parsed into a value.

A caveat that nobody here knows becomes `Unreadable`, never nothing, because a restriction that cannot be enforced
must not be skipped (other implementations skip it). Policy may list keys that are safe to pass over.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote

from gateway.core.money import GREATEST_AMOUNT, MSAT_PER_SAT

# Seconds reach 10^11 in the year 5138; one client writes `valid_until` in milliseconds.
LEAST_MILLISECONDS = 10**11
# The ceiling that clients of `n_uses` and `max_sats` agree on.
GREATEST_COUNT = 2**32 - 1
_DIGITS = re.compile(r"[0-9]{1,15}\Z")
_SERVICE = re.compile(r"([A-Za-z0-9_.-]{1,64})(?::([0-9]{1,5}))?\Z")


@dataclass(frozen=True, slots=True)
class Services:
    """`services=name:tier[,...]`: the token is good for these and no others."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`<service>_capabilities=a,b`: of that service only these."""

    service: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class ValidUntil:
    """`<service>_valid_until` or, with no service, a client's own `valid_until`. Unix seconds."""

    service: str | None
    until_s: int


@dataclass(frozen=True, slots=True)
class Preimage:
    """`preimage=<hex>`: a way to send the preimage, not a restriction of what the token may do."""

    preimage: bytes


@dataclass(frozen=True, slots=True)
class Methods:
    """`method=GET[,POST]`."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class PathPrefix:
    """`path_prefix=/v1`: that path and what lies below it, by whole segments."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Uses:
    """`n_uses=5`: so many requests."""

    most: int


@dataclass(frozen=True, slots=True)
class Spend:
    """`max_sats=100`: so much money."""

    most_msat: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key that the policy lists as safe to pass over."""

    key: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Unknown, or known with a value that cannot be enforced."""

    reason: str


Caveat = Services | Capabilities | ValidUntil | Preimage | Methods | PathPrefix | Uses | Spend | Ignored | Unreadable


def parse_caveat(text: bytes, *, services: Collection[str], ignorable: Collection[str] = ()) -> Caveat:
    """One caveat. `services` are the names that the token's first `services` caveat lists: only of those a
    `<service>_...` caveat is known."""
    try:
        key, equals, value = text.decode("utf-8").partition("=")
    except UnicodeDecodeError:
        return Unreadable("a caveat is not text")
    if key in ignorable:
        return Ignored(key)
    if not equals:
        return Unreadable("a caveat has no value")
    if key in _KNOWN:
        return _KNOWN[key](value)
    for suffix, parse in (("_capabilities", _capabilities), ("_valid_until", _service_valid_until)):
        if key.endswith(suffix) and key.removesuffix(suffix) in services:
            return parse(key.removesuffix(suffix), value)
    return Unreadable("a caveat is not known here and cannot be enforced")


def _services(value: str) -> Caveat:
    matches = [_SERVICE.match(entry) for entry in value.split(",")]
    names = frozenset(match[1] for match in matches if match)
    return Services(names) if all(matches) else Unreadable("services must be name:tier[,name:tier]")


def _names(value: str) -> frozenset[str]:
    return frozenset(name for entry in value.split(",") if (name := entry.strip()))


def _capabilities(service: str, value: str) -> Caveat:
    return Capabilities(service, _names(value))


def _instant(service: str | None, value: str) -> Caveat:
    if not _DIGITS.match(value):
        return Unreadable("an expiry must be unix seconds or milliseconds")
    instant = int(value)
    return ValidUntil(service, instant // 1_000 if instant >= LEAST_MILLISECONDS else instant)


def _service_valid_until(service: str, value: str) -> Caveat:
    return _instant(service, value)


def _client_valid_until(value: str) -> Caveat:
    return _instant(None, value)


def _preimage(value: str) -> Caveat:
    try:
        preimage = bytes.fromhex(value)
    except ValueError:
        preimage = b""
    return Preimage(preimage) if len(preimage) == 32 else Unreadable("a preimage must be 64 hexadecimal digits")


def _method(value: str) -> Caveat:
    names = frozenset(name.upper() for name in _names(value))
    return Methods(names) if names else Unreadable("a method must be named")


def _path_prefix(value: str) -> Caveat:
    path = segments_of(unquote(value)) if "//" not in value.rstrip("/") else None
    return PathPrefix(path) if path is not None else Unreadable("a path prefix must be a plain absolute path")


def _uses(value: str) -> Caveat:
    most = int(value) if _DIGITS.match(value) else 0
    return Uses(most) if 0 < most <= GREATEST_COUNT else Unreadable("n_uses must be a positive integer")


def _spend(value: str) -> Caveat:
    most = int(value) if _DIGITS.match(value) else 0
    if not 0 < most <= GREATEST_COUNT:
        return Unreadable("max_sats must be a positive integer")
    return Spend(min(most * MSAT_PER_SAT, GREATEST_AMOUNT))


_KNOWN = {
    "services": _services,
    "valid_until": _client_valid_until,
    "preimage": _preimage,
    "method": _method,
    "path_prefix": _path_prefix,
    "n_uses": _uses,
    "max_sats": _spend,
}


def segments_of(path: str) -> str | None:
    """A decoded path without empty and `.` segments; None when it could mean another path to somebody else."""
    if not path.startswith("/") or "\\" in path:
        return None
    segments = [segment for segment in path.split("/") if segment not in ("", ".")]
    return None if ".." in segments else "/" + "/".join(segments)


def is_under(path: str | None, prefix: str) -> bool:
    if path is None:
        return False
    return prefix in ("/", path) or path.startswith(prefix + "/")
