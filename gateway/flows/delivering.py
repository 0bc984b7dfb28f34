"""Tells organizations what happened: in order for each of them, again until it is taken; then dead letters.

Each organization has a queue of its own, and receivers that fail have their own turn: one that fails, or is slow, holds
up nobody else's events, however many wait for it. An event is taken out after it was told, so a worker that dies in
between tells it again, under the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from gateway.core.directory import Event
from gateway.core.errors import Unavailable
from gateway.core.holds import PARTITIONS
from gateway.core.request_record import rfc3339
from gateway.core.webhooks import USAGE, Delivery, DeliveryPolicy, Hook
from gateway.ports import System

GONE = 410
# Open connections; those that did not take the last event share the smaller number.
_AT_ONCE, _FAILING_AT_ONCE = 256, 32
# Events that one organization is told in a turn; the next turn goes on, if the lease is still ours.
_A_TURN = 100

_log = logging.getLogger("farebox.webhooks")


class Outbox(Protocol):
    """Where events wait."""

    async def look(self, partition: int, now_ms: int) -> tuple[list[Event], list[str]]: ...
    async def share(self, org_id: str, events: Sequence[Event], policy: DeliveryPolicy) -> int: ...
    async def oldest(self, org_id: str, most: int) -> list[Event]: ...
    async def done(self, event: Event) -> None: ...
    async def bury(self, event: Event, most: int) -> None: ...
    async def hook(self, org_id: str) -> Hook | None: ...
    async def delivery(self, org_id: str) -> Delivery: ...
    async def put_delivery(self, org_id: str, delivery: Delivery) -> None: ...


class Sender(Protocol):
    """Sends one webhook."""

    async def send(
        self, url: str, *, event_id: str, body: bytes, signing: list[str], media_type: str
    ) -> tuple[int, str]: ...


class Opening(Protocol):
    """Opens sealed secrets."""

    def open(self, sealed: bytes, *, of: str) -> bytes: ...


async def _as_it_is(event: Event) -> Event:
    return event


async def _unwitnessed(_event: Event) -> None:
    """Nobody wants to know."""


class Deliverer:
    """Delivers what waits. Run `once` under a lease. `witness` is shown each event before it leaves the step that
    caused it, more than once where a worker dies; `readable` puts it into the words of the API."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        sender: Sender,
        vault: Opening,
        system: System,
        witness: Callable[[Event], Awaitable[None]] = _unwitnessed,
        readable: Callable[[Event], Awaitable[Event]] = _as_it_is,
        counted: Callable[[str], None] = lambda _outcome: None,
        policy: DeliveryPolicy | None = None,
    ) -> None:
        self._outbox = outbox
        self._sender = sender
        self._vault = vault
        self._system = system
        self._witness = witness
        self._readable = readable
        self._counted = counted
        self._policy = policy or DeliveryPolicy()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._working, self._failing = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(_FAILING_AT_ONCE)

    async def once(self) -> int:
        """Look at every partition, and begin to tell whoever may be told: how many organizations. Errors: Unavailable
        where a part of the store is away; the others are told nevertheless."""
        found = await asyncio.gather(*map(self._due, range(PARTITIONS)), return_exceptions=True)
        begun = 0
        for org_id in [org_id for orgs in found if not isinstance(orgs, BaseException) for org_id in orgs]:
            if org_id not in self._busy:
                self._busy[org_id] = asyncio.create_task(self._tell_all(org_id), name=f"webhooks of {org_id}")
                begun += 1
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return begun

    async def idle(self) -> None:
        """Wait for everything that was begun."""
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def close(self) -> None:
        """Stop; what was under way is told again later."""
        for task in tuple(self._busy.values()):
            task.cancel()
        await self.idle()

    async def _due(self, partition: int) -> list[str]:
        """Share what is fresh; then whoever may be told."""
        while True:
            fresh, orgs = await self._outbox.look(partition, self._now_ms())
            if not fresh:
                return orgs
            shares: dict[str, list[Event]] = {}
            for event in fresh:
                await self._witness(event)
                shares.setdefault(event.org_id, []).append(await self._readable(event))
            for org_id, events in shares.items():
                for _ in range(await self._outbox.share(org_id, events, self._policy)):
                    self._counted("dead")

    async def _tell_all(self, org_id: str) -> None:
        """Tell an organization its events in order, up to the first that is not taken."""
        try:
            for event in await self._outbox.oldest(org_id, _A_TURN):
                delivery = await self._outbox.delivery(org_id)
                async with self._failing if delivery.attempts else self._working:
                    if not await self._tell(await self._outbox.hook(org_id), delivery, event):
                        break
        except Unavailable as error:
            _log.warning("webhooks of %s wait for the store: %s", org_id, error)
        except Exception:  # noqa: BLE001 - one organization's trouble must not end the others
            _log.exception("webhooks of %s cannot be told", org_id)
        finally:
            del self._busy[org_id]

    async def _tell(self, hook: Hook | None, delivery: Delivery, event: Event) -> bool:
        """Whether the next one may be told."""
        if hook is None or not hook.wants(event.kind):
            await self._outbox.done(event)
            return True
        if delivery.gone:
            await self._bury(event)
            return True
        if self._now_ms() < delivery.next_at_ms:
            await self._outbox.put_delivery(hook.org_id, delivery)
            return False
        body, media_type = webhook_body(event)
        status, error = await self._sender.send(
            hook.url, event_id=event.event_id, body=body, signing=self._secrets(hook), media_type=media_type
        )
        if 200 <= status < 300:
            await self._outbox.put_delivery(hook.org_id, Delivery(last_at_ms=self._now_ms()))
            await self._outbox.done(event)
            self._counted("delivered")
            return True
        self._counted("failed")
        if await self._outbox.hook(hook.org_id) == hook:  # else it was the receiver of before that failed
            await self._failed(event, delivery, status, error)
        return False

    async def _failed(self, event: Event, before: Delivery, status: int, error: str) -> None:
        """Note what did not go, and pause."""
        now_ms, attempts, gone = self._now_ms(), before.attempts + 1, status == GONE
        after = Delivery(
            attempts=attempts,
            next_at_ms=0 if gone else now_ms + self._policy.pause_s(attempts) * 1_000,
            failing_since_ms=before.failing_since_ms or now_ms,
            last_at_ms=before.last_at_ms,
            last_error=error,
            gone=gone,
        )
        await self._outbox.put_delivery(event.org_id, after)
        if self._policy.gives_up(attempts):
            await self._bury(event)

    async def _bury(self, event: Event) -> None:
        await self._outbox.bury(event, self._policy.dead_most)
        self._counted("dead")

    def _secrets(self, hook: Hook) -> list[str]:
        is_rotating = self._now_ms() < hook.previous_until_ms
        sealed = [hook.secret, *([hook.previous_secret] if is_rotating else [])]
        return [self._vault.open(each.encode(), of=f"{hook.org_id}|hook").decode() for each in sealed]

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def webhook_body(event: Event) -> tuple[bytes, str]:
    """What is sent, and its media type: type, timestamp and data; charges as a batch of CloudEvents."""
    if event.kind == USAGE:
        events = msgspec.json.decode(event.data, type=dict[str, msgspec.Raw])["events"]
        return bytes(events), "application/cloudevents-batch+json"
    members = {"type": event.kind, "timestamp": rfc3339(event.at_ms), "data": msgspec.Raw(event.data)}
    return msgspec.json.encode(members), "application/json"
