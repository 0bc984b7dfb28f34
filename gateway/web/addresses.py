"""Whose address counts: the peer's, or what a trusted hop says of it.

Limits on challenges go by address, so a client must not be able to choose its own: only hops that the configuration
names are believed, from the nearest outwards, and the first address that is not one of them is the client's.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from gateway.core.headers import Headers

# A chain of more hops than this is an attack on whoever parses it.
_GREATEST_HOPS = 16


class Addresses:
    """Finds the client's address. `trusted`: networks of our own proxies."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted: tuple[IPv4Network | IPv6Network, ...] = tuple(ip_network(each, strict=False) for each in trusted)

    def of(self, scope: dict[str, Any], headers: Headers) -> str:
        """The client's address as text; "unknown" where the transport has none."""
        peer: str = scope["client"][0] if scope.get("client") else "unknown"
        if not self._trusted or not self._is_trusted(peer):
            return peer
        hops = [hop.strip() for name, value in headers if name == b"x-forwarded-for" for hop in _split(value)]
        for hop in reversed(hops[-_GREATEST_HOPS:]):
            if not _is_address(hop):
                return peer
            if not self._is_trusted(hop):
                return hop
            peer = hop
        return peer

    def _is_trusted(self, address: str) -> bool:
        if not _is_address(address):
            return False
        parsed = ip_address(address)
        return any(parsed in network for network in self._trusted)


def _split(value: bytes) -> list[str]:
    return value.decode("latin-1").split(",")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
