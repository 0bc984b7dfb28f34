"""Which server has a key: one server, the primary that Sentinel names, or the owner of a slot.

Discovery is seldom and takes connections of its own, closed at once. The hot path only asks `channel(key)`, which never
waits.

Invariants: one discovery at a time; one that fails leaves the old map in place; a channel of a server that has left
the map is closed only when its calls are done, so that a change of the map alone never makes an outcome unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from redis.crc import key_slot

from gateway.adapters.redis.address import Address, Layout, StoreUrl
from gateway.adapters.redis.channel import CONNECT_TIMEOUT_S, Channel
from gateway.adapters.redis.connection import Lost, RedisReplyError, connect, pack

# A failing cluster makes every call ask for a new map; one look in this time serves them all.
_LEAST_S_BETWEEN_DISCOVERIES = 0.1
_SLOTS = 16_384


class Topology(Protocol):
    """Where to send what."""

    layout: Layout

    def channel(self, key: bytes) -> Channel: ...
    def channel_at(self, host: str, port: int) -> Channel: ...
    def moved(self, slot: int, host: str, port: int) -> None: ...
    async def discover(self) -> None: ...
    def channels(self) -> Sequence[Channel]: ...
    async def close(self) -> None: ...


class _Channels:
    """The channels by server, and the rule that discoveries are few and one at a time."""

    layout = Layout.SINGLE

    def __init__(self, url: StoreUrl, reply_timeout_s: float) -> None:
        self._url = url
        self._reply_timeout_s = reply_timeout_s
        self._by_server: dict[tuple[str, int], Channel] = {}
        self._discovering: asyncio.Task[Lost | None] | None = None
        self._discovered_at_s = float("-inf")

    def channel_at(self, host: str, port: int) -> Channel:
        channel = self._by_server.get((host, port))
        if channel is None:
            channel = Channel(self._url.address.at(host, port), reply_timeout_s=self._reply_timeout_s)
            self._by_server[host, port] = channel
        return channel

    def moved(self, slot: int, host: str, port: int) -> None:
        """One slot has a new owner."""

    async def discover(self) -> None:
        """Look again who is who. Errors: Lost(written=False)."""
        if self._discovering is None:
            if time.monotonic() - self._discovered_at_s < _LEAST_S_BETWEEN_DISCOVERIES:
                return
            self._discovering = asyncio.create_task(self._discover_once())
        failure = await asyncio.shield(self._discovering)
        if failure is not None:
            raise Lost(str(failure), written=False)

    async def _discover_once(self) -> Lost | None:
        try:
            await self._look()
        except Lost as error:
            return Lost(f"cannot find out which server is the primary: {error}", written=False)
        finally:
            self._discovering = None
            self._discovered_at_s = time.monotonic()
        return None

    async def _look(self) -> None:
        """One server needs no discovery."""

    def _retire(self, keep: set[tuple[str, int]]) -> None:
        """Forget the idle channels of servers that have left."""
        for server in list(self._by_server.keys() - keep):
            live = self._by_server[server].live
            if live is None or not live.waiting_count:
                if live is not None:
                    live.abort("the server has left the map")
                del self._by_server[server]

    async def close(self) -> None:
        if self._discovering is not None:
            self._discovering.cancel()
            await asyncio.wait((self._discovering,))
        for channel in self._by_server.values():
            await channel.close()


class SingleServer(_Channels):
    """One server, by TCP or by socket."""

    def __init__(self, url: StoreUrl, reply_timeout_s: float) -> None:
        super().__init__(url, reply_timeout_s)
        self._only = Channel(url.address, reply_timeout_s=reply_timeout_s)
        self._by_server[url.address.host, url.address.port] = self._only

    def channel(self, key: bytes) -> Channel:
        return self._only

    def channels(self) -> Sequence[Channel]:
        return (self._only,)


class SentinelPrimary(_Channels):
    """The primary that the sentinels name."""

    layout = Layout.SENTINEL

    def __init__(self, url: StoreUrl, reply_timeout_s: float) -> None:
        super().__init__(url, reply_timeout_s)
        self._primary: tuple[str, int] | None = None

    def channel(self, key: bytes) -> Channel:
        if self._primary is None:
            raise Lost("no primary is known yet", written=False)
        return self.channel_at(*self._primary)

    def channels(self) -> Sequence[Channel]:
        return () if self._primary is None else (self.channel_at(*self._primary),)

    async def _look(self) -> None:
        failure = Lost("no sentinel answers", written=False)
        for host, port in self._url.seeds:
            sentinel = replace(
                self._url.address.at(host, port),
                db=0,
                username=self._url.sentinel_username,
                password=self._url.sentinel_password,
            )
            try:
                state = await ask(sentinel, "SENTINEL", "MASTER", self._url.service)
            except Lost as error:
                failure = error
                continue
            fields = dict(zip(state[::2], state[1::2], strict=True))
            flags = set(fields[b"flags"].split(b","))
            if b"master" in flags and not flags & {b"s_down", b"o_down", b"disconnected"}:
                self._primary = (fields[b"ip"].decode(), int(fields[b"port"]))
                self._retire({self._primary})
                return
            failure = Lost(f"the sentinel at {sentinel} holds the primary for down", written=False)
        raise failure


class ClusterSlots(_Channels):
    """A cluster: the owner of a key's slot."""

    layout = Layout.CLUSTER

    def __init__(self, url: StoreUrl, reply_timeout_s: float) -> None:
        super().__init__(url, reply_timeout_s)
        self._owners: list[tuple[str, int] | None] = [None] * _SLOTS

    def channel(self, key: bytes) -> Channel:
        owner = self._owners[key_slot(key)]
        if owner is None:
            raise Lost("no server owns the key's slot", written=False)
        return self.channel_at(*owner)

    def channels(self) -> Sequence[Channel]:
        return tuple(
            self.channel_at(*owner) for owner in sorted({owner for owner in self._owners if owner is not None})
        )

    def moved(self, slot: int, host: str, port: int) -> None:
        self._owners[slot] = (host, port)

    async def _look(self) -> None:
        candidates = dict.fromkeys((*self._by_server, *self._url.seeds))
        failure = Lost("no node of the cluster answers", written=False)
        for host, port in candidates:
            try:
                ranges = await _slot_ranges(self._url.address.at(host, port))
            except Lost as error:
                failure = error
                continue
            owners: list[tuple[str, int] | None] = [None] * _SLOTS
            for first, last, owner in ranges:
                owners[first : last + 1] = [owner] * (last - first + 1)
            self._owners = owners
            self._retire({owner for owner in owners if owner is not None})
            return
        raise failure


async def ask(address: Address, *args: str) -> Any:
    """One command on a connection of its own. Errors: Lost(written=False), also for an error reply."""
    try:
        connection = await connect(address, reply_timeout_s=CONNECT_TIMEOUT_S, connect_timeout_s=CONNECT_TIMEOUT_S)
        try:
            reply = await connection.send(pack(args))
        finally:
            await connection.close()
    except (OSError, TimeoutError, RedisReplyError, Lost) as error:
        raise Lost(f"{address}: {error or 'no answer in time'}", written=False) from error
    if isinstance(reply, RedisReplyError | Lost):
        raise Lost(f"{address}: {reply}", written=False)
    return reply


async def _slot_ranges(address: Address) -> list[tuple[int, int, tuple[str, int]]]:
    """First slot, last slot, primary. A node that does not know its own name leaves it out: it is the one that was
    asked."""
    reply = await ask(address, "CLUSTER", "SLOTS")
    return [
        (first, last, ((primary[0] or b"").decode() or address.host, primary[1])) for first, last, primary, *_ in reply
    ]
