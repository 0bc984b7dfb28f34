"""Money in and out of accounts, on a real server: credits, debits, debts, the house, pockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from ledgers import AGENT, PERSON, RATE, check_books, fund, hold

from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.accounts import LedgerTerms
from gateway.core.holds import (
    Credited,
    Debited,
    Placed,
    Posted,
    Refusal,
    Refused,
)
from gateway.core.money import NO_RATE, Rate, Unit


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
def ledger(link: RedisLink) -> RedisLedger:
    return RedisLedger(link, worker="w1", terms=LedgerTerms(most_shortfalls=3))


async def test_a_credit_is_applied_once_per_id_and_the_latest_sets_the_rate(ledger: RedisLedger) -> None:
    kind = {"unit": Unit.MSAT, "source": "lightning"}
    assert await ledger.credit("p1", AGENT, 10, rate=RATE, **kind) == Credited("applied", 10)  # type: ignore[arg-type]
    assert await ledger.credit("p1", AGENT, 10, rate=RATE, **kind) == Credited("replayed", 10)  # type: ignore[arg-type]
    foreign = Refused(Refusal.FOREIGN, 10, 0)
    assert await ledger.credit("p1", AGENT, 11, rate=RATE, **kind) == foreign  # type: ignore[arg-type]
    assert await ledger.credit("p2", AGENT, 10, rate=Rate(5), **kind) == Credited("applied", 20)  # type: ignore[arg-type]
    balance = await ledger.balance(AGENT)
    assert balance is not None and balance.rate == Rate(5) and balance.account_class == "agent"
    much = await ledger.credit("p3", AGENT, 10**15 - 1, rate=RATE, **kind)  # type: ignore[arg-type]
    assert much == Credited("applied", 10**15 + 19)


async def test_available_never_leaves_the_exact_range(ledger: RedisLedger) -> None:
    for number in range(9):
        await fund(ledger, 10**15 - 1, f"p{number}")
    answer = await ledger.credit("p9", AGENT, 10, unit=Unit.MSAT, rate=RATE, source="lightning")
    assert answer == Refused(Refusal.TOO_GREAT, 9 * 10**15 - 9, 0)
    assert await ledger.place(hold(amount=123)) == Placed("ho_7f1", 123, 9 * 10**15 - 132)
    balance = await ledger.balance(AGENT)
    assert balance is not None and balance.available == 9 * 10**15 - 132
    await check_books(ledger)


async def test_a_chargeback_leaves_a_debt_that_refuses_until_paid(ledger: RedisLedger) -> None:
    await fund(ledger, 100)
    await ledger.place(hold(amount=60))
    assert await ledger.debit("d1", AGENT, 100, cause="chargeback") == Debited(40, 60, 0)
    assert await ledger.debit("d1", AGENT, 100, cause="chargeback") == Debited(40, 60, 0, replayed=True)
    assert await ledger.place(hold("2", amount=0)) == Refused(Refusal.DEBT, 0, 60)
    assert await ledger.post("ho_7f1", 50, account=AGENT) == Posted("posted", 50, 0, 10)
    gift = await ledger.credit("g1", AGENT, 30, unit=Unit.MSAT, rate=RATE, source="gift", cause="promotion")
    assert gift == Credited("applied", 40)
    paid = await ledger.credit("p2", AGENT, 70, unit=Unit.MSAT, rate=RATE, source="lightning")
    assert paid == Credited("applied", 50, debt_paid=60)
    house = await ledger.balance("house-msat_7f")
    assert house is not None and (house.credited, house.posted, house.account_class) == (30, 30, "house")
    await check_books(ledger)


async def test_a_persons_pockets_are_drawn_in_order_and_sum_to_the_posting(ledger: RedisLedger) -> None:
    for pocket, amount, cause in (
        ("prepaid", 50, "payment"),
        ("allowance", 30, "allowance"),
        ("postpaid", 99, "credit_limit"),
    ):
        credited = await ledger.credit(
            pocket, PERSON, amount, unit=Unit.NANOUSD, rate=NO_RATE, source="stripe", cause=cause, pocket=pocket
        )
        assert isinstance(credited, Credited)
    assert await ledger.place(hold(account=PERSON, amount=100)) == Placed("ho_7f1", 100, 79)
    record = await ledger.hold("ho_7f1")
    assert record is not None and record.pockets == (("allowance", 30), ("prepaid", 50), ("postpaid", 20))
    answer = await ledger.post("ho_7f1", 45, account=PERSON)
    assert answer == Posted("posted", 45, 0, 134, (("allowance", 30), ("prepaid", 15), ("postpaid", 0)))
    balance = await ledger.balance(PERSON)
    assert balance is not None and balance.pockets == (("allowance", 0), ("prepaid", 35), ("postpaid", 99))
    assert await ledger.debit("d1", PERSON, 40, cause="refund") == Debited(35, 5, 99)
    await check_books(ledger)
