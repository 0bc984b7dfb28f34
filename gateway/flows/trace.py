"""What the edge logs and counts of one request of the relay, filled in as it goes."""

from __future__ import annotations

from msgspec import Struct

from gateway.core.routing import Match
from gateway.flows.callers import Caller
from gateway.flows.settling import Work


class Trace(Struct):
    """Whoever finds something out notes it here, so that a refusal tells as much as was known when it fell. `reason`: a
    refusal's code, or the one word for why an answer broke off; it becomes a label."""

    match: Match | None = None
    model: str = ""
    account: str = ""
    caller: Caller | None = None
    work: Work | None = None
    status: int = 0
    reason: str = ""
    upstream_s: float = 0.0
    first_byte_s: float = 0.0
