"""Follows the journal for the organizations that want each of their charges told, and batches them for the outbox.

Run before the journal is trimmed: nothing is forgotten that was not told. It costs one look while nobody wants it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gateway.core.errors import Unavailable
from gateway.core.holds import HoldRecord, partition_of
from gateway.core.journal import JournalEntry
from gateway.core.usage_events import is_charge, usage_event

_log = logging.getLogger("farebox.webhooks")

# A request has two entries: about a hundred charges, 50 KB, in one delivery.
_ENTRIES_A_BATCH = 200


class Feed(Protocol):
    """Who is told, and how far."""

    async def orgs(self) -> Sequence[str]: ...
    async def position(self, org_id: str) -> tuple[int, int]: ...
    async def tell(self, org_id: str, data: bytes, *, version: int, through: int) -> bool: ...


class Books(Protocol):
    """The journal, and the holds that its entries name."""

    async def journal(self, partition: int, after: int, most: int = ...) -> list[JournalEntry]: ...
    async def hold(self, hold_id: str) -> HoldRecord | None: ...


class UsageFeeder:
    """Tells charges."""

    def __init__(self, *, feed: Feed, books: Books) -> None:
        self._feed = feed
        self._books = books

    async def once(self) -> int:
        """Tell everybody what is new; how many charges. Errors: Unavailable."""
        told = 0
        for org_id in await self._feed.orgs():
            try:
                told += await self._follow(org_id)
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 - the journal must be trimmed whatever one organization's charges hold
                _log.exception("charges of %s cannot be told", org_id)
        return told

    async def _follow(self, org_id: str) -> int:
        told, partition = 0, partition_of(org_id)
        while True:
            version, after = await self._feed.position(org_id)
            entries = await self._books.journal(partition, after, _ENTRIES_A_BATCH)
            if not entries:
                return told
            if entries[0].number != after + 1:
                _log.error("charges of %s between %d and %d were never told", org_id, after, entries[0].number)
            events = await self._events(org_id, entries)
            data = msgspec.json.encode({"events": events}) if events else b""
            if not await self._feed.tell(org_id, data, version=version, through=entries[-1].number):
                return told
            told += len(events)
            if len(entries) < _ENTRIES_A_BATCH:
                return told

    async def _events(self, org_id: str, entries: Sequence[JournalEntry]) -> list[dict[str, Any]]:
        charges = [entry for entry in entries if is_charge(entry)]
        holds = await asyncio.gather(*(self._books.hold(entry.id) for entry in charges))
        found = [usage_event(org_id, entry, hold) for entry, hold in zip(charges, holds, strict=True)]
        return [event for event in found if event is not None]
