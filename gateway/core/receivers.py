"""Where a webhook may go: which addresses an organization may name, and which numbers its name may stand for.

An address is judged when it is set, and everything that its name stands for is judged again each time something is
sent. The failure this prevents: a receiver that is a server of our own inside, however it is spelt: a name that DNS
gives a private number, a number in octal, an IPv6 address that a translator turns into a private IPv4 one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from gateway.core.errors import InvalidRequest

URL_CHARACTERS = 2_000
_HOST_CHARACTERS = 253
# One reading, ours: readers of URLs disagree about backslashes, tabs, empty users and what follows a bracket.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f.]*:[0-9a-f:.]*\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<target>(?:[/?][!-\"$-~]*)?)(?:#[!-~]*)?",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What the usual resolvers take for a number in some base: `0x7f.1`, `2130706433`, `0177.0.0.1`.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = {"http": 80, "https": 443}
_UNICAST = IPv6Network("2000::/3")
# Both carry an IPv4 address that is really meant: RFC 6052, RFC 3056.
_NAT64, _SIX_TO_FOUR = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")
# Protocol assignments and relays of no use here, which `is_global` lets through.
_V4_SPECIAL_PREFIXES = ("192.0.0.", "192.88.99.")


@dataclass(frozen=True, slots=True)
class Receiver:
    """An address that may be told. `host`: a name or number, lower case, without brackets and last dot. `target`: path
    and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = _bracketed(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, number: str) -> str:
        """The URL with a number for its name."""
        return f"{self.scheme}://{_bracketed(number)}:{self.port}{self.target}"


def receiver_of(url: str, *, allow_private: bool) -> Receiver:
    """Read an address. Errors: InvalidRequest naming `url` where no webhook could ever go there."""
    found = _URL.fullmatch(url) if len(url) <= URL_CHARACTERS else None
    scheme = found["scheme"].lower() if found else ""
    if found is None or (scheme == "http" and not allow_private):
        schemes = "https or http" if allow_private else "https"
        raise _refused(f"must be {schemes}://host/..., without user or password, in ASCII (a name as xn--...)")
    port = int(found["port"] or _PORTS[scheme])
    if not 1 <= port <= 65_535:
        raise _refused("the port must be from 1 to 65535")
    host = found["host"].lower().strip("[]").removesuffix(".")
    _check_host(host, allow_private=allow_private)
    return Receiver(scheme, host, port, found["target"])


def _check_host(host: str, *, allow_private: bool) -> None:
    labels = host.split(".")
    if ":" in host or _NUMBER.fullmatch(labels[-1]):
        try:
            public = is_allowed(host, allow_private=allow_private)
        except ValueError:
            raise _refused("a number must be an IPv6 address, or an IPv4 address of four decimal parts") from None
        if not public:
            raise _refused("the address is not a public one")
        return
    if len(host) > _HOST_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise _refused("the host is no name")
    if labels[-1] == "localhost" and not allow_private:
        raise _refused("the address is not a public one")


def is_allowed(number: str, *, allow_private: bool) -> bool:
    """Whether a webhook may go to this number. `allow_private`: on the operator's own network too, but never to link-
    local addresses (a cloud's metadata) or to many at once. Errors: ValueError where it is none."""
    address = _meant(ip_address(number))
    if address.is_link_local or address.is_multicast:
        return False
    return allow_private or _is_public(address)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for; others stand for themselves."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
        if address in _SIX_TO_FOUR:
            return IPv4Address(int(address) >> 80 & 0xFFFF_FFFF)
    return address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return address.is_global and address in _UNICAST
    return address.is_global and not str(address).startswith(_V4_SPECIAL_PREFIXES)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(why, param="url")
