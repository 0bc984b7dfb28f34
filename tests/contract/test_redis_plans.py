"""What a plan gives on a real server: allowances by period, and what may be owed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from ledgers import AGENT, FAR_MS, PARTITION, PERSON, check_books, fund, hold

from gateway.adapters.redis import keys
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.errors import InvalidRequest
from gateway.core.holds import Credited, Placed, Posted, Refusal, Refused
from gateway.core.money import NO_RATE, Unit

MAY, JUNE = ("pro:may", FAR_MS), ("pro:june", FAR_MS + 1)


@pytest.fixture
async def ledger(valkey_url: str) -> AsyncIterator[RedisLedger]:
    link = await RedisLink.open(valkey_url)
    yield RedisLedger(link, worker="w1")
    await link.close()


async def renew(ledger: RedisLedger, period: tuple[str, int], amount: int, plan: str = "pro") -> Credited | Refused:
    return await ledger.renew_allowance(PERSON, period[0], amount, plan=plan, ends_at_ms=period[1])


async def prepay(ledger: RedisLedger, amount: int, credit_id: str = "pay1") -> Credited | Refused:
    return await ledger.credit(credit_id, PERSON, amount, unit=Unit.NANOUSD, rate=NO_RATE, source="stripe")


async def test_a_period_begins_once_and_makes_the_account(ledger: RedisLedger) -> None:
    assert await renew(ledger, MAY, 500) == Credited("applied", 500)
    assert await renew(ledger, MAY, 500) == Credited("replayed", 500)
    balance = await ledger.balance(PERSON)
    assert balance is not None and (balance.unit, balance.account_class) == (Unit.NANOUSD, "person")
    assert balance.pockets == (("allowance", 500), ("prepaid", 0), ("postpaid", 0))
    assert (balance.plan, balance.period_id, balance.period_ends_at_ms) == ("pro", "pro:may", FAR_MS)
    assert (balance.allowance_granted, balance.period_base) == (500, (0, 0, 0))
    await check_books(ledger)


async def test_what_is_left_of_an_allowance_goes_with_its_period_and_nothing_else(ledger: RedisLedger) -> None:
    await prepay(ledger, 40)
    await renew(ledger, MAY, 500)
    await ledger.place(hold(account=PERSON, amount=120))
    await ledger.post("ho_7f1", 100, account=PERSON)
    assert await renew(ledger, JUNE, 300) == Credited("applied", 340)
    balance = await ledger.balance(PERSON)
    assert balance is not None and balance.period_base == (100, 0, 0)
    entries = [(entry.kind, entry.id, entry.adds.available) for entry in await ledger.journal(PARTITION, 0)][-2:]
    assert entries == [("debit", "expire:pro:june", -400), ("credit", "allow:pro:june", 300)]
    await check_books(ledger)


async def test_what_a_hold_of_the_old_period_gives_back_goes_to_the_new_one(ledger: RedisLedger) -> None:
    await renew(ledger, MAY, 500)
    await ledger.place(hold(account=PERSON, amount=200))
    assert await renew(ledger, JUNE, 100) == Credited("applied", 100)
    answer = await ledger.post("ho_7f1", 50, account=PERSON)
    assert answer == Posted("posted", 50, 0, 250, (("allowance", 50), ("prepaid", 0), ("postpaid", 0)))
    await check_books(ledger)


async def test_going_to_another_plan_and_back_gives_nothing_twice(ledger: RedisLedger) -> None:
    await renew(ledger, MAY, 500)
    assert await renew(ledger, ("basic:may", FAR_MS), 100, "basic") == Credited("applied", 100)
    assert await renew(ledger, MAY, 500) == Credited("applied", 0)
    assert await renew(ledger, MAY, 500) == Credited("replayed", 0)
    assert await renew(ledger, ("none:1", 0), 0, "") == Credited("applied", 0)
    assert await renew(ledger, ("none:2", 0), 0, "") == Credited("replayed", 0)
    for period, plan in ((MAY, "pro"), (("basic:may", FAR_MS), "basic")):
        assert await renew(ledger, period, 500, plan) == Credited("applied", 0)
    assert await renew(ledger, JUNE, 300) == Credited("applied", 300)
    await check_books(ledger)


async def test_another_plan_begins_at_once_though_its_period_ends_before(ledger: RedisLedger) -> None:
    await renew(ledger, MAY, 100)
    assert await renew(ledger, ("daily:1", FAR_MS - 1), 1, "daily") == Credited("applied", 1)
    balance = await ledger.balance(PERSON)
    assert balance is not None
    assert (balance.plan, balance.period_id, balance.period_ends_at_ms) == ("daily", "daily:1", FAR_MS - 1)
    entries = [(entry.kind, entry.adds.available, entry.more) for entry in await ledger.journal(PARTITION, 0)]
    assert entries[1:] == [
        ("debit", -100, (("cause", "grant_expiry"),)),
        ("credit", 1, (("source", "plan"), ("cause", "allowance"))),
    ]
    assert await renew(ledger, MAY, 100) == Credited("applied", 0)
    assert await renew(ledger, ("daily:1", FAR_MS - 1), 1, "daily") == Credited("applied", 0)
    await check_books(ledger)


async def test_a_renewal_changes_nothing_where_another_period_runs_than_it_saw(ledger: RedisLedger) -> None:
    await renew(ledger, MAY, 20)
    for period, plan in (("free:2", "free"), ("none:1", "")):
        late = await ledger.renew_allowance(PERSON, period, 1, plan=plan, ends_at_ms=0, follows="free:1", limit=5)
        assert late == Credited("replayed", 20)
    balance = await ledger.balance(PERSON)
    assert balance is not None and (balance.plan, balance.plan_limit) == ("pro", 0)


async def test_a_period_that_is_over_begins_no_more_and_is_forgotten(ledger: RedisLedger, valkey_url: str) -> None:
    assert await renew(ledger, ("pro:april", 1), 500) == Refused(Refusal.PERIOD_OVER, 0, 0)
    assert await ledger.balance(PERSON) is None
    await renew(ledger, MAY, 5)
    link = await RedisLink.open(valkey_url)
    name = keys.account_key(PERSON)
    await link.command("HSET", name, "periods", f"basic:april 1 pro:may {FAR_MS} flat 0", key=name)
    await renew(ledger, JUNE, 5)
    kept = await link.command("HGET", name, "periods", key=name)
    await link.close()
    assert kept == f"pro:may {FAR_MS} flat 0 pro:june {FAR_MS + 1}".encode()


async def test_a_plans_limit_follows_the_plan_and_an_operators_stays(ledger: RedisLedger) -> None:
    async def begin(period: str, plan: str, limit: int) -> int:
        answer = await ledger.renew_allowance(PERSON, period, 0, plan=plan, ends_at_ms=0, limit=limit)
        assert isinstance(answer, Credited)
        return answer.available

    given = [await begin(*each) for each in (("pro:1", "pro", 100), ("pro:2", "pro", 80), ("none:1", "", 0))]
    assert given == [100, 80, 0]
    await ledger.set_credit_limit(PERSON, 30, change_id="own")
    given = [await begin(*each) for each in (("pro:3", "pro", 90), ("none:2", "", 0), ("pro:4", "pro", 70))]
    assert given == [30, 30, 30]
    balance = await ledger.balance(PERSON)
    assert balance is not None and (balance.own_limit, balance.plan_limit) == (True, 70)
    assert await ledger.set_credit_limit(PERSON, None, change_id="back") == Credited("applied", 70)
    assert await ledger.set_credit_limit(PERSON, None, change_id="back") == Credited("replayed", 70)
    assert await begin("none:3", "", 0) == 0
    await check_books(ledger)


async def test_a_late_call_for_a_period_of_before_begins_nothing(ledger: RedisLedger) -> None:
    await renew(ledger, JUNE, 300)
    assert await renew(ledger, MAY, 500) == Credited("replayed", 300)
    balance = await ledger.balance(PERSON)
    assert balance is not None and balance.period_id == "pro:june"


async def test_a_period_that_is_over_admits_nothing_and_open_holds_run_on(ledger: RedisLedger, valkey_url: str) -> None:
    await prepay(ledger, 1_000)
    await ledger.place(hold(account=PERSON, ceiling=200))
    await renew(ledger, MAY, 500)
    link = await RedisLink.open(valkey_url)
    name = keys.account_key(PERSON)
    await link.command("HSET", name, "period_ends", "1", key=name)
    await link.close()
    assert await ledger.place(hold("2", account=PERSON)) == Refused(Refusal.PERIOD_OVER, 1_400, 100)
    assert isinstance(await ledger.post("ho_7f1", 150, account=PERSON), Posted)
    await renew(ledger, JUNE, 0)
    assert await ledger.place(hold("2", account=PERSON)) == Placed("ho_7f2", 100, 800)


async def test_a_credit_limit_is_absolute_and_counts_what_is_owed_already(ledger: RedisLedger) -> None:
    assert await ledger.set_credit_limit(PERSON, 100, change_id="c1") == Credited("applied", 100)
    await ledger.place(hold(account=PERSON, amount=70))
    await ledger.post("ho_7f1", 70, account=PERSON)
    assert await ledger.set_credit_limit(PERSON, 150, change_id="c2") == Credited("applied", 80)
    assert await ledger.set_credit_limit(PERSON, 90, change_id="c3") == Credited("applied", 20)
    assert await ledger.set_credit_limit(PERSON, 30, change_id="c4") == Credited("applied", 0)
    await check_books(ledger)


async def test_a_change_of_the_limit_that_comes_again_late_changes_nothing(ledger: RedisLedger) -> None:
    await ledger.set_credit_limit(PERSON, 100, change_id="c1")
    await ledger.set_credit_limit(PERSON, 10, change_id="c2")
    assert await ledger.set_credit_limit(PERSON, 100, change_id="c1") == Credited("replayed", 10)
    assert await ledger.set_credit_limit(PERSON, 99, change_id="c1") == Refused(Refusal.FOREIGN, 10, 0)
    balance = await ledger.balance(PERSON)
    assert balance is not None and balance.pockets[2] == ("postpaid", 10)


async def test_an_agents_account_has_neither(ledger: RedisLedger) -> None:
    await fund(ledger, 100)
    foreign = Refused(Refusal.FOREIGN)
    assert await ledger.set_credit_limit(AGENT, 5, change_id="c1") == foreign
    assert await ledger.renew_allowance(AGENT, "pro:may", 5, plan="pro", ends_at_ms=0) == foreign
    with pytest.raises(InvalidRequest, match="limit is an integer"):
        await ledger.set_credit_limit(PERSON, -1, change_id="c1")
    with pytest.raises(InvalidRequest, match="amount is an integer"):
        await renew(ledger, MAY, 10**15)


async def test_neither_lifts_an_account_out_of_the_exact_range(ledger: RedisLedger) -> None:
    for number in range(9):
        await prepay(ledger, 10**15 - 1, f"p{number}")
    full = Refused(Refusal.TOO_GREAT, 9 * 10**15 - 9, 0)
    assert await renew(ledger, MAY, 10) == full
    assert await ledger.set_credit_limit(PERSON, 10, change_id="c1") == full
    assert await renew(ledger, MAY, 9) == Credited("applied", 9 * 10**15)
    assert await renew(ledger, JUNE, 9) == Credited("applied", 9 * 10**15)
    await check_books(ledger)


@pytest.mark.parametrize("gives_back", ["post", "void", "shrink"])
async def test_what_holds_give_back_of_a_lowered_limit_is_not_given_out_again(
    ledger: RedisLedger, gives_back: str
) -> None:
    await prepay(ledger, 10)
    await ledger.set_credit_limit(PERSON, 100, change_id="up")
    assert isinstance(await ledger.place(hold(account=PERSON, amount=105)), Placed)
    assert await ledger.set_credit_limit(PERSON, 20, change_id="down") == Credited("applied", 0)
    if gives_back == "post":
        await ledger.post("ho_7f1", 15, account=PERSON)
    elif gives_back == "void":
        await ledger.void("ho_7f1", account=PERSON)
    else:
        await ledger.shrink_to("ho_7f1", 30)
        await ledger.shrink_to("ho_7f1", 0)
    balance = await ledger.balance(PERSON)
    assert balance is not None
    (owed,) = [each for each in balance.pocket_states if each.name == "postpaid"]
    assert owed.available + owed.held + owed.posted == balance.credit_limit == 20
    assert balance.lowering == 0
    await check_books(ledger)


async def test_a_limit_that_is_raised_again_takes_nothing_back(ledger: RedisLedger) -> None:
    await ledger.set_credit_limit(PERSON, 100, change_id="up")
    await ledger.place(hold(account=PERSON, amount=90))
    await ledger.set_credit_limit(PERSON, 0, change_id="down")
    balance = await ledger.balance(PERSON)
    assert balance is not None and (balance.lowering, balance.credit_limit) == (90, 0)
    await ledger.set_credit_limit(PERSON, 100, change_id="up-again")
    await ledger.void("ho_7f1", account=PERSON)
    balance = await ledger.balance(PERSON)
    assert balance is not None and (balance.available, balance.credit_limit) == (100, 100)
    await check_books(ledger)


async def test_what_was_paid_in_after_a_limit_was_lowered_stays(ledger: RedisLedger) -> None:
    await ledger.set_credit_limit(PERSON, 100, change_id="c1")
    await ledger.place(hold(account=PERSON, amount=60))
    await ledger.set_credit_limit(PERSON, 20, change_id="c2")
    paid = {"unit": Unit.NANOUSD, "rate": NO_RATE, "source": "stripe", "pocket": "postpaid"}
    await ledger.credit("pay1", PERSON, 50, **paid)  # type: ignore[arg-type]
    answer = await ledger.post("ho_7f1", 50, account=PERSON)
    assert isinstance(answer, Posted) and (answer.posted, answer.available) == (50, 50)
    balance = await ledger.balance(PERSON)
    assert balance is not None and balance.lowering == 0
    await check_books(ledger)
