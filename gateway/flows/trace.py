"""What the edge logs and counts of one request, filled in as it goes."""

from __future__ import annotations

from msgspec import Struct

from gateway.flows.admission import Admitted


class Trace(Struct):
    """What the edge logs and counts of one request, filled in as it goes."""

    admitted: Admitted | None = None
    status: int = 0
    reason: str = ""
    upstream_s: float = 0.0
    first_byte_s: float = 0.0
