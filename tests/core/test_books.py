"""Every invariant of the books, each broken once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.accounts import CounterState
from gateway.core.books import PartitionBooks, check, claim_key
from gateway.core.holds import Balance, HoldRecord, Measure, ScopeClaim
from gateway.core.journal import JournalEntry, Totals
from gateway.core.money import Rate, Unit

RATE = Rate(60_000_000_000)
MONEY = ScopeClaim("agent:x", "total", limit=1_000)
USES = ScopeClaim("agent:x", "total", measure=Measure.USES, limit=10)
ACCOUNT = Balance("tok_7f1", Unit.NANOUSD, 60, 30, 100, 10, 0, RATE, pockets=(("prepaid", 50), ("postpaid", 10)))
HOLD = HoldRecord(
    "ho_7f1",
    "tok_7f1",
    "open",
    10,
    40,
    30,
    0,
    0,
    0,
    RATE,
    "w1",
    1_000,
    31_000,
    None,
    scopes=(MONEY, USES),
    must_end_at_ms=90_000,
)
CREDIT = JournalEntry(1, "credit", 1_000, "tok_7f1", "pay1", Totals(available=100, credited=100))
PLACED = JournalEntry(2, "placed", 1_000, "tok_7f1", "ho_7f0", Totals(available=-10, held=10))
POSTED = JournalEntry(3, "posted", 1_000, "tok_7f1", "ho_7f0", Totals(held=-10, posted=10))
PLACED_AGAIN = JournalEntry(4, "placed", 1_000, "tok_7f1", "ho_7f1", Totals(available=-30, held=30))
BOOKS = PartitionBooks(
    partition=0x7F,
    now_ms=10_000,
    accounts=(ACCOUNT,),
    open_holds=(HOLD,),
    through=0,
    opening=Totals(),
    entries=(CREDIT, PLACED, POSTED, PLACED_AGAIN),
    counters={claim_key(MONEY): CounterState(10, 30), claim_key(USES): CounterState(1, 1)},
)


def broken(books: PartitionBooks) -> set[str]:
    return {mismatch.invariant for mismatch in check(books)}


def test_books_in_order_have_no_mismatch() -> None:
    assert check(BOOKS) == []


def test_an_opening_stands_for_what_was_trimmed() -> None:
    opening = CREDIT.adds + PLACED.adds
    opening_entry = JournalEntry(5, "opening", 1, "-", "2", opening)
    books = replace(BOOKS, through=2, opening=opening, entries=(POSTED, PLACED_AGAIN, opening_entry))
    assert check(books) == []


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        (
            replace(ACCOUNT, available=-1, pockets=()),
            {"available >= 0", "what came in is there, held or used", "journal = balances"},
        ),
        (replace(ACCOUNT, held=31), {"what came in is there, held or used", "held = open holds", "journal = balances"}),
        (replace(ACCOUNT, pockets=(("prepaid", 59),)), {"pockets = account"}),
        (replace(ACCOUNT, credited=200, available=160, pockets=()), {"journal = balances"}),
    ],
)
def test_an_account_that_does_not_fit_is_found(account: Balance, expected: set[str]) -> None:
    assert broken(replace(BOOKS, accounts=(account,))) == expected


def test_holds_without_an_account_are_found() -> None:
    found = check(replace(BOOKS, accounts=(), entries=()))
    assert [mismatch.invariant for mismatch in found] == ["every hold has its account"]
    assert str(found[0]) == "every hold has its account: tok_7f1: open holds, but no account"


def test_a_gap_in_the_numbers_is_found() -> None:
    later = replace(PLACED_AGAIN, number=5)
    (mismatch,) = check(replace(BOOKS, entries=(CREDIT, PLACED, POSTED, later)))
    assert (mismatch.invariant, mismatch.account) == ("no gap in the journal", None)
    assert str(mismatch).startswith("no gap in the journal: partition 7f: first missing: [4]")


def test_a_hold_that_ended_twice_is_found() -> None:
    again = JournalEntry(5, "expired", 1_000, "tok_7f1", "ho_7f0", Totals())
    assert broken(replace(BOOKS, entries=(*BOOKS.entries, again))) == {"one resolution per hold"}


@pytest.mark.parametrize("claim", [MONEY, USES])
def test_a_counter_that_holds_something_else_is_found(claim: ScopeClaim) -> None:
    counters = {**BOOKS.counters, claim_key(claim): CounterState(1, 7)}
    assert broken(replace(BOOKS, counters=counters)) == {"held = open holds, per scope"}


def test_a_counter_that_is_gone_is_told_by_the_journal_not_here() -> None:
    assert check(replace(BOOKS, counters={**BOOKS.counters, claim_key(MONEY): None})) == []


def test_a_hold_above_its_ceiling_is_found() -> None:
    assert broken(replace(BOOKS, open_holds=(replace(HOLD, ceiling=29),))) == {"a hold is at most its ceiling"}


def test_a_hold_past_its_greatest_age_is_found_unless_an_execution_owns_it() -> None:
    late = replace(BOOKS, now_ms=150_001)
    assert broken(late) == {"no hold older than its greatest age"}
    assert check(replace(late, open_holds=(replace(HOLD, owner="exe_7f1"),))) == []


def test_a_share_holds_money_and_what_is_only_looked_at_holds_nothing() -> None:
    share = ScopeClaim("org&user=alice&account=ac", "now", Measure.SHARE, 300_000)
    others = (ScopeClaim("ac", "2026-11-28", Measure.USAGE, detail="m|alice|k"), ScopeClaim("q_7f", "", Measure.QUOTE))
    held = replace(HOLD, scopes=(share, *others))
    fits = {claim_key(share): CounterState(0, HOLD.amount)}
    assert broken(replace(BOOKS, open_holds=(held,), counters=fits)) == set()
    assert broken(replace(BOOKS, open_holds=(held,), counters={claim_key(share): CounterState(0, 1)})) == {
        "held = open holds, per scope"
    }
