"""The drain as a job that changes hands: it opens the segment files when this worker gets the lease, lets them go
when another worker has it, and stops all placing on the first mismatch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.adapters.redis.books import Link
from gateway.adapters.redis.freeze import Freezer
from gateway.adapters.redis.journal import Books, Drained, History, JournalDrain, StoreHistory
from gateway.adapters.redis.segments import BrokenChain, Segments, SegmentsInUse, read_marks

_log = logging.getLogger(__name__)

# What is drained is what a store that goes back in time can be found out by: often, but one sync serves all partitions.
DRAIN_EVERY_S = 2.0


class Drainer:
    """`once` is the turn of a sweep; `release` is for the turns in which another worker has the lease. `before_trim`:
    set by whoever follows the journal."""

    def __init__(self, link: Link, books: Books, freezer: Freezer, data_dir: str | Path) -> None:
        self._link = link
        self._books = books
        self._freezer = freezer
        self._data_dir = data_dir
        self._segments: Segments | None = None
        self._drain: JournalDrain | None = None
        self.before_trim: Callable[[], Awaitable[object]] | None = None

    async def check_at_start(self) -> list[History]:
        """Compare the store with what this machine knows of it, and freeze where it went back. Errors: Unavailable."""
        marks = read_marks(Path(self._data_dir) / "journal")
        found = await StoreHistory(self._link, self._books).check(marks)
        await self._freeze_on(found)
        return found

    async def once(self) -> Drained:
        """One turn. Errors: Unavailable, OSError."""
        if self._drain is None and not await self._open():
            return Drained()
        assert self._drain is not None
        done = await self._drain.once()
        await self._freeze_on(done.mismatches)
        return done

    async def accept(self) -> list[History]:
        """People have looked: go on from where the store is. Errors: Unavailable, SegmentsInUse, BrokenChain,
        OSError."""
        segments = await asyncio.to_thread(Segments.open, self._data_dir)
        try:
            return await JournalDrain(self._link, self._books, segments).accept()
        finally:
            segments.close()

    async def _open(self) -> bool:
        try:
            self._segments = await asyncio.to_thread(Segments.open, self._data_dir)
        except SegmentsInUse:
            return False  # the worker that had the lease before has not noticed yet
        except BrokenChain as error:
            _log.critical("the journal's files were changed: %s", error)
            await self._freezer.freeze(f"the journal's files were changed: {error}")
            return False
        self._drain = JournalDrain(self._link, self._books, self._segments, self._let_read)
        return True

    async def _let_read(self) -> None:
        if self.before_trim is not None:
            await self.before_trim()

    async def _freeze_on(self, found: list[History]) -> None:
        if found:
            for history in found:
                _log.critical("%s", history)
            await self._freezer.freeze(str(found[0]))

    def release(self) -> None:
        """Let another worker write."""
        if self._segments is not None:
            self._segments.close()
        self._segments = self._drain = None
