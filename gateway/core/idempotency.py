"""What is said of a request that may be sent twice: `Idempotency-Key`, per payer and path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ours:
    """The key is new, or whoever had it died without an answer: act. `owner` shows that it is ours."""

    owner: str


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Somebody else acts under this key now."""


@dataclass(frozen=True, slots=True)
class OtherBody:
    """The key was used for something else."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer that the first request got."""

    answer: bytes


Begun = Ours | UnderWay | OtherBody | Answered
