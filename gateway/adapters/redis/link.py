"""The hot path's Redis client: one script call before the upstream, one after, for every request.

What it promises to its callers:

* A call that has certainly not happened is tried again until its time is over: the server loads its file, has lost its
  primacy, moves a slot, does not know the script.
* A call whose outcome is unknown is told as such (`errors.OutcomeUnknown`), never as a plain failure. A script of
  the ledger is idempotent by its id, so `script` sends it once more, with the same keys and arguments, before it
  says so; `command` does that for reads alone.
* Everything else that the server refuses is a `RedisReplyError`, and for a script of the ledger that means: nothing
  changed.
* No call takes much longer than `timeout_s`, also when the server has been stopped and its sockets are open.

The failure it prevents: a retry that pays twice, and a lost connection that is taken for "not done".
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, Self

from gateway.adapters.redis.address import Layout, StoreUrl, parse_store_url
from gateway.adapters.redis.call import Call, Script, failure_of
from gateway.adapters.redis.connection import QUEUE_COMMANDS_MAX, Connection, Lost, RedisReplyError, pack
from gateway.adapters.redis.topology import ClusterSlots, SentinelPrimary, SingleServer, Topology, ask

# A person waits at most this long for an admission; a failover takes longer in any case.
DEFAULT_TIMEOUT_S = 2.0
# Refused before anything was done: the same call may go again.
_AGAIN = frozenset({"LOADING", "TRYAGAIN", "BUSY", "NOREPLICAS", "MISCONF", "NOAUTH"})
# Refused because we hold a wrong map.
_LOOK_AGAIN = frozenset({"READONLY", "CLUSTERDOWN", "MASTERDOWN"})
# A redirect is an answer, not a failure: the first few are followed at once.
_QUICK_REDIRECTS = 3
_FAILURES = (RedisReplyError, Lost)
_ASKING = pack(("ASKING",))


class Observe(Protocol):
    """Told once per call: the script's or command's name, seconds, and whether it ended in a reply."""

    def __call__(self, name: str, seconds: float, *, ok: bool) -> None: ...


class RedisLink:
    """A client for everything behind one URL. Made by `open`, shared by everybody on one event loop."""

    def __init__(self, topology: Topology, *, timeout_s: float, observe: Observe | None = None) -> None:
        self._topology = topology
        self._timeout_s = timeout_s
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._again_count = 0
        self.call_count = 0
        self.call_seconds = 0.0

    @classmethod
    async def open(cls, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, observe: Observe | None = None) -> Self:
        """Connect and look around. Errors: InvalidRequest (the URL), Unavailable (nobody answers within
        `timeout_s`)."""
        parsed = parse_store_url(url)
        topology = _topology(parsed, timeout_s)
        link = cls(topology, timeout_s=timeout_s, observe=observe)
        try:
            if parsed.layout is Layout.SINGLE and await link._is_cluster(parsed):
                await topology.close()
                link._topology = topology = ClusterSlots(parsed, timeout_s)
            await link._until_ready()
        except BaseException:
            await topology.close()
            raise
        return link

    @property
    def layout(self) -> Layout:
        """Single, sentinel or cluster: as found, not as the URL said."""
        return self._topology.layout

    def servers(self) -> tuple[str, ...]:
        """The primaries, as host:port or socket path."""
        return tuple(str(channel.address) for channel in self._topology.channels())

    async def command(self, *args: bytes | str | int, key: str) -> Any:
        """One command. `key` says which server ("" where any will do). After an unknown outcome only reads are
        repeated.

        Errors: RedisReplyError, Unavailable (did not happen), OutcomeUnknown.
        """
        name = args[0] if isinstance(args[0], str) else "command"
        return await self._call(name, pack(args), key.encode(), None)

    def script(
        self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]
    ) -> Coroutine[Any, Any, Any]:
        """One script on keys of one slot. Sent once more with the same arguments after an unknown outcome.

        Errors: RedisReplyError (nothing has changed), Unavailable (did not happen), OutcomeUnknown.
        """
        packed = pack(("EVALSHA", script.sha1, len(keys), *keys, *args))
        return self._call(script.name, packed, keys[0].encode(), script)

    async def each_server(self, *args: bytes | str | int) -> dict[str, Any]:
        """One command on every primary. An error reply is a value here. Errors: Unavailable, OutcomeUnknown."""
        packed = pack(args)
        replies: dict[str, Any] = {}
        for channel in self._topology.channels():
            try:
                reply = await (await channel.open()).send(packed)
            except Lost as error:
                reply = error
            if isinstance(reply, Lost):
                raise failure_of(reply)
            replies[str(channel.address)] = reply
        return replies

    async def close(self) -> None:
        """Close every connection; calls in flight end as unknown."""
        await self._topology.close()

    async def _call(self, name: str, packed: bytes, key: bytes, script: Script | None) -> Any:
        started_s = self._loop.time()
        ok = False
        try:
            connection = self._live(key)
            reply: Any = None if connection is None else await connection.send(packed)
            if type(reply) is not list and (connection is None or isinstance(reply, _FAILURES)):
                reply = await self._call_again(Call(name, packed, key, script, started_s + self._timeout_s), reply)
            ok = True
            return reply
        finally:
            seconds = self._loop.time() - started_s
            self.call_count += 1
            self.call_seconds += seconds
            if self._observe is not None:
                self._observe(name, seconds, ok=ok)

    def _live(self, key: bytes) -> Connection | None:
        try:
            return self._topology.channel(key).live
        except Lost:
            return None

    async def _call_again(self, call: Call, reply: RedisReplyError | Lost | None) -> Any:
        """The slow way, after the first try went wrong. `reply` is what went wrong; None: there was no connection."""
        if self._again_count >= QUEUE_COMMANDS_MAX:
            raise failure_of(Lost("too many calls wait for the store", written=False))
        self._again_count += 1
        try:
            while True:
                pause_s = 0.0 if reply is None else await self._learn(call, reply)
                if self._loop.time() + pause_s >= call.deadline_s:
                    raise failure_of(call.unknown or reply or Lost("no connection in time", written=False))
                await asyncio.sleep(pause_s)
                reply = await self._send(call)
                if not isinstance(reply, _FAILURES):
                    return reply
        finally:
            self._again_count -= 1

    async def _learn(self, call: Call, reply: RedisReplyError | Lost) -> float:
        """Change the call or the map after a failure, so that the next try can succeed; give the pause before it, in
        seconds. Raises when there shall be no next try."""
        call.asking = None
        if isinstance(reply, Lost):
            if reply.written:
                call.lost_again(reply)
            await self._look_again(call)
            return call.next_pause_s()
        match reply.code:
            case "NOSCRIPT" if call.script is not None and not call.load:
                call.load = True
                return 0.0
            case "MOVED" | "ASK":
                return self._redirect(call, str(reply))
            case code if code in _LOOK_AGAIN:
                if code == "READONLY":
                    self._topology.channel(call.key).renew()
                await self._look_again(call)
                return call.next_pause_s()
            case code if code in _AGAIN:
                return call.next_pause_s()
        if call.unknown is not None:
            raise failure_of(call.unknown) from reply
        raise reply

    def _redirect(self, call: Call, text: str) -> float:
        """MOVED and ASK name the slot and the server; a server that leaves its own name out is the one that was
        asked."""
        code, slot, server = text.split(" ")[:3]
        host, _, port = server.rpartition(":")
        target = (host or self._topology.channel(call.key).address.host, int(port))
        if code == "MOVED":
            self._topology.moved(int(slot), *target)
        else:
            call.asking = target
        call.redirects += 1
        return 0.0 if call.redirects <= _QUICK_REDIRECTS else call.next_pause_s()

    async def _look_again(self, call: Call) -> None:
        """A discovery that fails is no news: the next try will say so."""
        with suppress(Lost, TimeoutError):
            async with asyncio.timeout_at(call.deadline_s):
                await self._topology.discover()

    async def _send(self, call: Call) -> Any:
        """One more try. Lost(written=False) when the time is over before the call went out."""
        try:
            channel = (
                self._topology.channel(call.key) if call.asking is None else self._topology.channel_at(*call.asking)
            )
            async with asyncio.timeout_at(call.deadline_s):
                connection = await channel.open()
        except TimeoutError:
            return Lost("no connection in time", written=False)
        except Lost as error:
            return error
        # No await between these: ASKING counts for the next command of the connection only.
        if call.load and call.script is not None:
            connection.send(pack(("SCRIPT", "LOAD", call.script.text)))
        if call.asking is not None:
            connection.send(_ASKING)
        reply = connection.send(call.packed)
        try:
            async with asyncio.timeout_at(call.deadline_s):
                return await reply
        except TimeoutError:
            return Lost("no reply in time", written=True)

    async def _is_cluster(self, url: StoreUrl) -> bool:
        """Whether a plain URL leads into a cluster. A server that is away is asked again until the timeout."""
        deadline_s = self._loop.time() + self._timeout_s
        pauses = Call("", b"", b"", None, deadline_s)
        while True:
            try:
                return b"cluster_enabled:1" in await ask(url.address, "INFO", "cluster")
            except Lost as error:
                pause_s = pauses.next_pause_s()
                if self._loop.time() + pause_s >= deadline_s:
                    raise failure_of(error) from error
                await asyncio.sleep(pause_s)

    async def _until_ready(self) -> None:
        """A first call, so that `open` tells at once what is wrong."""
        deadline_s = self._loop.time() + self._timeout_s
        pauses = Call("", b"", b"", None, deadline_s)
        while True:
            try:
                await self._topology.discover()
                for channel in self._topology.channels():
                    await channel.open()
                return
            except Lost as error:
                pause_s = pauses.next_pause_s()
                if self._loop.time() + pause_s >= deadline_s:
                    raise failure_of(error) from error
                await asyncio.sleep(pause_s)


def _topology(url: StoreUrl, timeout_s: float) -> Topology:
    match url.layout:
        case Layout.SINGLE:
            return SingleServer(url, timeout_s)
        case Layout.SENTINEL:
            return SentinelPrimary(url, timeout_s)
        case Layout.CLUSTER:
            return ClusterSlots(url, timeout_s)
