"""Where a challenge counts while its invoice is open: the full address, its network, all of them.

Networks are /24 and /48, because one household or one machine of a cloud holds addresses of that many at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network

PREFIX_V4_BITS = 24
PREFIX_V6_BITS = 48
NO_ADDRESS = "unknown"


@dataclass(frozen=True, slots=True)
class ChallengePlace:
    """One open challenge. `nonce` names it; `prefix` None for a top-up, which only counts for its own token."""

    nonce: bytes
    address: str
    prefix: str | None
    life_ms: int


@dataclass(frozen=True, slots=True)
class ChallengeLimits:
    """How many; 0 lifts a limit."""

    challenges_per_minute: int
    unpaid_per_address: int
    open_per_prefix: int
    open_in_all: int


class Crowd(StrEnum):
    """Which limit refuses."""

    ADDRESS = "address"
    RATE = "rate"
    PREFIX = "prefix"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Crowded:
    """No room for another challenge; there may be after `retry_after_ms`."""

    crowd: Crowd
    retry_after_ms: int


def place_of(address: str, *, nonce: bytes, life_ms: int) -> ChallengePlace:
    """Where a challenge to this address counts. An address that is none (a socket file) counts as one of its own."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ChallengePlace(nonce, NO_ADDRESS, NO_ADDRESS, life_ms)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = PREFIX_V4_BITS if parsed.version == 4 else PREFIX_V6_BITS
    network = ip_network((parsed, bits), strict=False)
    return ChallengePlace(nonce, str(parsed), str(network.network_address), life_ms)


def place_of_top_up(token_id: bytes, *, nonce: bytes, life_ms: int) -> ChallengePlace:
    """A top-up counts for its token alone: strangers cannot crowd it out."""
    return ChallengePlace(nonce, f"token-{token_id.hex()}", None, life_ms)
