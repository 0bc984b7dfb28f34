"""What a token is once its signature was checked, and whose money it stands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature of ours. `links`: every caveat with the HMAC right after it; the first `own_caveats` are ours."""

    token_id: bytes
    payment_hash: bytes
    links: tuple[tuple[bytes, bytes], ...]
    own_caveats: int


@dataclass(frozen=True, slots=True)
class Unverified:
    """Not a token of ours, or changed on the way."""

    reason: str


def account_of(token_id: bytes) -> str:
    """The account of a token: the id carries the partition, which is the first byte of the token id."""
    return f"tk_{token_id.hex()}"
