"""A metered stream between a scripted upstream and a scripted client: what goes out is paid, whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_samples import chat

from gateway.core.answers.registry import reader_for
from gateway.core.errors import Unavailable
from gateway.core.facts import RequestFacts
from gateway.core.holds import Extended, Refusal, Refused, Renewed
from gateway.core.money import NO_RATE, Unit
from gateway.core.operations import Operation
from gateway.core.price_cards import Band, PriceCard, TokenPrices
from gateway.core.terms import HoldPolicy, Terms
from gateway.core.usage import Basis, Usage
from gateway.flows.checkpoints import RENEWAL_MARGIN_S
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
        self.gone = True


class Credit:
    """A ledger with one hold and `available` besides it."""

    def __init__(self, held: int, available: int) -> None:
        self.held, self.available = held, available
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
        more = min(max(total - self.held, 0), self.available)
        self.held, self.available = self.held + more, self.available - more
        return Extended(self.held, self.available)

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
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream, self.client = Upstream(), Client()
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
        self.credit = Credit(first, credit - first)
        self.stream = MeteredStream(
            source=self.upstream,
            sink=self.client,
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
    for piece in pieces:
        await world.upstream.send(piece)
        await asyncio.sleep(0)
    await world.upstream.end()
    await world.finished()


async def test_with_money_enough_everything_comes_through_untouched() -> None:
    sample = chat(tokens(200), usage=False)
    world = World(credit=10_000)
    await play(world, split(sample.data, [300]))
    assert world.client.received + world.stream.tail == sample.data
    assert (world.stream.cut, world.stream.failure) == (None, None)
    assert world.credit.held >= world.cost() == INPUT_COUNTED + 2 * 200


@settings(max_examples=60, deadline=None)
@given(
    credit=st.integers(70, 900),
    length=st.integers(0, 300),
    sizes=st.lists(st.integers(1, 4_000), min_size=1, max_size=5),
    limit=st.none() | st.integers(1, 400),
)
def test_no_chunking_and_no_credit_makes_a_stream_cost_more_than_it_holds(
    credit: int, length: int, sizes: list[int], limit: int | None
) -> None:
    async def run() -> None:
        sample = chat(tokens(length), usage=False)
        world = World(credit=credit, limit=limit)
        await play(world, split(sample.data, sizes))
        assert world.cost() <= world.credit.held <= credit
        delivered = world.client.received.count(b'"content":" abc"')
        assert world.cost() == INPUT_COUNTED + 2 * delivered
        if world.stream.cut is None:
            assert delivered == length
            assert world.client.received + world.stream.tail == sample.data
        else:
            assert sample.data.startswith(world.client.received)
            assert world.upstream.aborted
            assert world.stream.tail.endswith(b"data: [DONE]\n\n")
            # Not cut before its time: one more token would not have been paid.
            assert limit == delivered or INPUT_COUNTED + 2 * (delivered + 1) > credit

    asyncio.run(run())


async def test_a_stream_is_cut_at_the_requests_own_limit_when_the_upstream_ignores_it() -> None:
    world = World(credit=100_000, limit=20)
    await play(world, split(chat(tokens(50)).data, [200]))
    assert world.stream.cut == "cap"
    assert world.client.received.count(b'" abc"') == 20


async def test_a_budget_that_refuses_is_named() -> None:
    world = World(credit=80)
    world.credit.answer = Refused(Refusal.LIMIT)
    await play(world, split(chat(tokens(100)).data, [500]))
    assert world.stream.cut == "budget"


async def test_a_hold_that_is_no_longer_open_ends_the_stream_at_once() -> None:
    world = World(credit=200)
    world.credit.answer = Refused(Refusal.NOT_OPEN)
    await play(world, split(chat(tokens(100)).data, [500]))
    assert (world.stream.cut, world.stream.failure) == (None, "hold_ended")
    assert world.upstream.aborted


async def test_a_store_that_is_away_for_longer_than_the_hold_lives_ends_the_stream() -> None:
    world = World(credit=200, policy=replace(POLICY, hold_lifetime_s=RENEWAL_MARGIN_S + 0.3))
    world.credit.away = True
    await play(world, split(chat(tokens(100)).data, [500]))
    assert world.stream.failure == "store"
    assert world.cost() <= world.credit.held


async def test_a_stream_waits_for_a_store_that_is_away_for_a_moment() -> None:
    world, sample = World(credit=100_000), chat(tokens(100))
    world.credit.away = True
    world.loop.call_later(0.3, setattr, world.credit, "away", False)
    await play(world, split(sample.data, [500]))
    assert (world.stream.failure, world.stream.cut) == (None, None)
    assert world.client.received.count(b'" abc"') == 100


async def test_a_client_that_goes_while_its_stream_waits_for_the_store_ends_it() -> None:
    world = World(credit=200)
    world.credit.away = True
    await world.upstream.send(chat(tokens(100)).data)
    world.client.gone = True
    world.stream.client_gone()
    await world.finished()
    assert world.upstream.aborted
    assert world.cost() <= world.credit.held


async def test_a_client_that_hangs_up_pays_for_what_was_delivered() -> None:
    sample = chat(tokens(100))
    world = World(credit=10_000)
    await world.upstream.send(sample.data[: len(sample.data) // 2])
    world.client.gone = True
    world.stream.client_gone()
    await world.finished()
    usage, basis = world.stream.usage()
    assert world.upstream.aborted
    assert (usage.output_tokens, basis) == (world.client.received.count(b'" abc"'), Basis.COUNTED)


async def test_a_client_that_went_before_the_first_piece_pays_for_the_input_alone() -> None:
    world = World(credit=10_000, start=False)
    world.stream.client_gone()
    world.stream.start()
    await world.upstream.send(chat(tokens(50)).data)
    await world.finished()
    assert world.upstream.aborted
    assert (world.client.received, world.cost()) == (b"", INPUT_COUNTED)


async def test_a_client_that_hangs_up_while_money_is_fetched_does_not_pay_for_what_waits() -> None:
    sample = chat(tokens(100), usage=False)
    world = World(credit=10_000)
    await world.upstream.send(sample.data)
    world.stream.client_gone()
    await world.finished()
    assert world.client.received == b""
    assert world.cost() == INPUT_COUNTED


async def test_where_the_upstream_bills_regardless_a_stream_without_client_is_read_to_its_end() -> None:
    sample = chat(tokens(100))
    world = World(credit=10_000, drain=True)
    world.client.gone = True
    world.stream.client_gone()
    await play(world, split(sample.data, [300]))
    assert world.client.received == b""
    assert world.stream.usage()[0].output_tokens == sample.output_tokens
    assert not world.upstream.aborted


@pytest.mark.parametrize("hidden", [{"shows_all": False}, {"unseen": True}], ids=["reasoning", "conversation"])
async def test_who_hangs_up_before_the_last_word_still_pays_what_only_that_tells(hidden: dict[str, Any]) -> None:
    sample = chat(tokens(100))
    world = World(credit=10_000, **hidden)
    cut = sample.data.rindex(b'"usage"') - 100
    await world.upstream.send(sample.data[:cut])
    world.client.gone = True
    world.stream.client_gone()
    assert not world.upstream.aborted
    await world.upstream.send(sample.data[cut:])
    await world.upstream.end()
    await world.finished()
    usage, basis = world.stream.usage()
    assert (usage.input_tokens, usage.output_tokens, basis) == (
        sample.input_tokens,
        sample.output_tokens,
        Basis.REPORTED,
    )


async def test_an_upstream_that_breaks_off_is_charged_for_what_came() -> None:
    world = World(credit=10_000)
    await world.upstream.send(chat(tokens(30)).data[:3_000])
    await world.upstream.end("closed half-way")
    await world.finished()
    assert world.stream.failure == "upstream_closed"
    assert world.cost() == INPUT_COUNTED + 2 * world.client.received.count(b'" abc"')


async def test_checkpoints_say_what_was_earned_and_never_more_than_is_held() -> None:
    world = World(credit=10_000)
    world.tick()
    await asyncio.sleep(0)
    assert world.credit.checkpoints == [INPUT_COUNTED]
    for piece in split(chat(tokens(40), usage=False).data, [400]):
        await world.upstream.send(piece)
        await asyncio.sleep(0)
    world.tick(POLICY.checkpoint_interval_s)
    await asyncio.sleep(0)
    assert world.credit.checkpoints[1:] == [INPUT_COUNTED + 80]


async def test_a_checkpoint_tells_the_usage_that_it_charges() -> None:
    world = World(credit=10_000)
    for piece in split(chat(tokens(40), usage=False).data, [400]):
        await world.upstream.send(piece)
        await asyncio.sleep(0)
    world.tick()
    await asyncio.sleep(0)
    usage = Usage(input_tokens=INPUT_COUNTED, output_tokens=40)
    assert world.credit.outcome == {"usage": usage.as_members(), "basis": "counted"}
    assert world.credit.checkpoints == [world.stream.terms.amount(usage)]


async def test_a_checkpoint_that_finds_the_hold_ended_cuts_the_stream() -> None:
    world = World(credit=10_000)
    world.credit.answer = Refused(Refusal.NOT_OPEN)
    world.tick()
    await world.finished()
    assert world.upstream.aborted


async def test_a_checkpoint_that_the_store_does_not_take_is_tried_again() -> None:
    world = World(credit=10_000)
    world.credit.away = True
    world.tick()
    await asyncio.sleep(0)
    world.credit.away = False
    world.tick(POLICY.checkpoint_interval_s)
    world.tick(2 * POLICY.checkpoint_interval_s)  # one is under way
    await asyncio.sleep(0)
    assert len(world.credit.checkpoints) == 1


async def test_what_goes_wrong_in_a_checkpoint_ends_the_stream_instead_of_leaving_it_unmetered() -> None:
    world = World(credit=10_000)

    async def broken(_hold_id: str, earned: int, *, outcome: bytes) -> Renewed | Refused:
        raise RuntimeError("broken")

    world.credit.checkpoint = broken  # type: ignore[method-assign]
    world.tick()
    await world.finished()
    assert world.stream.failure == "unmetered" and world.upstream.aborted


async def test_nothing_is_forwarded_past_the_life_of_a_hold_that_nobody_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(credit=10_000)
    late = world.loop.time() + POLICY.hold_lifetime_s
    monkeypatch.setattr(world.loop, "time", lambda: late)
    await world.upstream.send(chat(tokens(2), usage=False).data)
    assert world.client.received == b""
    assert world.stream.failure == "lease"
    assert world.cost() == INPUT_COUNTED


async def test_an_upstream_that_stalls_is_given_up() -> None:
    world = World(credit=10_000)
    await world.upstream.send(chat(tokens(2)).data[:700])
    world.tick(11.0, read_timeout_s=10.0)
    await world.finished()
    assert world.stream.failure == "upstream_stalled"


async def test_a_client_that_takes_nothing_is_cut_and_the_upstream_waits_meanwhile() -> None:
    world = World(credit=10_000)
    world.client.blocked_since = world.loop.time()
    world.upstream._sink(chat(tokens(2)).data)
    assert world.upstream.paused
    world.tick(59.0)
    assert not world.client.gone
    world.tick(61.0)
    await world.finished()
    assert world.client.gone
    assert world.upstream.aborted


async def test_a_client_that_catches_up_lets_the_upstream_go_on() -> None:
    world = World(credit=10_000)
    world.client.blocked_since = world.loop.time()
    world.upstream._sink(chat(tokens(2)).data)
    world.client.blocked_since = None
    world.stream.drained()
    assert not world.upstream.paused


async def test_a_stream_that_cannot_be_read_ends_without_taking_the_worker_along() -> None:
    world = World(credit=10_000)

    def broken(_data: bytes) -> Any:
        raise RuntimeError("broken")

    world.stream.reader.feed = broken  # type: ignore[method-assign, assignment]
    await world.upstream.send(b"data: {}\n\n")
    assert world.stream.failure == "unreadable"


async def test_what_goes_wrong_while_money_is_fetched_ends_the_stream_instead_of_hanging_it() -> None:
    world = World(credit=10_000)

    async def broken(_hold_id: str, total: int) -> Extended | Refused:
        raise RuntimeError("broken")

    world.credit.extend_to = broken  # type: ignore[method-assign]
    await play(world, split(chat(tokens(100)).data, [500]))
    assert world.stream.failure == "unmetered"
    assert world.cost() <= world.credit.held


class Person:
    """Somebody who takes their time to answer."""

    def __init__(self, agreed: int | None) -> None:
        self.agreed, self.asked, self.answered = agreed, asyncio.Event(), asyncio.Event()
        self.told: dict[str, Any] = {}

    def asks_about(self, why: str) -> bool:
        return why == "cap"

    def margin(self, terms: Terms) -> int:
        return terms.bound(4) - terms.bound(0)

    def keep_alive(self, now: float) -> bytes:
        return b": waiting\n\n"

    async def ask(self, **told: Any) -> int | None:
        self.told = told
        self.asked.set()
        await self.answered.wait()
        return self.agreed


@pytest.mark.parametrize("agreed", [None, 2_000])
async def test_a_stream_that_waits_has_earned_what_was_delivered_and_frees_the_rest(agreed: int | None) -> None:
    sample = chat(tokens(200), usage=False)
    person = Person(agreed)
    world = World(credit=2_000, ceiling=INPUT_COUNTED + 2 * 40, asker=person)
    pieces = split(sample.data, [len(sample.data) // 8])  # about 25 tokens each: the second one does not fit
    playing = asyncio.create_task(play(world, pieces))
    await asyncio.wait_for(person.asked.wait(), 5)
    delivered = world.client.received.count(b'"content":" abc"')
    worth = INPUT_COUNTED + 2 * delivered
    assert person.told["current_cost"] == worth == world.stream.earned()
    assert world.credit.held == worth + 2 * 4, "what it earned and a margin"
    world.tick(after_s=POLICY.checkpoint_interval_s + 1)
    await asyncio.sleep(0.01)
    assert world.credit.checkpoints[-1] == worth, "a worker that dies now charges no more"
    person.answered.set()
    await playing
    received = world.client.received.replace(b": waiting\n\n", b"")
    if agreed is None:
        assert (world.stream.cut, world.upstream.aborted) == ("cap", True)
        assert sample.data.startswith(received) and world.cost() <= INPUT_COUNTED + 2 * 40
    else:
        assert received + world.stream.tail == sample.data
        assert world.cost() == INPUT_COUNTED + 2 * 200
