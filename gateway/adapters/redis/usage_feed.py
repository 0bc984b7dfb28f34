"""Which organizations are told each of their charges, and how far they were: `{usage}orgs`, `{pNN}usage_told:<org>`.

How far it is told moves on in the step that puts the events into the outbox: however many workers read the journal, and
wherever one dies, a charge is put there once.
"""

from __future__ import annotations

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link, RedisBooks
from gateway.adapters.redis.directory import NOTHING_TOLD, RedisDirectory, Writes
from gateway.adapters.redis.journal import StoreHistory
from gateway.core.holds import partition_of
from gateway.core.webhooks import USAGE

_ORGS = "{usage}orgs"


class RedisUsageFeed:
    """Over one shared link."""

    def __init__(self, link: Link, books: RedisBooks, directory: RedisDirectory) -> None:
        self._link = link
        self._directory = directory
        self._history = StoreHistory(link, books)

    async def start(self, org_id: str) -> None:
        """Tell an organization its charges, from now on; it goes on where it stands already."""
        if org_id not in await self.orgs():
            last = await self._history.last_number(partition_of(org_id))
            await self._link.command("SET", _told(org_id), last, key=_told(org_id))
            await self._link.command("SADD", _ORGS, org_id, key=_ORGS)

    async def stop(self, org_id: str) -> None:
        """Tell them no more."""
        await self._link.command("SREM", _ORGS, org_id, key=_ORGS)

    async def orgs(self) -> list[str]:
        """Who is told."""
        return sorted(org.decode() for org in await self._link.command("SMEMBERS", _ORGS, key=_ORGS))

    async def position(self, org_id: str) -> tuple[int, int]:
        """The version of the position, for `tell`; and the number in the journal up to which the charges are told."""
        version = await self._directory.version(_part(org_id), org_id)
        told = await self._link.command("GET", _told(org_id), key=_told(org_id))
        return version, int(told or 0)

    async def tell(self, org_id: str, data: bytes, *, version: int, through: int) -> bool:
        """Move on, and tell (`data` empty: nothing); False where another worker has moved on."""
        writes: Writes = [(_told(org_id), ("set", str(through)))]
        event = (USAGE, data) if data else NOTHING_TOLD
        done = await self._directory.change(org_id, _part(org_id), writes, None, expected=version, event=event)
        return done is not None


def _told(org_id: str) -> str:
    return f"{keys.tag(org_id)}usage_told:{org_id}"


def _part(org_id: str) -> str:
    return f"{org_id}|usage"
