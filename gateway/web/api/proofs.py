"""By what a body proves its person: a password, a one-time code, a passkey. Read strictly, so that a proof of the wrong
kind is refused for what it is, before it counts as an attempt or is passed over by an answer that needs none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.errors import InvalidRequest
from gateway.core.proofs import METHODS

_KINDS: dict[str, tuple[type, str]] = {"passkey": (dict, "an object")}
_TEXT: tuple[type, str] = (str, "text")


def proof_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The proofs that are given; null is none. Errors: InvalidRequest."""
    proof = {name: body[name] for name in METHODS if body.get(name) is not None}
    for name, value in proof.items():
        kind, word = _KINDS.get(name, _TEXT)
        if not isinstance(value, kind):
            raise InvalidRequest(f"must be {word}", param=name)
    return proof
