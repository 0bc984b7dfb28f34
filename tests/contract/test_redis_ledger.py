"""The ledger's steps on holds, on a real server, one behaviour a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from ledgers import AGENT, FAR_MS, PARTITION, RATE, check_books, fund, hold

from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.accounts import Budget, CounterState, LedgerTerms
from gateway.core.errors import InvalidRequest
from gateway.core.holds import (
    Extended,
    LimitHit,
    Measure,
    Placed,
    Posted,
    Refusal,
    Refused,
    Renewed,
    ScopeClaim,
)
from gateway.core.money import Rate


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
def ledger(link: RedisLink) -> RedisLedger:
    return RedisLedger(link, worker="w1", terms=LedgerTerms(most_shortfalls=3))


async def test_a_hold_takes_from_what_is_available_and_a_post_settles_it(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    assert await ledger.place(hold(amount=300, credit_id="pay1")) == Placed("ho_7f1", 300, 700)
    assert await ledger.post("ho_7f1", 120, account=AGENT, outcome=b'{"a":1}') == Posted("posted", 120, 0, 880)
    record = await ledger.hold("ho_7f1")
    assert record is not None and (record.state, record.posted, record.outcome) == ("posted", 120, b'{"a":1}')
    await check_books(ledger)


async def test_second_post_returns_the_first(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold())
    first = await ledger.post("ho_7f1", 40, account=AGENT)
    assert first == Posted("posted", 40, 0, 960)
    assert await ledger.post("ho_7f1", 40, account=AGENT) == Posted("posted", 40, 0, 960, replayed=True)
    assert await ledger.void("ho_7f1", account=AGENT) == Posted("posted", 40, 0, 960, replayed=True)
    assert await ledger.post("ho_7f1", 41, account=AGENT) == Refused(Refusal.FOREIGN, 960, 0)
    await check_books(ledger)


async def test_of_a_credit_worth_37_calls_exactly_37_of_a_thousand_at_once_are_admitted(ledger: RedisLedger) -> None:
    await fund(ledger, 37 * 100)
    holds = [hold(f"{number:04x}") for number in range(1_000)]
    answers = await asyncio.gather(*(ledger.place(each) for each in holds))
    placed = [answer for answer in answers if isinstance(answer, Placed)]
    assert len(placed) == 37
    assert {answer.reason for answer in answers if isinstance(answer, Refused)} == {Refusal.INSUFFICIENT}
    await asyncio.gather(*(ledger.post(answer.hold_id, 100, account=AGENT) for answer in placed))
    balance = await ledger.balance(AGENT)
    assert balance is not None and (balance.available, balance.held, balance.posted) == (0, 0, 3_700)
    await check_books(ledger)


async def test_a_budget_worth_one_stream_and_a_half_admits_one_of_fifty(ledger: RedisLedger) -> None:
    await fund(ledger, 100_000)
    claim = ScopeClaim("user", "total", limit=164)
    answers = await asyncio.gather(*(ledger.place(hold(f"{i:02x}", scopes=(claim,))) for i in range(50)))
    assert sum(isinstance(answer, Placed) for answer in answers) == 1
    assert await ledger.counter(AGENT, claim) == CounterState(used=0, held=100)


async def test_a_stream_reserves_its_first_step_and_is_extended_while_there_is_money(ledger: RedisLedger) -> None:
    await fund(ledger, 500)
    assert await ledger.place(hold(floor=50, first=200, ceiling=900)) == Placed("ho_7f1", 200, 300)
    assert await ledger.extend_to("ho_7f1", 400) == Extended(400, 100)
    assert await ledger.extend_to("ho_7f1", 400) == Extended(400, 100)
    assert await ledger.extend_to("ho_7f1", 900) == Extended(500, 0)
    assert await ledger.extend_to("ho_7f1", 10) == Extended(500, 0)
    assert await ledger.post("ho_7f1", 480, account=AGENT) == Posted("posted", 480, 0, 20)
    assert await ledger.extend_to("ho_7f1", 900) == Refused(Refusal.NOT_OPEN, 20, 0)
    await check_books(ledger)


async def test_where_less_than_the_first_step_is_there_what_there_is_is_reserved(ledger: RedisLedger) -> None:
    await fund(ledger, 120)
    assert await ledger.place(hold(floor=50, first=200, ceiling=900)) == Placed("ho_7f1", 120, 0)
    assert await ledger.place(hold("2", floor=1, first=1, ceiling=1)) == Refused(Refusal.INSUFFICIENT, 0, 120)


async def test_no_account_and_an_unknown_credit_are_told_apart_from_too_little(ledger: RedisLedger) -> None:
    assert await ledger.place(hold(credit_id="pay1")) == Refused(Refusal.NO_ACCOUNT)
    await fund(ledger, 10)
    assert await ledger.place(hold(credit_id="pay2")) == Refused(Refusal.CREDIT_UNKNOWN, 10, 0)
    assert await ledger.place(hold(credit_id="pay1")) == Refused(Refusal.INSUFFICIENT, 10, 0)
    assert await ledger.place(hold(rate=Rate(5))) == Refused(Refusal.RATE_CHANGED, 10, 0, rate=RATE)


async def test_a_revoked_token_places_nothing_and_what_runs_is_settled(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold(token_id="t1"))
    await ledger.revoke("t1", AGENT)
    assert await ledger.place(hold("2", token_id="t1")) == Refused(Refusal.REVOKED)
    assert isinstance(await ledger.place(hold("3", token_id="t2")), Placed)
    assert await ledger.post("ho_7f1", 50, account=AGENT) == Posted("posted", 50, 0, 850)


async def test_a_limit_says_which_scope_its_size_and_when_it_starts_afresh(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.put_budget(AGENT, Budget("bu_1", 150))
    claim = ScopeClaim("org", "day:5", budget_id="bu_1", window_ends_at_ms=FAR_MS)
    assert isinstance(await ledger.place(hold(scopes=(claim,))), Placed)
    hit = LimitHit("org", "day:5", "bu_1", 150, 0, 100, FAR_MS)
    assert await ledger.place(hold("2", scopes=(claim,))) == Refused(Refusal.LIMIT, 900, 100, limit=hit)
    await ledger.put_budget(AGENT, Budget("bu_1", 150, "paused"))
    paused = await ledger.place(hold("2", scopes=(claim,)))
    assert isinstance(paused, Refused) and paused.reason is Refusal.PAUSED
    assert await ledger.get_budget(AGENT, "bu_1") == Budget("bu_1", 150, "paused")
    unknown = await ledger.place(hold("2", scopes=(ScopeClaim("org", "total", budget_id="bu_9"),)))
    assert isinstance(unknown, Refused) and unknown.reason is Refusal.NO_BUDGET


async def test_a_use_is_counted_by_a_post_and_given_back_by_a_void(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    claim = ScopeClaim("caveat", "total", Measure.USES, limit=2)
    for name in ("1", "2"):
        assert isinstance(await ledger.place(hold(name, scopes=(claim,))), Placed)
    refused = await ledger.place(hold("3", scopes=(claim,)))
    assert isinstance(refused, Refused) and refused.reason is Refusal.LIMIT
    await ledger.post("ho_7f1", 1, account=AGENT)
    await ledger.void("ho_7f2", account=AGENT)
    assert await ledger.counter(AGENT, claim) == CounterState(used=1, held=0)


async def test_a_counter_outlives_its_window_by_the_longest_hold_and_retention(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    claim = ScopeClaim("org", "day:5", limit=500, window_ends_at_ms=FAR_MS)
    await ledger.place(hold(scopes=(claim,)))
    state = await ledger.counter(AGENT, claim)
    assert state is not None and state.lives_ms is not None and state.lives_ms > 1_000_000_000
    await ledger.place(hold("2", scopes=(ScopeClaim("org", "total", limit=500),)))
    assert await ledger.counter(AGENT, ScopeClaim("org", "total", limit=500)) == CounterState(0, 100)


async def test_a_window_that_has_ended_by_the_stores_clock_is_refused(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    refused = await ledger.place(hold(scopes=(ScopeClaim("org", "day:0", limit=500, window_ends_at_ms=1_000),)))
    assert isinstance(refused, Refused) and refused.reason is Refusal.STALE_WINDOW


async def test_a_lost_counter_is_journaled_and_never_made_by_a_post(ledger: RedisLedger, link: RedisLink) -> None:
    await fund(ledger, 1_000)
    claims = (ScopeClaim("org", "total", limit=500), ScopeClaim("user", "total", limit=500))
    await ledger.place(hold(scopes=claims))
    await link.command("DEL", "{p7f}c:total|user", key="{p7f}")
    await ledger.post("ho_7f1", 60, account=AGENT)
    assert await ledger.counter(AGENT, claims[1]) is None
    assert await ledger.counter(AGENT, claims[0]) == CounterState(60, 0)
    last = (await ledger.journal(PARTITION, 0))[-1]
    assert (last.kind, last.id, last.more) == ("posted", "ho_7f1", (("scope_lost", "2"),))


async def test_another_worker_ends_a_hold_whose_scopes_it_never_saw(ledger: RedisLedger, link: RedisLink) -> None:
    await fund(ledger, 1_000)
    claim = ScopeClaim("org", "total", limit=500)
    await ledger.place(hold(scopes=(claim,), ceiling=300))
    other = RedisLedger(link, worker="w2")
    assert await other.extend_to("ho_7f1", 150) == Extended(150, 850)
    assert await other.post("ho_7f1", 140, account=AGENT) == Posted("posted", 140, 0, 860)
    assert await other.counter(AGENT, claim) == CounterState(140, 0)


async def test_what_the_hold_did_not_reserve_is_taken_up_to_the_ceiling_and_the_rest_is_a_shortfall(
    ledger: RedisLedger,
) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold(floor=100, first=100, ceiling=150))
    assert await ledger.post("ho_7f1", 170, account=AGENT) == Posted("posted", 150, 20, 850)
    balance = await ledger.balance(AGENT)
    # Beyond the ceiling it is the upstream that erred: it does not count against the payer.
    assert balance is not None and balance.shortfalls == 0
    assert (await ledger.journal(PARTITION, 0))[-1].more == (("shortfall", "20"),)


async def test_what_the_payer_could_not_cover_below_the_ceiling_counts_against_it(ledger: RedisLedger) -> None:
    await fund(ledger, 100)
    await ledger.place(hold(ceiling=300))
    assert await ledger.post("ho_7f1", 170, account=AGENT) == Posted("posted", 100, 70, 0)
    balance = await ledger.balance(AGENT)
    assert balance is not None and balance.shortfalls == 1


async def test_a_payer_with_too_many_shortfalls_is_refused_until_it_pays(ledger: RedisLedger) -> None:
    await fund(ledger, 300)
    for name in ("1", "2", "3"):
        await ledger.place(hold(name, ceiling=101))
    for name in ("1", "2", "3"):
        await ledger.post(f"ho_7f{name}", 101, account=AGENT)
    assert await ledger.place(hold("4")) == Refused(Refusal.TOO_MANY_SHORTFALLS, 0, 0)
    await fund(ledger, 101, "pay2")
    assert await ledger.place(hold("4")) == Placed("ho_7f4", 100, 1, shortfalls=1)


async def test_a_void_of_an_unknown_hold_refuses_its_late_place(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    assert await ledger.void("ho_7f1", account=AGENT) == Posted("voided", 0, 0, 1_000)
    assert await ledger.place(hold()) == Refused(Refusal.VOIDED, 1_000, 0)
    assert await ledger.post("ho_7f1", 50, account=AGENT) == Posted("voided", 0, 0, 1_000, replayed=True)
    assert await ledger.checkpoint("ho_7f1", 1) == Refused(Refusal.NOT_OPEN)


async def test_a_hold_left_behind_is_posted_at_its_checkpoint_and_a_late_post_takes_the_difference(
    ledger: RedisLedger,
) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold())
    assert await ledger.checkpoint("ho_7f1", 40) == Renewed(40)
    assert await ledger.checkpoint("ho_7f1", 30) == Renewed(40)
    assert await ledger.expire("ho_7f1") == Refused(Refusal.RENEWED, 900, 100)
    assert await ledger.expire("ho_7f1", lease_gone=True) == Posted("expired", 40, 0, 960)
    assert await ledger.checkpoint("ho_7f1", 50) == Refused(Refusal.NOT_OPEN)
    assert await ledger.post("ho_7f1", 70, account=AGENT) == Posted("expired", 70, 0, 930)
    assert await ledger.post("ho_7f1", 70, account=AGENT) == Posted("expired", 70, 0, 930, replayed=True)
    assert await ledger.post("ho_7f1", 90, account=AGENT) == Refused(Refusal.FOREIGN, 930, 0)
    await check_books(ledger)


async def test_a_hold_left_behind_keeps_the_outcome_of_its_last_checkpoint(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold())
    await ledger.checkpoint("ho_7f1", 40, outcome=b'{"n":2}')
    await ledger.checkpoint("ho_7f1", 30, outcome=b'{"n":1}')
    await ledger.checkpoint("ho_7f1", 50)
    open_hold = await ledger.hold("ho_7f1")
    assert open_hold is not None and (open_hold.earned, open_hold.outcome) == (50, b'{"n":2}')
    await ledger.expire("ho_7f1", lease_gone=True)
    left_behind = await ledger.hold("ho_7f1")
    assert left_behind is not None and (left_behind.state, left_behind.outcome) == ("expired", b'{"n":2}')
    await ledger.post("ho_7f1", 70, account=AGENT, outcome=b'{"n":3}')
    posted = await ledger.hold("ho_7f1")
    assert posted is not None and posted.outcome == b'{"n":3}'


async def test_a_hold_past_its_renewal_expires_and_a_refund_never_does(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold(lifetime_ms=1))
    await ledger.place(hold("2", owner="refund:abc", lifetime_ms=1, greatest_age_ms=1))
    while (answer := await ledger.expire("ho_7f1")) == Refused(Refusal.RENEWED, 800, 200):
        await asyncio.sleep(0)
    assert answer == Posted("expired", 0, 0, 900)
    assert await ledger.expire("ho_7f2", lease_gone=True) == Refused(Refusal.RENEWED, 900, 100)
    assert await ledger.open_ids(PARTITION, until_ms=FAR_MS) == []
    assert [record.owner for record in await ledger.open_holds(PARTITION)] == ["refund:abc"]
    assert await ledger.post("ho_7f2", 90, account=AGENT) == Posted("posted", 90, 0, 910)
    assert (await ledger.journal(PARTITION, 0))[-1].more == (("owner", "refund:abc"),)


async def test_a_post_on_an_unknown_hold_is_taken_once(ledger: RedisLedger) -> None:
    assert await ledger.post("ho_7f1", 50, account=AGENT) == Refused(Refusal.NO_ACCOUNT)
    await fund(ledger, 40)
    assert await ledger.post("ho_7f1", 50, account=AGENT) == Posted("posted", 40, 10, 0)
    assert await ledger.post("ho_7f1", 50, account=AGENT) == Posted("posted", 40, 10, 0, replayed=True)
    assert [entry.kind for entry in await ledger.journal(PARTITION, 0)] == ["credit", "orphan_post"]
    await check_books(ledger)


async def test_a_frozen_account_and_bad_figures_place_nothing(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.freeze(AGENT)
    assert await ledger.place(hold()) == Refused(Refusal.FROZEN, 1_000, 0)
    await ledger.unfreeze(AGENT)
    for param, bad in (
        ("ceiling", hold(ceiling=10**15)),
        ("floor", hold(floor=101)),
        ("floor", hold(floor=-1)),
        ("lifetime_ms", hold(lifetime_ms=0)),
        ("limit", hold(scopes=(ScopeClaim("org", "total", limit=-1),))),
        ("scopes", hold(scopes=(ScopeClaim("org", "total"),))),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await ledger.place(bad)
        assert caught.value.param == param
    with pytest.raises(InvalidRequest, match="cause is one of refund, chargeback"):
        await ledger.debit("d1", AGENT, 1, cause="theft")
    with pytest.raises(InvalidRequest, match="pocket is one of allowance, prepaid, postpaid"):
        await ledger.debit("d1", AGENT, 1, cause="refund", pocket="purse")
    with pytest.raises(ValueError, match="another partition"):
        await ledger.void("ho_7e1", account=AGENT)
    with pytest.raises(ValueError, match="no id of ours"):
        await ledger.balance("someone")


async def test_another_owner_rate_or_scope_under_the_same_id_is_foreign(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    claim = ScopeClaim("org", "total", limit=500)
    await ledger.place(hold(scopes=(claim,)))
    foreign = Refused(Refusal.FOREIGN, 900, 100)
    assert await ledger.place(hold(scopes=(claim,), owner="refund:1")) == foreign
    assert await ledger.place(hold(scopes=(claim,), rate=Rate(5))) == foreign
    assert await ledger.place(hold(scopes=(ScopeClaim("user", "total", limit=500),))) == foreign
    assert await ledger.place(hold()) == foreign
    assert await ledger.place(hold(scopes=(claim,))) == Placed("ho_7f1", 100, 900, replayed=True)


async def test_a_hold_shrinks_to_what_it_has_earned_and_no_further(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold())
    await ledger.checkpoint("ho_7f1", 40)
    assert await ledger.shrink_to("ho_7f1", 70) == Extended(70, 930)
    assert await ledger.shrink_to("ho_7f1", 10) == Extended(40, 960)
    assert await ledger.shrink_to("ho_7f1", 90) == Extended(40, 960)
    assert await ledger.shrink_to("ho_7f9", 90) == Refused(Refusal.NOT_OPEN)
    await check_books(ledger)


async def test_a_paused_budget_lends_an_open_hold_nothing_more(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.put_budget(AGENT, Budget("bu_1", 500))
    await ledger.place(hold(ceiling=300, scopes=(ScopeClaim("org", "total", budget_id="bu_1"),)))
    await ledger.put_budget(AGENT, Budget("bu_1", 500, "paused"))
    assert await ledger.extend_to("ho_7f1", 200) == Extended(100, 900)
    await ledger.put_budget(AGENT, Budget("bu_1", 150))
    assert await ledger.extend_to("ho_7f1", 200) == Extended(150, 850)


async def test_a_hold_is_never_extended_above_its_ceiling(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold(ceiling=300))
    assert await ledger.extend_to("ho_7f1", 900) == Extended(300, 700, beyond=700)


async def test_a_shortfall_that_grows_late_is_counted_once(ledger: RedisLedger) -> None:
    await fund(ledger, 100)
    await ledger.place(hold(ceiling=200))
    await ledger.checkpoint("ho_7f1", 120)
    assert await ledger.expire("ho_7f1", lease_gone=True) == Posted("expired", 100, 20, 0)
    assert await ledger.post("ho_7f1", 130, account=AGENT) == Posted("expired", 100, 30, 0)
    balance = await ledger.balance(AGENT)
    assert balance is not None and balance.shortfalls == 1
