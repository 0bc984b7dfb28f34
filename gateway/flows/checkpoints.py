"""Keeps the hold of running work alive, and what it has earned written down: a dead worker loses one interval at most.

Invariant: `live_until_s` is the last acknowledged renewal plus the hold's lifetime less a margin, by our own monotonic
clock. Whoever passes something on after it gives it away: the sweeper may be expiring the hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.core.errors import Unavailable
from gateway.core.holds import Refused
from gateway.core.terms import HoldPolicy
from gateway.ports import Ledger

log = logging.getLogger("farebox.relay")

# A worker passes nothing on in the last part of a hold's life: the sweeper may be expiring it.
RENEWAL_MARGIN_S = 3.0


class Checkpoints:
    """The checkpoints of one hold. `earned` gives what was earned so far, and what for (JSON); `lost` is told in one
    word why the work must end. `first_at_s`: when the first one is due; all times are the loop's."""

    def __init__(
        self,
        ledger: Ledger,
        hold_id: str,
        policy: HoldPolicy,
        *,
        renewed_at_s: float,
        first_at_s: float,
        earned: Callable[[], tuple[int, bytes]],
        lost: Callable[[str], None],
    ) -> None:
        self._ledger, self._hold_id = ledger, hold_id
        self._interval_s = policy.checkpoint_interval_s
        self._life_s = policy.hold_lifetime_s - RENEWAL_MARGIN_S
        self._earned, self._lost = earned, lost
        self._due_at_s = first_at_s
        self._writing: asyncio.Task[None] | None = None
        self.live_until_s = renewed_at_s + self._life_s

    def tick(self, now_s: float) -> None:
        """Write one where it is due."""
        if now_s >= self._due_at_s:
            self.write(now_s)

    def write(self, now_s: float) -> None:
        """Write one now, unless one is under way."""
        if self._writing is None:
            self._due_at_s = now_s + self._interval_s
            self._writing = asyncio.ensure_future(self._write(now_s))

    async def _write(self, now_s: float) -> None:
        try:
            earned, outcome = self._earned()
            if isinstance(await self._ledger.checkpoint(self._hold_id, earned, outcome=outcome), Refused):
                self._lost("hold_ended")
            else:
                self.live_until_s = now_s + self._life_s
        except Unavailable:
            return  # tried again when the next one is due; past the hold's life nothing is passed on
        except Exception:  # lost in a task that nobody awaits, it would leave the work running unmetered
            log.exception("hold %s: what was earned could not be written down", self._hold_id)
            self._lost("unmetered")
        finally:
            self._writing = None

    async def settled(self) -> None:
        """Wait until none is under way, so that the post is the last word."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def let_go(self) -> None:
        """The last call. Work and checkpoints that hold each other wait for the collector, a stream with its request's
        body."""
        del self._earned, self._lost
