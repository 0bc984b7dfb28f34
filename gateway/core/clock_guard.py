"""Tells whether a store's clock can be trusted to say that a hold is overdue.

Why: holds are renewed until a time of the store's clock. When that clock jumps (a failover to a machine with another
clock, a step by hand), every hold looks overdue at once, and a sweeper would end the work of everybody who is alive.
After a jump the guard asks for one lifetime: in it every living worker has renewed its holds by the new clock.

Pure: times come in, a verdict goes out. A slow drift is no jump: each look becomes the next one's base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Above what two looks can differ by for a busy server and a slewing clock, far below a lifetime.
TOLERANCE_MS = 2_000


@dataclass(slots=True)
class ClockGuard:
    """`wait_ms`: the longest lifetime of a hold. One that is new knows nothing, and waits as after a jump."""

    wait_ms: int
    tolerance_ms: int = TOLERANCE_MS
    _offsets_ms: dict[str, int] = field(default_factory=dict)
    _not_before_ms: int | None = None

    def trusted(self, store_ms: Mapping[str, int], own_ms: int) -> bool:
        """Whether holds may be expired now. `store_ms`: each server's clock; `own_ms`: a monotonic clock of ours."""
        offsets = {server: at_ms - own_ms for server, at_ms in store_ms.items()}
        jumped = any(
            server not in self._offsets_ms or abs(offset - self._offsets_ms[server]) > self.tolerance_ms
            for server, offset in offsets.items()
        )
        self._offsets_ms = offsets
        if jumped or self._not_before_ms is None:
            self._not_before_ms = own_ms + self.wait_ms
        return own_ms >= self._not_before_ms
