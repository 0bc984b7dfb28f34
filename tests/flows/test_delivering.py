"""Webhooks on a real store: nobody waits behind another one's receiver, and what is told again keeps id and order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from post_parts import DOWN, OTHER, POLICY, UP, OpenVault, Post, audit, url_of

from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.outbox import RedisOutbox
from gateway.core.directory import Event
from gateway.core.errors import Unavailable
from gateway.core.webhooks import Delivery, Hook


@pytest.fixture
async def post(valkey_url: str) -> AsyncIterator[Post]:
    link = await RedisLink.open(valkey_url)
    post = Post(RedisOutbox(link))
    try:
        await post.set_hook(DOWN, UP)
        yield post
        await post.deliverer.close()
    finally:
        await link.close()


async def test_events_come_in_order_once_each(post: Post) -> None:
    await post.happens(UP, 1, 2, 3)
    await post.turn()
    await post.turn()
    assert post.receivers.taken(UP) == [1, 2, 3]
    assert await post.outbox.waiting_of(UP) == 0
    assert [each.event_id for each in await post.outbox.told(UP)][::-1] == [each for _, each in post.receivers.tried]


async def test_however_many_wait_for_a_dead_receiver_another_organization_is_told_at_once(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, *range(700))
    await post.happens(UP, 1)
    await post.turn()
    assert post.receivers.taken(UP) == [1]
    assert await post.outbox.waiting_of(DOWN) == POLICY.waiting_most


async def test_beyond_what_may_wait_the_oldest_are_dead_letters(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, *range(120))
    await post.turn()
    assert await post.dead(DOWN) == list(range(19, -1, -1)), "newest first"
    post.receivers.answers.clear()
    await post.turn(later_s=60)
    assert post.receivers.taken(DOWN) == list(range(20, 120))
    assert post.counts.count("dead") == 20


async def test_a_slow_receiver_holds_up_nobody(post: Post) -> None:
    post.receivers.slow[url_of(DOWN)] = asyncio.Event()
    await post.happens(DOWN, 1)
    await post.deliverer.once()
    await post.happens(UP, 2)
    await post.deliverer.once()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if post.receivers.texts:
            break
    assert post.receivers.taken(UP) == [2]
    post.receivers.slow[url_of(DOWN)].set()
    await post.deliverer.idle()
    assert post.receivers.taken(DOWN) == [1]


async def test_receivers_that_hang_after_failing_leave_room_for_those_that_work(post: Post) -> None:
    hanging = [f"org_7fbad{number}" for number in range(300)]
    await post.set_hook(*hanging)
    for org_id in hanging:
        post.receivers.answers[url_of(org_id)] = 500
        await post.happens(org_id, 1)
    await post.turn()
    post.receivers.slow |= {url_of(org_id): asyncio.Event() for org_id in hanging}
    post.clock.ahead_s += 60
    await post.deliverer.once()
    await post.happens(UP, 1)
    await post.deliverer.once()
    await asyncio.sleep(0.2)
    assert post.receivers.taken(UP) == [1]
    assert len(post.receivers.tried) < 2 * len(hanging), "they wait for each other"
    for event in post.receivers.slow.values():
        event.set()


async def test_a_receiver_that_fails_is_asked_again_after_growing_pauses(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, 1)
    await post.turn()
    await post.turn(later_s=4)
    assert len(post.receivers.tried) == 1
    await post.turn(later_s=1.1)
    assert len(post.receivers.tried) == 2
    await post.turn(later_s=9)
    assert len(post.receivers.tried) == 2
    post.receivers.answers.clear()
    await post.turn(later_s=1.1)
    assert post.receivers.taken(DOWN) == [1]
    assert (await post.outbox.delivery(DOWN)).failing_since_ms == 0


async def test_once_a_receiver_was_given_up_each_event_has_one_attempt_with_the_pause_kept(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, 1, 2, 3)
    for _ in range(POLICY.attempts_most):
        await post.turn(later_s=POLICY.greatest_pause_s)
    assert await post.dead(DOWN) == [1]
    await post.turn(later_s=POLICY.greatest_pause_s - 1)
    assert await post.dead(DOWN) == [1], "the pause is kept"
    await post.turn(later_s=1.1)
    assert await post.dead(DOWN) == [2, 1]
    await post.turn(later_s=POLICY.greatest_pause_s)
    assert await post.dead(DOWN) == [3, 2, 1]
    assert len(post.receivers.tried) == POLICY.attempts_most + 2
    # Nothing waits; the next one still does not come at once.
    await post.happens(DOWN, 4, 5, 6)
    await post.turn()
    assert len(post.receivers.tried) == POLICY.attempts_most + 2
    post.receivers.answers.clear()
    await post.turn(later_s=POLICY.greatest_pause_s)
    assert post.receivers.taken(DOWN) == [4, 5, 6]
    # And from then on it is a receiver like any other.
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, 7)
    await post.turn()
    await post.turn(later_s=POLICY.greatest_pause_s)
    assert await post.dead(DOWN) == [3, 2, 1] and await post.outbox.waiting_of(DOWN) == 1


async def test_a_worker_killed_after_telling_tells_again_under_the_same_id_and_in_order(post: Post) -> None:
    await post.happens(UP, 1, 2)
    post.receivers.dies = True
    await post.turn()
    post.receivers.dies = False
    post.new_worker()
    await post.turn()
    assert post.receivers.taken(UP) == [1, 1, 2]
    first, again, second = [event_id for _, event_id in post.receivers.tried]
    assert first == again != second


async def test_two_workers_that_share_the_same_events_share_each_once(post: Post) -> None:
    await post.happens(UP, 1, 2)
    fresh, _ = await post.outbox.look(0x7F, 0)
    await asyncio.gather(*(post.outbox.share(UP, fresh, POLICY) for _ in range(5)))
    assert [each.event_id for each in await post.outbox.oldest(UP, 10)] == [each.event_id for each in fresh]
    assert len(await post.outbox.told(UP)) == 2


async def test_one_that_became_a_dead_letter_while_it_was_told_is_none(post: Post) -> None:
    post.receivers.slow[url_of(DOWN)] = asyncio.Event()
    await post.happens(DOWN, 0)
    await post.deliverer.once()
    await post.happens(DOWN, *range(1, POLICY.waiting_most + 2))
    await post.deliverer.once()
    assert await post.dead(DOWN) == [1, 0]
    post.receivers.slow[url_of(DOWN)].set()
    await post.deliverer.idle()
    assert await post.dead(DOWN) == [1]


async def test_a_receiver_that_is_gone_is_told_nothing_and_what_happens_is_kept(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 410
    await post.happens(DOWN, 1, 2)
    await post.turn()
    await post.turn()
    assert len(post.receivers.tried) == 1 and (await post.outbox.delivery(DOWN)).gone
    assert await post.dead(DOWN) == [2, 1]
    post.receivers.answers.clear()
    await post.set_hook(DOWN)
    await post.happens(DOWN, 3)
    await post.turn()
    assert post.receivers.taken(DOWN) == [3]


async def test_a_dead_letter_comes_again_under_its_id_and_at_once(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, 1)
    for _ in range(POLICY.attempts_most):
        await post.turn(later_s=POLICY.greatest_pause_s)
    (dead,) = await post.outbox.dead(DOWN)
    post.receivers.answers.clear()
    assert await post.outbox.exhume(dead)
    assert not await post.outbox.exhume(dead), "it waits already"
    await post.turn()
    assert post.receivers.taken(DOWN) == [1] and await post.dead(DOWN) == []
    assert {event_id for _, event_id in post.receivers.tried} == {dead.event_id}


async def test_a_receiver_that_was_set_anew_while_the_old_one_failed_is_not_made_to_wait(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    post.receivers.slow[url_of(DOWN)] = asyncio.Event()
    await post.happens(DOWN, 1)
    await post.deliverer.once()
    await asyncio.sleep(0.05)
    await post.outbox.put_hook(Hook(DOWN, url_of(OTHER), "sealed"), audit(DOWN))
    post.receivers.slow[url_of(DOWN)].set()
    await post.deliverer.idle()
    assert await post.outbox.delivery(DOWN) == Delivery()
    await post.turn()
    assert post.receivers.taken(OTHER) == [1]


async def test_what_nobody_wants_is_not_told_and_does_not_wait(post: Post) -> None:
    await post.outbox.put_hook(Hook(UP, url_of(UP), "sealed", events=("budget.alert",)), audit(UP))
    await post.happens(UP, 1)
    await post.happens(UP, 2, kind="budget.alert")
    await post.happens(OTHER, 3)
    await post.turn()
    assert post.receivers.texts == [(url_of(UP), 2)]
    assert await post.outbox.waiting_of(UP) == await post.outbox.waiting_of(OTHER) == 0
    assert len(await post.outbox.told(OTHER)) == 1, "it is among the events nevertheless"


async def test_what_waits_for_an_endpoint_that_is_taken_out_waits_no_longer(post: Post) -> None:
    post.receivers.answers[url_of(DOWN)] = 500
    await post.happens(DOWN, 1)
    await post.turn()
    await post.outbox.delete_hook(DOWN, audit(DOWN))
    await post.turn()
    assert await post.outbox.waiting_of(DOWN) == 0 and len(post.receivers.tried) == 1


async def test_one_organization_that_cannot_be_told_does_not_end_the_others(post: Post) -> None:
    """A secret that opens no more, say."""

    class BrokenVault(OpenVault):
        def open(self, sealed: bytes, *, of: str) -> bytes:
            if of.startswith(DOWN):
                raise ValueError
            return sealed

    post.deliverer._vault = BrokenVault()
    await post.happens(DOWN, 1)
    await post.happens(UP, 2)
    await post.turn()
    await post.happens(UP, 3)
    await post.turn()
    assert post.receivers.taken(UP) == [2, 3] and await post.outbox.waiting_of(DOWN) == 1


async def test_what_no_witness_has_written_down_is_not_told(post: Post) -> None:
    seen: list[str] = []
    away = [True]

    async def witness(event: Event) -> None:
        if away[0]:
            raise Unavailable("the store is away")
        seen.append(event.kind)

    post.new_worker(witness=witness)
    await post.happens(UP, 1)
    with pytest.raises(Unavailable):
        await post.turn()
    assert post.receivers.taken(UP) == []
    away[0] = False
    await post.turn()
    assert (post.receivers.taken(UP), seen) == ([1], ["webhook.test"])
