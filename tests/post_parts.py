"""What tests of webhooks share: a real outbox, everybody's servers, and a worker that delivers turn by turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
from l402_parts import Clock

from gateway.adapters.redis.outbox import RedisOutbox
from gateway.core.directory import AuditEntry, Event
from gateway.core.webhooks import DeliveryPolicy, Hook
from gateway.flows.delivering import Deliverer

# All in one partition.
DOWN, UP, OTHER = "org_7fdown", "org_7fup", "org_7fother"
POLICY = DeliveryPolicy(first_pause_s=5, greatest_pause_s=20, attempts_most=3, waiting_most=100, dead_most=50)


def audit(org_id: str) -> AuditEntry:
    return AuditEntry(0, org_id, "key ak_7f", "key", "webhook.put", org_id)


@dataclass(slots=True)
class Receivers:
    """Everybody's servers. `answers`: by URL, 200 where there is none."""

    answers: dict[str, int] = field(default_factory=dict)
    tried: list[tuple[str, str]] = field(default_factory=list)  # url, event id
    texts: list[tuple[str, int]] = field(default_factory=list)  # url, number: what was taken
    slow: dict[str, asyncio.Event] = field(default_factory=dict)
    dies: bool = False  # the worker, after the receiver has taken it

    async def send(
        self, url: str, *, event_id: str, body: bytes, signing: list[str], media_type: str
    ) -> tuple[int, str]:
        self.tried.append((url, event_id))
        if url in self.slow:
            await self.slow[url].wait()
        status = self.answers.get(url, 200)
        if status == 200:
            self.texts.append((url, msgspec.json.decode(body)["data"]["number"]))
        if self.dies:
            raise asyncio.CancelledError
        return status, "" if status == 200 else f"status {status}"

    def taken(self, org_id: str) -> list[int]:
        return [number for url, number in self.texts if url == url_of(org_id)]


class OpenVault:
    def open(self, sealed: bytes, *, of: str) -> bytes:
        return sealed


@dataclass(slots=True)
class Post:
    """An outbox, its receivers, and who delivers."""

    outbox: RedisOutbox
    clock: Clock = field(default_factory=Clock)
    receivers: Receivers = field(default_factory=Receivers)
    counts: list[str] = field(default_factory=list)
    deliverer: Deliverer = field(init=False)

    def __post_init__(self) -> None:
        self.new_worker()

    def new_worker(self, **more: Any) -> None:
        self.deliverer = Deliverer(
            outbox=self.outbox, sender=self.receivers, vault=OpenVault(), system=self.clock, counted=self.counts.append,
            policy=POLICY, **more,
        )  # fmt: skip

    async def set_hook(self, *org_ids: str) -> None:
        for org_id in org_ids:
            await self.outbox.put_hook(Hook(org_id, url_of(org_id), "sealed"), audit(org_id))

    async def happens(self, org_id: str, *numbers: int, kind: str = "webhook.test") -> None:
        for number in numbers:
            data = b'{"number":%d}' % number
            await self.outbox.add(Event("", org_id, kind, int(self.clock.now_s() * 1_000), data))

    async def turn(self, *, later_s: float = 0.0) -> None:
        """One turn of the sweep, and everything that it began."""
        self.clock.ahead_s += later_s
        await self.deliverer.once()
        await self.deliverer.idle()

    async def dead(self, org_id: str) -> list[int]:
        return [msgspec.json.decode(each.data)["number"] for each in await self.outbox.dead(org_id)]


def url_of(org_id: str) -> str:
    return f"https://{org_id}.example/"
