"""Background sweeps: small, bounded, idempotent jobs, each run by one worker at a time under a lease.

The hold sweep expires what nobody renews: the payer pays what the last checkpoint says, and the rest is free again. It
refuses mass expiry: after a jump of the store's clock against our own it waits one lifetime, in which every living
worker renews (`core/clock_guard.py`). A sweep that fails is tried again in its next turn; nothing depends on when it
runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from gateway.core.clock_guard import ClockGuard
from gateway.core.errors import Unavailable
from gateway.core.holds import PARTITIONS, Posted, Refused

_log = logging.getLogger(__name__)

# A hold lives 30 s from its last renewal; that this many more pass costs the payer nothing.
HOLD_SWEEP_EVERY_S = 5.0
LONGEST_LIFETIME_MS = 30_000
# A turn stays well below a second of the server's time.
_HOLDS_A_TURN_MAX = 2_000
_HOLDS_AT_ONCE = 64
_PARTITIONS_AT_ONCE = 32


class SweptHolds(Protocol):
    """The ledger, as the hold sweep sees it."""

    async def open_ids(self, partition: int, *, until_ms: int | None = None, most: int = 1_000) -> list[str]: ...
    async def expire(self, hold_id: str, *, lease_gone: bool = False) -> Posted | Refused: ...


class SweepLease(Protocol):
    """Who sweeps. `take` takes or keeps; False: another worker has it."""

    @property
    def held(self) -> bool: ...
    async def take(self) -> bool: ...
    async def leave(self) -> None: ...


@dataclass(frozen=True, slots=True)
class HoldsSwept:
    """What one turn did. `waiting`: the store's clock jumped, or is new to us."""

    expired: int = 0
    left: int = 0
    waiting: bool = False


class HoldSweep:
    """Expires overdue holds. `store_clock` gives the time of each server in ms."""

    def __init__(
        self,
        holds: SweptHolds,
        store_clock: Callable[[], Awaitable[Mapping[str, int]]],
        *,
        lifetime_ms: int = LONGEST_LIFETIME_MS,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holds = holds
        self._store_clock = store_clock
        self._guard = ClockGuard(lifetime_ms)
        self._monotonic_s = monotonic_s

    async def once(self) -> HoldsSwept:
        """One turn. A hold that cannot be expired keeps no other from it. Errors: Unavailable."""
        clocks = await self._store_clock()
        if not self._guard.trusted(clocks, int(self._monotonic_s() * 1000)):
            return HoldsSwept(waiting=True)
        overdue = await self._overdue(min(clocks.values()))
        expired = 0
        for start in range(0, len(overdue), _HOLDS_AT_ONCE):
            batch = overdue[start : start + _HOLDS_AT_ONCE]
            answers = await asyncio.gather(*map(self._holds.expire, batch), return_exceptions=True)
            expired += sum(isinstance(answer, Posted) for answer in answers)
            for hold_id, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Unavailable):
                    raise answer
                if isinstance(answer, BaseException):
                    _log.error("hold %s cannot be expired", hold_id, exc_info=answer)
        return HoldsSwept(expired, len(overdue) - expired)

    async def _overdue(self, now_ms: int) -> list[str]:
        found: list[str] = []
        for start in range(0, PARTITIONS, _PARTITIONS_AT_ONCE):
            partitions = range(start, min(start + _PARTITIONS_AT_ONCE, PARTITIONS))
            lists = await asyncio.gather(*(self._holds.open_ids(number, until_ms=now_ms) for number in partitions))
            found += [hold_id for ids in lists for hold_id in ids]
            if len(found) >= _HOLDS_A_TURN_MAX:
                break
        return found[:_HOLDS_A_TURN_MAX]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A job. `lease` None: every worker does it for itself (its own spool). `once` gives what it did, for the
    report. `released` is called in each turn in which another worker has the lease."""

    name: str
    every_s: float
    once: Callable[[], Awaitable[object]]
    lease: SweepLease | None = None
    released: Callable[[], None] | None = None


class Report(Protocol):
    """Told after each turn: the sweep's name, what it did, or the error it ended in."""

    def __call__(self, name: str, done: object, error: Exception | None, /) -> None: ...


def log_report(name: str, _done: object, error: Exception | None) -> None:
    """Failures in the log; what went well is in the metrics."""
    if error is not None:
        _log.warning("sweep %s failed: %s", name, error)


async def run_sweeps(sweeps: Sequence[Sweep], *, report: Report = log_report) -> None:
    """Run all until cancelled, each in its own rhythm; then give the leases up."""
    tasks = [asyncio.create_task(_run(sweep, report), name=f"sweep {sweep.name}") for sweep in sweeps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(sweep: Sweep, report: Report) -> None:
    try:
        while True:
            try:
                if sweep.lease is None or await sweep.lease.take():
                    report(sweep.name, await sweep.once(), None)
                elif sweep.released is not None:
                    sweep.released()
            except (Unavailable, OSError) as error:
                report(sweep.name, None, error)
            except Exception as error:  # noqa: BLE001 - one broken sweep must not end the others
                _log.exception("sweep %s is broken", sweep.name)
                report(sweep.name, None, error)
            await asyncio.sleep(sweep.every_s)
    finally:
        if sweep.lease is not None:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(1.0):
                    await sweep.lease.leave()
