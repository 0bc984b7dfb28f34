"""The ledger's steps on a real server, one behaviour a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.adapters.redis.ledger import LedgerTerms, RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.holds import (
    Credited,
    Placed,
    PlaceHold,
    Posted,
    Refusal,
    Refused,
)
from gateway.core.journal import Totals, summed
from gateway.core.money import NO_RATE, Rate, Unit

AGENT = "tok_7f0000000000000001"
PERSON = "acct_7f0000000000000002"
RATE = Rate(60_000_000_000)
PARTITION = 0x7F
FAR_MS = 4_102_444_800_000


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
def ledger(link: RedisLink) -> RedisLedger:
    return RedisLedger(link, worker="w1", terms=LedgerTerms(most_shortfalls=3))


async def fund(ledger: RedisLedger, amount: int, credit_id: str = "pay1") -> None:
    answer = await ledger.credit(credit_id, AGENT, amount, unit=Unit.MSAT, rate=RATE, source="lightning")
    assert isinstance(answer, Credited)


def hold(name: str = "1", *, account: str = AGENT, amount: int = 100, **fields: object) -> PlaceHold:
    rate = RATE if account == AGENT else NO_RATE
    base: dict[str, object] = {"floor": amount, "first": amount, "ceiling": amount, "rate": rate}
    return PlaceHold(hold_id=f"ho_7f{name}", account=account, **{**base, **fields})  # type: ignore[arg-type]


async def check_books(ledger: RedisLedger, partition: int = PARTITION) -> None:
    """The invariants that reconcile checks."""
    accounts = await ledger.accounts(partition)
    holds = await ledger.open_holds(partition)
    total = Totals()
    for account in accounts:
        own = Totals(account.available, account.held, account.credited, account.posted, account.debt)
        assert own.balanced and account.available >= 0
        assert account.held == sum(each.amount for each in holds if each.account == account.account)
        if account.pockets:
            assert account.available == sum(amount for _, amount in account.pockets)
        total += own
    through, opening = await ledger.opening(partition)
    entries = await ledger.journal(partition, 0)
    numbers = [entry.number for entry in entries]
    assert numbers == list(range(through + 1, through + 1 + len(entries)))
    assert opening + summed(entries, after=through) == total


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
