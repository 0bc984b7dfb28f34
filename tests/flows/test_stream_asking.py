"""A metered stream that comes to what was agreed, or to a budget: whether it asks, and what it does meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from stream_parts import INPUT_COUNTED, POLICY, World, play, split, tokens
from stream_samples import chat

from gateway.core.errors import Unavailable
from gateway.core.terms import Terms


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
    world.credit.ceiling = agreed or world.credit.ceiling
    person.answered.set()
    await playing
    received = world.client.received.replace(b": waiting\n\n", b"")
    if agreed is None:
        assert (world.stream.cut, world.upstream.aborted) == ("cap", True)
        assert sample.data.startswith(received) and world.cost() <= INPUT_COUNTED + 2 * 40
    else:
        assert received + world.stream.tail == sample.data
        assert world.cost() == INPUT_COUNTED + 2 * 200


class Yes:
    """Says yes each time: the ceiling is raised, and `lifts` says whether the budgets that ask let go."""

    def __init__(self, *, lifts: bool = True) -> None:
        self.world: World | None = None
        self.lifts = lifts
        self.asked: list[str] = []

    def asks_about(self, why: str) -> bool:
        return why in {"cap", "budget"}

    def margin(self, terms: Terms) -> int:
        return terms.bound(4) - terms.bound(0)

    def keep_alive(self, now: float) -> bytes:
        return b""

    async def ask(self, *, needed: int, reason: str, **_told: Any) -> int | None:
        assert self.world is not None and len(self.asked) < 20
        self.asked.append(reason)
        await asyncio.sleep(0)
        self.world.credit.ceiling = needed
        if reason == "budget" and self.lifts:
            self.world.credit.asking = 2**53
        return needed


async def streamed(person: Yes, *, count: int = 200, ceiling: int | None = None, **limits: int) -> World:
    person.world = world = World(credit=100_000, asker=person, ceiling=ceiling)
    for name, limit in limits.items():
        setattr(world.credit, name, limit)
    await play(world, split(chat(tokens(count), usage=False).data, [500]))
    assert world.cost() <= world.credit.held
    return world


async def test_a_budget_that_asks_is_asked_about_once_and_the_stream_goes_on() -> None:
    person = Yes()
    world = await streamed(person, count=60, asking=100)
    assert (person.asked, world.stream.cut) == (["budget"], None)


async def test_nobody_is_asked_where_a_limit_that_no_yes_lifts_ends_the_stream() -> None:
    """Another budget of the hold asks; it is not the one that is in the way."""
    person = Yes()
    world = await streamed(person, hard=100, asking=5_000)
    assert (person.asked, world.stream.cut) == ([], "budget")
    world = await streamed(person, hard=100, asking=100)
    assert (person.asked, world.stream.cut) == ([], "budget")


async def test_nobody_is_asked_to_raise_a_maximum_beyond_which_nothing_is_allowed() -> None:
    person = Yes()
    world = await streamed(person, ceiling=100, hard=100)
    assert (person.asked, world.stream.cut) == ([], "cap")


async def test_where_maximum_and_budget_end_together_each_is_asked_about() -> None:
    person = Yes()
    world = await streamed(person, count=60, ceiling=100, asking=100)
    assert (person.asked, world.stream.cut) == (["cap", "budget"], None)


async def test_a_yes_that_brought_nothing_is_not_asked_for_again() -> None:
    """Others have had the money meanwhile, or the budget asks no more."""
    person = Yes(lifts=False)
    world = await streamed(person, asking=100)
    assert (person.asked, world.stream.cut) == (["budget"], "budget")


async def test_a_stream_that_comes_to_its_new_maximum_asks_again() -> None:
    person = Yes()
    world = await streamed(person, ceiling=100)
    assert (set(person.asked), world.stream.cut) == ({"cap"}, None) and len(person.asked) > 1


async def test_a_store_that_cannot_take_the_question_ends_the_stream_as_such() -> None:
    class Away(Yes):
        async def ask(self, **_told: Any) -> int | None:
            raise Unavailable("away")

    world = await streamed(Away(), ceiling=100)
    assert (world.stream.failure, world.stream.cut) == ("store", None)
