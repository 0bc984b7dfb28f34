"""What the books say about risk: how much is spent a second now, so that seconds of loss become money."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from gateway.core.holds import PARTITIONS, Balance
from gateway.core.journal import OPENING, JournalEntry, Totals
from gateway.core.money import Unit

# Long enough that one large posting does not look like a rate, short enough to still lie in the store.
WINDOW_S = 60
_AT_ONCE = 32


class Books(Protocol):
    """What is read."""

    async def journal(self, partition: int, after: int, most: int = 1_000) -> Sequence[JournalEntry]: ...
    async def opening(self, partition: int) -> tuple[int, Totals]: ...
    async def balance(self, account: str) -> Balance | None: ...


async def present_spend_per_s(books: Books, *, now_ms: int) -> dict[Unit, int]:
    """What was posted in the last minute, a second and per unit, rounded up. Errors: Unavailable."""
    posted: dict[str, int] = defaultdict(int)
    for start in range(0, PARTITIONS, _AT_ONCE):
        lists = await asyncio.gather(*(_recent(books, number, now_ms) for number in range(start, start + _AT_ONCE)))
        for entry in (entry for entries in lists for entry in entries):
            posted[entry.account] += max(entry.adds.posted, 0)
    spend: dict[Unit, int] = defaultdict(int)
    for account, amount in posted.items():
        balance = await books.balance(account)
        if balance is not None:
            spend[balance.unit] += amount
    return {unit: -(-amount // WINDOW_S) for unit, amount in spend.items() if amount}


async def _recent(books: Books, partition: int, now_ms: int) -> list[JournalEntry]:
    last, _ = await books.opening(partition)
    found: list[JournalEntry] = []
    while batch := await books.journal(partition, last):
        last = batch[-1].number
        # An opening is no spend: it sums up what was forgotten.
        found += [
            entry
            for entry in batch
            if entry.kind != OPENING and entry.at_ms >= now_ms - WINDOW_S * 1000 and entry.adds.posted > 0
        ]
    return found
