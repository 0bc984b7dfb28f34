"""Leases: who lives, and who does a background job.

A worker's lease (10 s) says that its holds are looked after; a worker that is killed stops renewing, and reconcile may
expire what it left. A named lease says which worker sweeps. A lease is no lock: its holder may be late without knowing.
Everything done under one is therefore idempotent, and the holder goes by its own monotonic clock, from before it asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from gateway.adapters.redis.books import Link
from gateway.adapters.redis.scripts import load
from gateway.core.errors import Unavailable

_log = logging.getLogger(__name__)

# Two renewals may fail before a lease is lost.
LEASE_MS = 10_000
RENEW_S = 3.0
# What may pass between the server's clock and ours, and between the last look and the last deed.
_MARGIN_S = 1.0


class Lease:
    """One lease of one holder. `held` never waits."""

    def __init__(self, link: Link, name: str, holder: str, *, life_ms: int = LEASE_MS) -> None:
        self._link = link
        self._key = f"{{leases}}{name}"
        self._holder = holder
        self._life_ms = life_ms
        self._take = load("lease_take")
        self._leave = load("compare_delete")
        self._until_s = float("-inf")

    @property
    def held(self) -> bool:
        """Whether it is certainly ours for another moment."""
        return time.monotonic() < self._until_s - _MARGIN_S

    async def take(self) -> bool:
        """Take it or keep it. Errors: Unavailable."""
        asked_s = time.monotonic()
        if await self._link.script(self._take, [self._key], [self._holder, self._life_ms]) != 1:
            self._until_s = float("-inf")
            return False
        self._until_s = asked_s + self._life_ms / 1000
        return True

    async def leave(self) -> None:
        """Give it up, so that another need not wait for its end. Errors: Unavailable."""
        self._until_s = float("-inf")
        await self._link.script(self._leave, [self._key], [self._holder])


class WorkerLease:
    """Keeps the lease of a worker for as long as `run` runs. The lease is named like the worker, as
    `RedisBooks.has_lease` looks for it."""

    def __init__(self, link: Link, worker: str, *, life_ms: int = LEASE_MS, renew_s: float = RENEW_S) -> None:
        self._lease = Lease(link, worker, "1", life_ms=life_ms)
        self._renew_s = renew_s

    @property
    def held(self) -> bool:
        """Whether the lease certainly stands."""
        return self._lease.held

    async def take(self) -> None:
        """Take it before the first hold is placed. Errors: Unavailable."""
        await self._lease.take()

    async def run(self) -> None:
        """Renew until cancelled, then give the lease up. A worker ends its holds before it ends this."""
        try:
            while True:
                try:
                    await self._lease.take()
                except Unavailable:
                    _log.warning("the worker's lease could not be renewed")
                await asyncio.sleep(self._renew_s)
        finally:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._lease.leave()
