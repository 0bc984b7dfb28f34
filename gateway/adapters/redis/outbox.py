"""What is to be told, in Redis: `{pNN}outbox` streams, written in the step that causes the event.

`{pNN}hook:<org>` endpoint, `{pNN}delivery:<org>` how it fares, `{pNN}dead:<org>` what could not be told, newest first,
`{pNN}told:<org>` the newest events, told or not. An entry is deleted once it was told, or is dead: whoever dies in
between tells it again under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.core.directory import Event
from gateway.core.webhooks import Delivery, Hook

TOLD_MOST = 200
_BATCH = 100


class RedisOutbox:
    """Events over one shared link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, event: Event) -> None:
        """Put an event that no script wrote."""
        name = keys.outbox_key(keys.tag(event.org_id))
        fields = ("kind", event.kind, "at", event.at_ms, "org", event.org_id, "data", event.data)
        await self._link.command("XADD", name, "*", *fields, key=name)

    async def waiting(self, partition: int) -> list[Event]:
        """The oldest events of a partition."""
        name = f"{keys.partition_tag(partition)}outbox"
        rows = await self._link.command("XRANGE", name, "-", "+", "COUNT", _BATCH, key=name)
        return [_event(partition, entry_id, fields) for entry_id, fields in rows]

    async def waiting_of(self, org_id: str) -> int:
        """How many events of an organization wait, among the oldest of its partition."""
        return sum(event.org_id == org_id for event in await self.waiting(int(keys.tag(org_id)[2:4], 16)))

    async def done(self, event: Event) -> None:
        """It was told, or nobody wants it."""
        of_tag = keys.tag(event.org_id)
        told = f"{of_tag}told:{event.org_id}"
        await self._link.command("LPUSH", told, msgspec.json.encode(event), key=told)
        await self._link.command("LTRIM", told, 0, TOLD_MOST - 1, key=told)
        name = keys.outbox_key(of_tag)
        await self._link.command("XDEL", name, event.event_id.rpartition("_")[2][2:], key=name)

    async def bury(self, event: Event, most: int) -> None:
        """It could not be told: kept where people see it."""
        name = f"{keys.tag(event.org_id)}dead:{event.org_id}"
        await self._link.command("LPUSH", name, msgspec.json.encode(event), key=name)
        await self._link.command("LTRIM", name, 0, most - 1, key=name)
        await self.done(event)

    async def dead(self, org_id: str) -> Sequence[Event]:
        """What could not be told, newest first."""
        return await self._list(f"{keys.tag(org_id)}dead:{org_id}")

    async def told(self, org_id: str) -> Sequence[Event]:
        """The newest events."""
        return await self._list(f"{keys.tag(org_id)}told:{org_id}")

    async def exhume(self, event: Event) -> bool:
        """Take a dead event out, to be told again; False where it is there no more."""
        name = f"{keys.tag(event.org_id)}dead:{event.org_id}"
        if not await self._link.command("LREM", name, 1, msgspec.json.encode(event), key=name):
            return False
        await self.add(event)
        return True

    async def hook(self, org_id: str) -> Hook | None:
        """An organization's endpoint."""
        name = f"{keys.tag(org_id)}hook:{org_id}"
        raw = await self._link.command("GET", name, key=name)
        return None if raw is None else msgspec.json.decode(raw, type=Hook)

    async def put_hook(self, hook: Hook) -> None:
        """Write an endpoint; what failed before is tried again at once."""
        name = f"{keys.tag(hook.org_id)}hook:{hook.org_id}"
        await self._link.command("SET", name, msgspec.json.encode(hook), key=name)
        await self.put_delivery(hook.org_id, Delivery())

    async def delete_hook(self, org_id: str) -> None:
        """Take an endpoint out."""
        name = f"{keys.tag(org_id)}hook:{org_id}"
        await self._link.command("DEL", name, key=name)

    async def delivery(self, org_id: str) -> Delivery:
        """How the oldest waiting event fares."""
        name = f"{keys.tag(org_id)}delivery:{org_id}"
        raw = await self._link.command("GET", name, key=name)
        return Delivery() if raw is None else msgspec.json.decode(raw, type=Delivery)

    async def put_delivery(self, org_id: str, delivery: Delivery) -> None:
        """Remember it."""
        name = f"{keys.tag(org_id)}delivery:{org_id}"
        await self._link.command("SET", name, msgspec.json.encode(delivery), key=name)

    async def _list(self, name: str) -> list[Event]:
        return [
            msgspec.json.decode(raw, type=Event) for raw in await self._link.command("LRANGE", name, 0, -1, key=name)
        ]


def _event(partition: int, entry_id: bytes, fields: list[bytes]) -> Event:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    return Event(
        f"evt_{partition:02x}{entry_id.decode()}",
        named[b"org"].decode(),
        named[b"kind"].decode(),
        int(named[b"at"]),
        named[b"data"],
    )
