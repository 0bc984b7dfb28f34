"""What is to be told, in Redis: `{pNN}outbox` streams, written in the step that causes the event.

From there each event comes into its organization's own queue, so that nobody waits behind another one's receiver:
`{pNN}tell:<org>` what waits, oldest first   `{pNN}due` organizations with something waiting, by when they may be told
`{pNN}events:<org>` the newest events, told or not   `{pNN}dead:<org>` what could not be told; both newest first
`{pNN}hook:<org>` endpoint   `{pNN}delivery:<org>` how it fares

Each move is one script, and an event leaves its queue once it was told, or is dead: whoever dies in between tells it
again under the same id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.adapters.redis.directory import RedisDirectory, Writes
from gateway.adapters.redis.scripts import load
from gateway.core.directory import AuditEntry, Event
from gateway.core.webhooks import USAGE, Delivery, DeliveryPolicy, Hook

EVENTS_MOST = 200
# One look, and one script that shares what it found, take about 2 ms of the server's time.
_LOOK_MOST = 500


class RedisOutbox:
    """Events over one shared link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._directory = RedisDirectory(link)
        self._look, self._share = load("outbox_look"), load("outbox_share")
        self._end, self._retry = load("outbox_end"), load("outbox_retry")

    # Events.

    async def add(self, event: Event) -> None:
        """Put an event that no script wrote."""
        name = keys.outbox_key(keys.tag(event.org_id))
        fields = ("kind", event.kind, "at", event.at_ms, "org", event.org_id, "data", event.data)
        await self._link.command("XADD", name, "*", *fields, key=name)

    async def look(self, partition: int, now_ms: int) -> tuple[list[Event], list[str]]:
        """The oldest fresh events of a partition, and its organizations that may be told by now."""
        of_tag = keys.partition_tag(partition)
        names = [keys.outbox_key(of_tag), _due(of_tag)]
        entries, orgs = await self._link.script(self._look, names, [_LOOK_MOST, now_ms])
        return [_event(partition, *entry) for entry in entries], [org.decode() for org in orgs]

    async def share(self, org_id: str, events: Sequence[Event], policy: DeliveryPolicy) -> int:
        """Hand fresh events of an organization over to its queue; how many became dead letters."""
        of_tag = keys.tag(org_id)
        names = [keys.outbox_key(of_tag), _due(of_tag), *_lists(org_id, "tell", "events", "dead")]
        args: list[bytes | str | int] = [org_id, policy.waiting_most, policy.dead_most, EVENTS_MOST]
        for event in events:
            # Charges are in the usage; among the events they would be all that is left to see.
            args += (event.event_id.rpartition("_")[2][2:], int(event.kind != USAGE), msgspec.json.encode(event))
        return int(await self._link.script(self._share, names, args))

    async def oldest(self, org_id: str, most: int) -> list[Event]:
        """The oldest events that wait."""
        return await self._read(org_id, "tell", most)

    async def waiting_of(self, org_id: str) -> int:
        """How many events of an organization wait."""
        (name,) = _lists(org_id, "tell")
        return int(await self._link.command("LLEN", name, key=name))

    async def done(self, event: Event) -> None:
        """It was told, or nobody wants it."""
        await self._end_waiting(event, 0)

    async def bury(self, event: Event, most: int) -> None:
        """It could not be told: kept where people see it."""
        await self._end_waiting(event, most)

    async def _end_waiting(self, event: Event, dead_most: int) -> None:
        queue, dead = _lists(event.org_id, "tell", "dead")
        names = [queue, _due(keys.tag(event.org_id)), dead]
        await self._link.script(self._end, names, [event.org_id, msgspec.json.encode(event), dead_most])

    async def exhume(self, event: Event) -> bool:
        """Let a dead letter wait again, under its id, and its receiver be tried at once; False where it is there no
        more."""
        names = [*_lists(event.org_id, "dead", "tell"), _due(keys.tag(event.org_id))]
        if not await self._link.script(self._retry, names, [event.org_id, msgspec.json.encode(event)]):
            return False
        await self.put_delivery(event.org_id, replace(await self.delivery(event.org_id), next_at_ms=0))
        return True

    async def dead(self, org_id: str) -> Sequence[Event]:
        """What could not be told, newest first."""
        return await self._read(org_id, "dead")

    async def told(self, org_id: str) -> Sequence[Event]:
        """The newest events."""
        return await self._read(org_id, "events")

    async def _read(self, org_id: str, kind: str, most: int = 0) -> list[Event]:
        (name,) = _lists(org_id, kind)
        rows = await self._link.command("LRANGE", name, 0, most - 1, key=name)
        return [msgspec.json.decode(raw, type=Event) for raw in rows]

    # Receivers.

    async def hook(self, org_id: str) -> Hook | None:
        """An organization's endpoint."""
        name = f"{keys.tag(org_id)}hook:{org_id}"
        raw = await self._link.command("GET", name, key=name)
        return None if raw is None else msgspec.json.decode(raw, type=Hook)

    async def put_hook(self, hook: Hook, audit: AuditEntry) -> None:
        """Write an endpoint, audited in the same step; what failed before is tried again at once."""
        await self._change_hook(hook.org_id, ("set", msgspec.json.encode(hook)), audit)

    async def delete_hook(self, org_id: str, audit: AuditEntry) -> None:
        """Take an endpoint out, audited in the same step; what waits for it is wanted by nobody."""
        await self._change_hook(org_id, ("del",), audit)

    async def _change_hook(self, org_id: str, words: tuple[str | bytes, ...], audit: AuditEntry) -> None:
        writes: Writes = [(f"{keys.tag(org_id)}hook:{org_id}", words)]
        await self._directory.change(org_id, f"{org_id}|hook", writes, audit, expected=None)
        await self.put_delivery(org_id, Delivery())

    async def delivery(self, org_id: str) -> Delivery:
        """How an organization's receiver fares."""
        name = f"{keys.tag(org_id)}delivery:{org_id}"
        raw = await self._link.command("GET", name, key=name)
        return Delivery() if raw is None else msgspec.json.decode(raw, type=Delivery)

    async def put_delivery(self, org_id: str, delivery: Delivery) -> None:
        """Remember it; what waits may be told when it says."""
        name, due = f"{keys.tag(org_id)}delivery:{org_id}", _due(keys.tag(org_id))
        await self._link.command("SET", name, msgspec.json.encode(delivery), key=name)
        await self._link.command("ZADD", due, "XX", delivery.next_at_ms, org_id, key=due)


def _due(of_tag: str) -> str:
    return f"{of_tag}due"


def _lists(org_id: str, *kinds: str) -> list[str]:
    return [f"{keys.tag(org_id)}{kind}:{org_id}" for kind in kinds]


def _event(partition: int, entry_id: bytes, fields: list[bytes]) -> Event:
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    return Event(
        f"evt_{partition:02x}{entry_id.decode()}",
        named[b"org"].decode(),
        named[b"kind"].decode(),
        int(named[b"at"]),
        named[b"data"],
    )
