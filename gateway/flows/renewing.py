"""Keeps holds alive while their upstream is thinking.

A hold lives 30 s from its last renewal, so that a worker that died frees what it held; an unstreamed answer can take
minutes. One task renews what has waited for a third of a lifetime; a request that is answered sooner costs a dictionary
entry. Streams renew themselves with their checkpoints (`streaming.py`).
"""

from __future__ import annotations

import asyncio
import logging

from gateway.core.errors import Unavailable
from gateway.core.holds import Refused
from gateway.flows.settling import Work
from gateway.ports import Ledger

log = logging.getLogger("farebox.relay")

# A lifetime holds three attempts.
_SHARE_OF_LIFETIME = 3
_AT_ONCE = 64


class Renewals:
    """The holds of this worker whose answer has not begun."""

    def __init__(self, ledger: Ledger, *, lifetime_s: float) -> None:
        self._ledger = ledger
        self._every_s = lifetime_s / _SHARE_OF_LIFETIME
        self._waiting: dict[str, Work] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, work: Work) -> None:
        """From now on the hold is renewed."""
        self._waiting[work.hold_id] = work

    def discard(self, work: Work) -> None:
        """The answer has come, or never will."""
        self._waiting.pop(work.hold_id, None)

    async def run(self) -> None:
        """Renew until cancelled."""
        limit = asyncio.Semaphore(_AT_ONCE)
        while True:
            await asyncio.sleep(self._every_s / 2)
            due = self._loop.time() - self._every_s
            waiting = [work for work in self._waiting.values() if work.renewed_at_s <= due]
            await asyncio.gather(*(self._renew(work, limit) for work in waiting))

    async def _renew(self, work: Work, limit: asyncio.Semaphore) -> None:
        async with limit:
            now = self._loop.time()
            try:
                answer = await self._ledger.checkpoint(work.hold_id, 0)
            except Unavailable:
                return  # again at the next turn; past its life the posting is taken as a late one
            if isinstance(answer, Refused):
                log.warning("hold %s is no longer open while its upstream works: %s", work.hold_id, answer.reason.value)
                self.discard(work)
            else:
                work.renewed_at_s = now
