"""What a key admits: routes, models, addresses. An empty list admits everything.

A model is compared under its canonical name, whatever alias the request used, so that an alias is no way round.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from gateway.core.directory import Key, Permission


def refusal_of(key: Key, *, address: str, names: Iterable[str], model: str) -> str | None:
    """Why the key does not admit this request, None where it does. `names`: what a route glob may fit: the path, the
    route's pattern, the operation, the upstream. `model` "" where the request has none."""
    if Permission.RELAY not in key.permissions:
        return "this key may not call models"
    if key.addresses and not admits_address(key, address):
        return "this key is not for this address"
    if key.routes and not any(fnmatchcase(name, glob) for glob in key.routes for name in names):
        return "this key is not for this route"
    if model and key.models and not any(fnmatchcase(model, glob) for glob in key.models):
        return f"this key is not for the model {model!r}"
    return None


def admits_address(key: Key, address: str) -> bool:
    """Whether the client's address lies in one of the key's networks."""
    if not key.addresses:
        return True
    try:
        client = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(client, "ipv4_mapped", None)
    return any((mapped or client) in ip_network(network) for network in key.addresses)
