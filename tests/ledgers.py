"""What the tests of the ledger share: a store to begin with, and the invariants of the books."""

from __future__ import annotations

from gateway.adapters.redis.ledger import RedisLedger
from gateway.core.holds import Credited, PlaceHold
from gateway.core.journal import Totals, summed
from gateway.core.money import NO_RATE, Rate, Unit

AGENT = "tok_7f0000000000000001"
PERSON = "acct_7f0000000000000002"
RATE = Rate(60_000_000_000)
PARTITION = 0x7F
FAR_MS = 4_102_444_800_000


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
    entries = await ledger.journal(partition, 0, 10_000)
    numbers = [entry.number for entry in entries]
    assert numbers == list(range(through + 1, through + 1 + len(entries)))
    assert opening + summed(entries, after=through) == total
