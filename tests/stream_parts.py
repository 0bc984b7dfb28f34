"""A metered stream's surroundings, scripted: an upstream, a client, a ledger with one hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from gateway.core.answers.registry import reader_for
from gateway.core.errors import Unavailable
from gateway.core.facts import RequestFacts
from gateway.core.holds import Extended, Refused, Renewed
from gateway.core.money import NO_RATE, Unit
from gateway.core.operations import Operation
from gateway.core.price_cards import Band, PriceCard, TokenPrices
from gateway.core.terms import HoldPolicy, Terms
from gateway.flows.streaming import MeteredStream

# One nanousd a token of input, two a token of output.
PRICES = TokenPrices(
    input=1_000, cached_input=1_000, cache_write=1_000, cache_write_1h=1_000, output=2_000, reasoning=2_000
)
BANDS = (Band(-1, PRICES),)
CARD = PriceCard(provider="p", model="m", bands=BANDS, bounds=MappingProxyType({"": BANDS}))
POLICY = HoldPolicy(first_step_tokens=8, greatest_step_tokens=32)
INPUT_BOUND, INPUT_COUNTED = 50, 10


class Upstream:
    """Gives its pieces when the test says so; `paused` and `aborted` tell what was asked of it."""

    def __init__(self) -> None:
        self.complete = False
        self.failure: str | None = None
        self.paused = self.aborted = False
        self._sink: Callable[[bytes], None] = lambda _: None
        self._ended: Callable[[], None] = lambda: None

    def stream(self, sink: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._sink, self._ended = sink, ended

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True

    async def send(self, data: bytes) -> None:
        while self.paused and not self.aborted:
            await asyncio.sleep(0)
        if not self.aborted:
            self._sink(data)

    async def end(self, failure: str | None = None) -> None:
        while self.paused and not self.aborted:
            await asyncio.sleep(0)
        if not self.aborted:
            self.complete, self.failure = failure is None, failure
            self._ended()


class Client:
    """Takes everything, or nothing for a while."""

    def __init__(self) -> None:
        self.received = b""
        self.gone = False
        self.blocked_since: float | None = None

    def write(self, data: bytes) -> bool:
        self.received += data
        return self.blocked_since is None

    def cut_off(self) -> None:
        self.gone, self.blocked_since = True, None


class Credit:
    """A ledger with one hold and `available` besides it. `ceiling` is the hold's; `hard` what a limit allows in all that
    nobody can lift, `asking` what one does that a yes lifts."""

    def __init__(self, held: int, available: int, ceiling: int | None = None) -> None:
        self.held, self.available = held, available
        self.ceiling = ceiling if ceiling is not None else 2**53
        self.hard = self.asking = 2**53
        self.checkpoints: list[int] = []
        self.outcome: dict[str, Any] = {}
        self.answer: Refused | None = None
        self.away = False

    async def extend_to(self, _hold_id: str, total: int) -> Extended | Refused:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        if self.answer is not None:
            return self.answer
        greatest = min(self.held + self.available, self.hard)
        before = self.held
        self.held = max(min(total, self.ceiling, greatest, self.asking), before)
        self.available -= self.held - before
        return Extended(self.held, self.available, max(greatest - self.held, 0) if self.held < total else 0)

    async def shrink_to(self, _hold_id: str, total: int) -> Extended | Refused:
        less = max(self.held - max(total, *self.checkpoints, 0), 0)
        self.held, self.available = self.held - less, self.available + less
        return Extended(self.held, self.available)

    async def checkpoint(self, _hold_id: str, earned: int, *, outcome: bytes) -> Renewed | Refused:
        if self.away:
            raise Unavailable("away")
        if self.answer is not None:
            return self.answer
        self.checkpoints.append(earned)
        self.outcome = json.loads(outcome)
        return Renewed(earned)


class World:
    """One stream and what stands around it."""

    def __init__(
        self,
        *,
        credit: int,
        limit: int | None = None,
        drain: bool = False,
        shows_all: bool = True,
        unseen: bool = False,
        start: bool = True,
        policy: HoldPolicy = POLICY,
        ceiling: int | None = None,
        asker: Any = None,
        sink: Any = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream, self.client = Upstream(), sink if isinstance(sink, Client) else Client()
        facts = RequestFacts(
            "m",
            stream=True,
            shows_all=shows_all,
            asks_usage=True,
            input_bound_tokens=INPUT_BOUND,
            output_limit_tokens=limit,
        )
        terms = Terms(CARD, facts, Unit.NANOUSD, NO_RATE)
        first = min(terms.bound(min(POLICY.first_step_tokens, limit or 8)), credit)
        self.credit = Credit(first, credit - first, ceiling)
        self.stream = MeteredStream(
            source=self.upstream,
            sink=sink or self.client,
            reader=reader_for(
                Operation.CHAT, counter=lambda text: len(text) // 4, strip_usage=False, client_asked_usage=True
            ),
            ledger=self.credit,  # type: ignore[arg-type]
            hold_id="ho_00",
            terms=terms,
            granted=first,
            policy=policy,
            count_input=lambda: INPUT_COUNTED,
            bound_input=lambda: INPUT_COUNTED,
            renewed_at_s=self.loop.time(),
            drain_on_disconnect=drain,
            has_unseen_input=unseen,
            ceiling=ceiling,
            asker=asker,
        )
        if start:
            self.stream.start()

    def tick(self, after_s: float = 0.0, **limits: Any) -> None:
        settings = {"read_timeout_s": 100.0, "stalled_reader_s": 60.0, **limits}
        self.stream.tick(self.loop.time() + after_s, **settings)

    async def finished(self) -> None:
        await asyncio.wait_for(self.stream.finished, 5)
        await self.stream.settle_tasks()

    def cost(self) -> int:
        usage, _ = self.stream.usage()
        return self.stream.terms.amount(usage)


def tokens(count: int) -> list[str]:
    return [" abc"] * count


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


async def play(world: World, pieces: list[bytes]) -> None:
    async with asyncio.timeout(10):
        for piece in pieces:
            await world.upstream.send(piece)
            await asyncio.sleep(0)
        await world.upstream.end()
    await world.finished()
