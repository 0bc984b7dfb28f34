"""Drains the journal: out of the store, onto disk, then trimmed. And tells when the store has gone back in time.

Why: the store's memory is dear, and a store that was restored from an older file does not know it. What was drained
lies in hash-chained files (`segments.py`) whose marks say what the store once knew. A store that knows less, or has
another entry under a number, must not spend: it is frozen until people have looked.

Order, never changed: read, write, sync, mark, and only then trim. A gap in the numbers is a mismatch, not something
to skip.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.segments import Batch, Mark, Segments, entry_digest
from gateway.core.holds import PARTITIONS

# Entries read of one partition at a time: 50 KB, half a millisecond of the server and of our loop.
_BATCH_ENTRIES = 500
# Partitions asked in one write: requests must not wait behind 256 of them.
_AT_ONCE = 32
# Rounds of a turn: 50,000 entries of the busiest partition, more than one server can write in the time between two
# turns.
_ROUNDS_MAX = 100
# A partition's untrimmed entries cost 95 bytes each; a trim costs a script call and one entry of its own.
_TRIM_ENTRIES = 512
_TRIM_AFTER_S = 60.0


class Books(Protocol):
    """What the drain needs of the ledger's books."""

    async def opening(self, partition: int) -> tuple[int, Any]: ...
    async def trim(self, partition: int, acknowledged: int) -> int: ...


@dataclass(frozen=True, slots=True)
class History:
    """A partition whose past is not what was drained. `known` is the last number on disk, `found` the store's."""

    partition: int
    known: int
    found: int
    reason: str

    def __str__(self) -> str:
        where = f"on disk up to {self.known}, in the store up to {self.found}"
        return f"partition {self.partition:02x}: {self.reason} ({where})"


@dataclass(slots=True)
class Drained:
    """What one turn did."""

    entries: int = 0
    trimmed: int = 0
    mismatches: list[History] = field(default_factory=list)


class StoreHistory:
    """Compares the store with the marks on disk. Reads only, so every worker may: at start-up, and the drain in each
    turn."""

    def __init__(self, link: Link, books: Books) -> None:
        self._link = link
        self._books = books

    async def check(self, marks: Mapping[int, Mark]) -> list[History]:
        """Every partition that knows less than its mark, or something else. Errors: Unavailable."""
        found: list[History | None] = []
        for some in _in_parts(list(marks)):
            found += await asyncio.gather(*(self._check_partition(partition, marks[partition]) for partition in some))
        return [history for history in found if history is not None]

    async def _check_partition(self, partition: int, mark: Mark) -> History | None:
        last = await self.last_number(partition)
        if last < mark.number:
            return History(partition, mark.number, last, "the store has gone back in time")
        text = await self.entry(partition, mark.number)
        if text is not None and entry_digest(text) != mark.digest:
            return History(partition, mark.number, last, "the store has another entry under this number")
        return None

    async def last_number(self, partition: int) -> int:
        """The number of the store's last entry, 0 where there is none yet."""
        key = f"{keys.partition_tag(partition)}journal"
        newest = await self._link.command("XREVRANGE", key, "+", "-", "COUNT", 1, key=key)
        return int(newest[0][0].split(b"-")[1]) if newest else (await self._books.opening(partition))[0]

    async def entry(self, partition: int, number: int) -> str | None:
        """An entry's text; None once it is trimmed."""
        key = f"{keys.partition_tag(partition)}journal"
        found = await self._link.command("XRANGE", key, f"0-{number}", f"0-{number}", key=key)
        return found[0][1][1].decode() if found else None


class JournalDrain:
    """Drains into `segments`. Run it under a lease; two at once are kept apart by the segments' lock on one machine.
    After `before_trim` whoever else reads the journal has read what is trimmed next."""

    def __init__(
        self, link: Link, books: Books, segments: Segments, before_trim: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._link = link
        self._books = books
        self._segments = segments
        self._history = StoreHistory(link, books)
        self._before_trim = before_trim
        self._trimmed: dict[int, int] = {}
        self._trim_due_s: dict[int, float] = {}

    async def check_history(self) -> list[History]:
        """Compare the store with what was drained here. Errors: Unavailable."""
        return await self._history.check(dict(self._segments.marks))

    async def once(self) -> Drained:
        """Drain what there is. A turn with a mismatch writes and trims nothing of that partition.

        Errors: Unavailable, OSError (the disk).
        """
        done = Drained(mismatches=await self.check_history())
        bad = {history.partition for history in done.mismatches}
        more = [partition for partition in range(PARTITIONS) if partition not in bad]
        for _ in range(_ROUNDS_MAX):
            batches = await self._read_all(more, done)
            if not batches:
                break
            await asyncio.to_thread(self._segments.append, batches)
            done.entries += sum(len(batch.texts) for batch in batches)
            for batch in batches:
                self._trim_due_s.setdefault(batch.partition, time.monotonic() + _TRIM_AFTER_S)
            more = [batch.partition for batch in batches if len(batch.texts) == _BATCH_ENTRIES]
        if self._before_trim is not None:
            await self._before_trim()
        done.trimmed = await self._trim_due()
        return done

    async def _read_all(self, partitions: list[int], done: Drained) -> list[Batch]:
        """What is new in these partitions; mismatches are noted."""
        batches: list[Batch] = []
        for some in _in_parts(partitions):
            for read in await asyncio.gather(*map(self._read, some)):
                if isinstance(read, History):
                    done.mismatches.append(read)
                elif read is not None:
                    batches.append(read)
        return batches

    async def _read(self, partition: int) -> Batch | History | None:
        """The entries after the mark. A first drain on this machine begins after what was trimmed elsewhere."""
        mark = self._segments.marks.get(partition)
        after = mark.number if mark is not None else (await self._books.opening(partition))[0]
        key = f"{keys.partition_tag(partition)}journal"
        entries = await self._link.command("XRANGE", key, f"0-{after + 1}", "+", "COUNT", _BATCH_ENTRIES, key=key)
        if not entries:
            return None
        numbers = [int(entry_id.split(b"-")[1]) for entry_id, _ in entries]
        if numbers[-1] - numbers[0] != len(numbers) - 1:
            return History(partition, after, numbers[-1], "numbers are missing")
        through = after if numbers[0] == after + 1 else (await self._books.opening(partition))[0]
        if numbers[0] > through + 1:
            return History(partition, after, numbers[-1], "numbers are missing")
        return Batch(partition, numbers[0], tuple(fields[1].decode() for _, fields in entries))

    async def _trim_due(self) -> int:
        """Trim what is on disk, where it is enough to be worth it."""
        count = 0
        for partition, due_s in list(self._trim_due_s.items()):
            mark = self._segments.marks[partition]
            if mark.number - self._trimmed.get(partition, 0) < _TRIM_ENTRIES and time.monotonic() < due_s:
                continue
            reached = await self._trim(partition, mark.number)
            count += 1
            self._trimmed[partition] = reached
            if reached >= mark.number:
                del self._trim_due_s[partition]
        return count

    async def _trim(self, partition: int, number: int) -> int:
        """One step trims so many entries at most; go on until it is done, or nothing moves."""
        reached = -1
        for _ in range(_ROUNDS_MAX):
            before, reached = reached, await self._books.trim(partition, number)
            if reached >= number or reached == before:
                break
        return reached

    async def accept(self) -> list[History]:
        """People have looked: where the store went back, go on from where it stands. The chain of files keeps what was
        lost. Gives what was accepted. Errors: Unavailable."""
        accepted = await self.check_history()
        for history in accepted:
            text = await self._history.entry(history.partition, history.found) if history.found else None
            digest = entry_digest(text) if text is not None else ""
            self._segments.reset_mark(history.partition, Mark(history.found, digest) if history.found else None)
        return accepted


def _in_parts(partitions: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(partitions), _AT_ONCE):
        yield partitions[start : start + _AT_ONCE]
