"""By what a body proves its person: a password, a one-time code, a passkey. Read strictly, so that a proof of the wrong
kind is refused for what it is, before it counts as an attempt or is passed over by an answer that needs none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.errors import InvalidRequest
from gateway.core.proofs import METHODS

_KINDS: dict[str, tuple[type, str]] = {"passkey": (dict, "an object")}
_TEXT: tuple[type, str] = (str, "text")


def proof_of(body: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The proofs that are given; null is none. `within`: the member that they stand in. Errors: InvalidRequest."""
    proof = {name: body[name] for name in METHODS if body.get(name) is not None}
    for name, value in proof.items():
        kind, word = _KINDS.get(name, _TEXT)
        if not isinstance(value, kind):
            raise InvalidRequest(f"must be {word}", param=f"{within}{name}")
    return proof


def check_proof(value: Any, param: str) -> None:
    """A member that is an object of proofs and nothing else, or null. Errors: InvalidRequest."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidRequest(f"must be an object with one of {', '.join(METHODS)}", param=param)
    for name in value:
        if name not in METHODS:
            raise InvalidRequest(f"no such member; there are {', '.join(METHODS)}", param=f"{param}.{name}"[:99])
    proof_of(value, f"{param}.")
