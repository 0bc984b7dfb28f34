"""Reconcile: bring the books to rest, then check them. What does not fit is told and frozen, never repaired.

In this order: postings that waited on disk are written; leases are waited out, so that who lives can show it; holds
of workers that do not live are expired at their checkpoint; then every invariant that the store can show is checked,
partition by partition. It runs beside a serving gateway: a partition in which money moved while it was read is read
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.accounts import CounterState
from gateway.core.books import Mismatch, PartitionBooks, check, claim_key
from gateway.core.holds import PARTITIONS, Balance, HoldRecord, Measure, Posted, Refused, ScopeClaim
from gateway.core.journal import JournalEntry, Totals

# A worker's lease lives 10 s; one second is for both clocks.
LEASE_WAIT_S = 11.0
# A partition that is spent on all the time changes between two reads; with pauses some read falls between two
# movements.
_READS_MAX = 30
_ENTRIES_A_READ = 1_000
_AT_ONCE = 16


class Ledger(Protocol):
    """The ledger's books and the two steps that reconcile takes."""

    async def open_holds(self, partition: int) -> list[HoldRecord]: ...
    async def accounts(self, partition: int) -> list[Balance]: ...
    async def journal(self, partition: int, after: int, most: int = 1_000) -> list[JournalEntry]: ...
    async def opening(self, partition: int) -> tuple[int, Totals]: ...
    async def counter(self, account: str, claim: ScopeClaim) -> CounterState | None: ...
    async def has_lease(self, worker: str) -> bool: ...
    async def expire(self, hold_id: str, *, lease_gone: bool = False) -> Posted | Refused: ...
    async def freeze(self, account: str) -> None: ...


@dataclass(slots=True)
class ReconcileReport:
    """What was found. `unread`: partitions in which money moved at every look; look again when it is quieter."""

    accounts: int = 0
    open_holds: int = 0
    entries: int = 0
    expired: list[str] = field(default_factory=list)
    replayed: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing to look at."""
        return not (self.mismatches or self.history or self.unread)

    def lines(self) -> list[str]:
        """For `farebox reconcile`."""
        return [
            f"{self.accounts} accounts, {self.open_holds} open holds, {self.entries} journal entries looked at",
            f"{len(self.expired)} holds of workers that are gone expired, {self.replayed} postings replayed",
            *(f"mismatch: {mismatch}" for mismatch in self.mismatches),
            *(f"history: {line}" for line in self.history),
            *(f"not read, money moves all the time: partition {partition:02x}" for partition in self.unread),
            *(f"frozen: {name}" for name in self.frozen),
            "the books are in order" if self.clean else "the books are NOT in order",
        ]


class Reconciler:
    """`history` tells where the store went back in time; `freeze_all` stops all placing; `replay` writes spooled
    postings and gives their number."""

    def __init__(
        self,
        ledger: Ledger,
        store_clock: Callable[[], Awaitable[Mapping[str, int]]],
        *,
        freeze_all: Callable[[str], Awaitable[None]],
        history: Callable[[], Awaitable[Sequence[object]]] | None = None,
        replay: Callable[[], Awaitable[int]] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._store_clock = store_clock
        self._freeze_all = freeze_all
        self._history = history
        self._replay = replay
        self._sleep = sleep

    async def run(self, *, lease_wait_s: float = LEASE_WAIT_S) -> ReconcileReport:
        """The whole of it. Errors: Unavailable."""
        report = ReconcileReport()
        if self._history is not None:
            report.history = [str(line) for line in await self._history()]
        if self._replay is not None:
            report.replayed = await self._replay()
        await self._expire_abandoned(report, lease_wait_s)
        for start in range(0, PARTITIONS, _AT_ONCE):
            await asyncio.gather(*(self._look(number, report) for number in range(start, start + _AT_ONCE)))
        await self._freeze(report)
        return report

    async def _expire_abandoned(self, report: ReconcileReport, lease_wait_s: float) -> None:
        """Only holds that stand before and after the wait: a lease that was still running then has ended or was
        renewed."""
        before = await self._worker_holds()
        if not before:
            return
        await self._sleep(lease_wait_s)
        after = await self._worker_holds()
        workers = {hold.worker for hold in after.values()}
        alive = {worker for worker in sorted(workers) if await self._ledger.has_lease(worker)}
        for hold_id in sorted(before.keys() & after.keys()):
            if after[hold_id].worker in alive:
                continue
            answer = await self._ledger.expire(hold_id, lease_gone=True)
            if isinstance(answer, Posted) and not answer.replayed:
                report.expired.append(hold_id)

    async def _worker_holds(self) -> dict[str, HoldRecord]:
        """Open holds that a worker looks after; those of an execution have no lease."""
        found: dict[str, HoldRecord] = {}
        for start in range(0, PARTITIONS, _AT_ONCE):
            lists = await asyncio.gather(*map(self._ledger.open_holds, range(start, start + _AT_ONCE)))
            found |= {hold.hold_id: hold for holds in lists for hold in holds if not hold.owner}
        return found

    async def _look(self, partition: int, report: ReconcileReport) -> None:
        books = await self._read(partition)
        if books is None:
            report.unread.append(partition)
            return
        report.accounts += len(books.accounts)
        report.open_holds += len(books.open_holds)
        report.entries += len(books.entries)
        report.mismatches += check(books)

    async def _read(self, partition: int) -> PartitionBooks | None:
        """The partition at one moment: every movement writes the journal, so a journal that is the same before and
        after means that nothing moved in between."""
        for attempt in range(_READS_MAX):
            through, opening = await self._ledger.opening(partition)
            entries = await self._entries(partition, through)
            accounts = await self._ledger.accounts(partition)
            holds = await self._ledger.open_holds(partition)
            counters = await self._counters(holds)
            clocks = await self._store_clock()
            last = entries[-1].number if entries else through
            moved = await self._ledger.journal(partition, last, 1)
            if not moved and (await self._ledger.opening(partition))[0] == through:
                now_ms = min(clocks.values())
                return PartitionBooks(partition, now_ms, accounts, holds, through, opening, entries, counters)
            await self._sleep(0.01 * attempt)
        return None

    async def _entries(self, partition: int, through: int) -> list[JournalEntry]:
        entries: list[JournalEntry] = []
        last = through
        while batch := await self._ledger.journal(partition, last, _ENTRIES_A_READ):
            entries += batch
            last = batch[-1].number
        return entries

    async def _counters(self, holds: Sequence[HoldRecord]) -> dict[tuple[str, str, Measure], CounterState | None]:
        found: dict[tuple[str, str, Measure], CounterState | None] = {}
        for hold in holds:
            for claim in hold.scopes:
                if claim_key(claim) not in found:
                    found[claim_key(claim)] = await self._ledger.counter(hold.account, claim)
        return found

    async def _freeze(self, report: ReconcileReport) -> None:
        """An account alone where one is wrong; everything where a partition's journal or the store's past is."""
        for account in sorted({mismatch.account for mismatch in report.mismatches if mismatch.account is not None}):
            await self._ledger.freeze(account)
            report.frozen.append(account)
        general = [str(mismatch) for mismatch in report.mismatches if mismatch.account is None] + report.history
        if general:
            await self._freeze_all(general[0])
            report.frozen.append("everything")
