"""Tells organizations what happened: in order for each of them, again until it is taken; then dead letters.

One organization's receiver that fails, or is slow, holds up nobody else's events. An event is taken out after it was
told, so a worker that dies in between tells it again, under the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.directory import Event
from gateway.core.holds import PARTITIONS
from gateway.core.request_record import rfc3339
from gateway.core.webhooks import Delivery, DeliveryPolicy, Hook
from gateway.ports import System

GONE = 410
_AT_ONCE = 32


class Outbox(Protocol):
    """Where events wait."""

    async def waiting(self, partition: int) -> list[Event]: ...
    async def done(self, event: Event) -> None: ...
    async def bury(self, event: Event, most: int) -> None: ...
    async def hook(self, org_id: str) -> Hook | None: ...
    async def put_hook(self, hook: Hook) -> None: ...
    async def delivery(self, org_id: str) -> Delivery: ...
    async def put_delivery(self, org_id: str, delivery: Delivery) -> None: ...


class Sender(Protocol):
    """Sends one webhook."""

    async def send(self, url: str, *, event_id: str, body: bytes, signing: list[str]) -> tuple[int, str]: ...


class Opening(Protocol):
    """Opens sealed secrets."""

    def open(self, sealed: bytes, *, of: str) -> bytes: ...


class Deliverer:
    """Delivers what waits. Run `once` under a lease."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        sender: Sender,
        vault: Opening,
        system: System,
        counted: Callable[[str], None] = lambda _outcome: None,
        policy: DeliveryPolicy | None = None,
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._vault = vault
        self._system = system
        self._counted = counted
        self._policy = policy or DeliveryPolicy()
        self._busy: dict[str, asyncio.Task[int]] = {}
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def once(self) -> int:
        """Look at every partition; how many events were told meanwhile. Deliveries that take long go on by
        themselves."""
        events: dict[str, list[Event]] = {}
        for found in await asyncio.gather(*map(self._outbox.waiting, range(PARTITIONS))):
            for event in found:
                events.setdefault(event.org_id, []).append(event)
        for org_id, waiting in events.items():
            if org_id not in self._busy:
                task = asyncio.ensure_future(self._tell_all(org_id, waiting))
                self._busy[org_id] = task
                task.add_done_callback(lambda _, name=org_id: self._busy.pop(name, None))  # type: ignore[misc]
        if not self._busy:
            return 0
        done, _ = await asyncio.wait(tuple(self._busy.values()), timeout=1.0)
        return sum(task.result() for task in done if task.exception() is None)

    async def close(self) -> None:
        """Stop; what was under way is told again later."""
        for task in tuple(self._busy.values()):
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _tell_all(self, org_id: str, events: list[Event]) -> int:
        """Tell an organization its events in order, up to the first that is not taken."""
        hook, told = await self._outbox.hook(org_id), 0
        for event in events:
            wanted = hook is not None and not hook.disabled and (not hook.events or event.kind in hook.events)
            if hook is None or not wanted:
                await self._outbox.done(event)
                continue
            async with self._limit:
                if not await self._tell(hook, event):
                    break
            told += 1
        return told

    async def _tell(self, hook: Hook, event: Event) -> bool:
        """Whether the next one may be told: this one was taken, or is dead."""
        delivery, now_ms = await self._outbox.delivery(hook.org_id), self._now_ms()
        if now_ms < delivery.next_at_ms:
            return False
        status, error = await self._sender.send(
            hook.url, event_id=event.event_id, body=webhook_body(event), signing=self._secrets(hook, now_ms)
        )
        if 200 <= status < 300:
            await self._outbox.put_delivery(hook.org_id, Delivery(last_at_ms=self._now_ms()))
            await self._outbox.done(event)
            self._counted("delivered")
            return True
        self._counted("failed")
        if status == GONE:
            await self._outbox.put_hook(replace(hook, disabled=True))
            return False
        attempts = delivery.attempts + 1
        if attempts >= self._policy.attempts_most:
            await self._outbox.bury(event, self._policy.dead_most)
            await self._outbox.put_delivery(hook.org_id, replace(delivery, attempts=0, next_at_ms=0, last_error=error))
            self._counted("dead")
            return True
        later = self._now_ms() + self._policy.pause_s(attempts) * 1_000
        since = delivery.failing_since_ms or now_ms
        await self._outbox.put_delivery(hook.org_id, Delivery(attempts, later, since, delivery.last_at_ms, error))
        return False

    def _secrets(self, hook: Hook, now_ms: int) -> list[str]:
        sealed = [hook.secret] + ([hook.previous_secret] if now_ms < hook.previous_until_ms else [])
        return [self._vault.open(each.encode(), of=f"{hook.org_id}|hook").decode() for each in sealed]

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def webhook_body(event: Event) -> bytes:
    """What is sent: type, timestamp, data."""
    return msgspec.json.encode({"type": event.kind, "timestamp": rfc3339(event.at_ms), "data": msgspec.Raw(event.data)})
