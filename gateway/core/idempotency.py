"""What is remembered of a request that may be sent twice: `Idempotency-Key`, per payer and path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """A key that was seen before. `answer` None: its first request has not ended yet, or left no answer."""

    digest: bytes
    answer: bytes | None
