"""A metered stream between a scripted upstream and a scripted client: what goes out is paid, whatever happens."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_parts import INPUT_COUNTED, POLICY, Client, World, play, split, tokens
from stream_samples import chat

from gateway.core.holds import Extended, Refusal, Refused, Renewed
from gateway.core.usage import Basis, Usage
from gateway.flows.checkpoints import RENEWAL_MARGIN_S
from gateway.web.outlet import Outlet


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


GOES_ON: tuple[dict[str, Any], ...] = ({"drain": True}, {"shows_all": False}, {"unseen": True})


async def blocked_outlet() -> Outlet:
    """The client's real side, whose socket takes nothing."""

    async def receive() -> dict[str, Any]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody hangs up")

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    return Outlet(receive, send)


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "outlet"])
@pytest.mark.parametrize("owes", GOES_ON, ids=["drain", "reasoning", "conversation"])
async def test_who_stalls_pays_what_the_stream_owes_as_who_hangs_up_does(owes: dict[str, Any], real: bool) -> None:
    sample = chat(tokens(200))
    policy = replace(POLICY, hold_lifetime_s=RENEWAL_MARGIN_S + 0.3, checkpoint_interval_s=0.05)
    sink: Any = await blocked_outlet() if real else Client()
    world = World(credit=100_000, policy=policy, sink=sink, **owes)
    if real:
        await sink.begin(200, [], on_gone=world.stream.client_gone, on_drained=world.stream.drained)
    else:
        sink.blocked_since = world.loop.time()
    pieces = split(sample.data, [300])
    await world.upstream.send(pieces[0])
    assert sink.blocked_since is not None and world.upstream.paused
    world.stream.last_data_at -= 61  # it was paused for so long
    sink.blocked_since -= 61
    world.tick(read_timeout_s=30.0)
    assert sink.gone and not world.upstream.paused and not world.upstream.aborted
    for _ in range(8):  # longer than the hold lives without checkpoints
        await asyncio.sleep(0.05)
        world.tick(read_timeout_s=30.0)
    await play(world, pieces[1:])
    usage, basis = world.stream.usage()
    assert world.stream.failure is None
    assert (usage.input_tokens, usage.output_tokens, basis) == (
        sample.input_tokens,
        sample.output_tokens,
        Basis.REPORTED,
    )
    assert sink.blocked_since is None


async def test_an_upstream_that_stalls_is_given_up_also_when_nobody_reads() -> None:
    world = World(credit=10_000, drain=True)
    world.client.blocked_since = world.loop.time() - 61
    await world.upstream.send(chat(tokens(2)).data[:700])
    world.tick(read_timeout_s=10.0)
    assert world.client.gone
    world.tick(9.0, read_timeout_s=10.0)
    assert not world.stream.finished.done()
    world.tick(11.0, read_timeout_s=10.0)
    await world.finished()
    assert world.stream.failure == "upstream_stalled"


async def test_an_upstream_that_waited_for_a_slow_client_was_not_silent() -> None:
    world = World(credit=10_000)
    world.client.blocked_since = world.loop.time()
    world.upstream._sink(chat(tokens(2)).data[:700])
    world.stream.last_data_at -= 59
    world.client.blocked_since = None
    world.stream.drained()
    world.tick(1.0, read_timeout_s=30.0)
    assert world.stream.failure is None


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
