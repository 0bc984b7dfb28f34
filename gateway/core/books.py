"""The ledger's invariants, checked on what a store says of one partition.

Pure: accounts, open holds, counters and journal entries of one moment come in, findings go out. Nothing is repaired
here or anywhere else: a mismatch is told, and what it concerns is frozen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.core.accounts import CounterState
from gateway.core.holds import Balance, HoldRecord, Measure, ScopeClaim
from gateway.core.journal import JournalEntry, Totals, summed

# Kinds of entries that end a hold. A late or an orphan posting has a kind of its own.
_ENDINGS = frozenset({"posted", "voided", "expired"})
# A hold at its greatest age is expired by the next sweep; what is older than this has no sweeper.
_OVERDUE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One invariant that does not hold. `account` None: it concerns the whole partition."""

    invariant: str
    partition: int
    account: str | None
    text: str

    def __str__(self) -> str:
        subject = self.account or f"partition {self.partition:02x}"
        return f"{self.invariant}: {subject}: {self.text}"


@dataclass(frozen=True, slots=True)
class PartitionBooks:
    """One partition at one moment. `entries` are those after `through`, for which `opening` stands. `counters`:
    every claim of an open hold, by scope, window and measure; None where the counter is gone."""

    partition: int
    now_ms: int
    accounts: Sequence[Balance]
    open_holds: Sequence[HoldRecord]
    through: int
    opening: Totals
    entries: Sequence[JournalEntry]
    counters: Mapping[tuple[str, str, Measure], CounterState | None]


def claim_key(claim: ScopeClaim) -> tuple[str, str, Measure]:
    """What tells one counter from another."""
    return claim.scope, claim.window, claim.measure


def check(books: PartitionBooks) -> list[Mismatch]:
    """Every mismatch of the partition."""
    return [*_accounts(books), *_journal(books), *_scopes(books), *_ages(books)]


def _accounts(books: PartitionBooks) -> Iterator[Mismatch]:
    held_by_holds: dict[str, int] = defaultdict(int)
    for hold in books.open_holds:
        held_by_holds[hold.account] += hold.amount
    known = {account.account for account in books.accounts}
    for account in books.accounts:
        name = account.account
        if account.available < 0:
            yield Mismatch("available >= 0", books.partition, name, f"available is {account.available}")
        if not _totals(account).balanced:
            yield Mismatch("what came in is there, held or used", books.partition, name, f"{_totals(account)}")
        if account.held != held_by_holds[name]:
            text = f"held is {account.held}, its open holds hold {held_by_holds[name]}"
            yield Mismatch("held = open holds", books.partition, name, text)
        pockets = sum(amount for _, amount in account.pockets)
        if account.pockets and pockets != account.available:
            text = f"the pockets have {pockets}, available is {account.available}"
            yield Mismatch("pockets = account", books.partition, name, text)
    for name in held_by_holds.keys() - known:
        yield Mismatch("every hold has its account", books.partition, name, "open holds, but no account")


def _journal(books: PartitionBooks) -> Iterator[Mismatch]:
    numbers = [entry.number for entry in books.entries]
    expected = list(range(books.through + 1, books.through + 1 + len(numbers)))
    if numbers != expected:
        missing = sorted(set(expected) - set(numbers))[:3]
        yield Mismatch("no gap in the journal", books.partition, None, f"first missing: {missing}")
    balances = Totals()
    for account in books.accounts:
        balances += _totals(account)
    movements = books.opening + summed(books.entries, after=books.through)
    if movements != balances:
        yield Mismatch("journal = balances", books.partition, None, f"journal {movements}, balances {balances}")
    endings = Counter(entry.id for entry in books.entries if entry.kind in _ENDINGS)
    for hold_id, count in endings.items():
        if count > 1:
            yield Mismatch("one resolution per hold", books.partition, None, f"hold {hold_id} ended {count} times")


_MONEY_HELD = frozenset({Measure.MONEY, Measure.SHARE})
_NOTHING_HELD = frozenset({Measure.USAGE, Measure.QUOTE})


def _scopes(books: PartitionBooks) -> Iterator[Mismatch]:
    held: dict[tuple[str, str, Measure], int] = defaultdict(int)
    account_of: dict[tuple[str, str, Measure], str] = {}
    for hold in books.open_holds:
        for claim in hold.scopes:
            if claim.measure not in _NOTHING_HELD:
                held[claim_key(claim)] += hold.amount if claim.measure in _MONEY_HELD else 1
                account_of[claim_key(claim)] = hold.account
    for key, amount in held.items():
        counter = books.counters.get(key)
        if counter is None or counter.held == amount:
            continue  # one that is gone is journaled as scope_lost when its holds end
        text = f"scope {key[0]} in {key[1]} says {counter.held} held, its open holds hold {amount}"
        yield Mismatch("held = open holds, per scope", books.partition, account_of[key], text)


def _ages(books: PartitionBooks) -> Iterator[Mismatch]:
    for hold in books.open_holds:
        if hold.amount > hold.ceiling or hold.amount < 0:
            text = f"hold {hold.hold_id} holds {hold.amount} of at most {hold.ceiling}"
            yield Mismatch("a hold is at most its ceiling", books.partition, hold.account, text)
        if not hold.owner and hold.must_end_at_ms and books.now_ms > hold.must_end_at_ms + _OVERDUE_MS:
            age_s = (books.now_ms - hold.placed_at_ms) // 1000
            yield Mismatch(
                "no hold older than its greatest age", books.partition, hold.account, f"{hold.hold_id}: {age_s} s"
            )


def _totals(account: Balance) -> Totals:
    return Totals(account.available, account.held, account.credited, account.posted, account.debt)
