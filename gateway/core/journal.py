"""The journal's entries: one a movement, numbered without gaps within a partition, each saying what it adds to which
balance.

Why: the sum of the journal is the balances. Reconcile sums entries without knowing what kinds there are; the kind, the
id and `more` say why. An `opening` entry stands for everything up to the number in its id: it carries totals and is
never summed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OPENING = "opening"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over accounts, or over entries. What holds for one account holds for them all (`balanced`)."""

    available: int = 0
    held: int = 0
    credited: int = 0
    posted: int = 0
    debt: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.available + other.available,
            self.held + other.held,
            self.credited + other.credited,
            self.posted + other.posted,
            self.debt + other.debt,
        )

    @property
    def balanced(self) -> bool:
        """What came in is what is there, held or used."""
        return self.available + self.held + self.posted == self.credited + self.debt


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One movement. `id` is the hold's, the credit's or the debit's; `more` is `name=value` words: owner, shortfall,
    cause, source, for, scope_lost (the place of the scope, from 1, whose counter was gone)."""

    number: int
    kind: str
    at_ms: int
    account: str
    id: str
    adds: Totals
    more: tuple[tuple[str, str], ...] = ()


def parse_entry(number: int, text: str) -> JournalEntry:
    """Read an entry as the scripts write it.

    Errors: ValueError when it is none.
    """
    kind, at_ms, account, entry_id, *rest = text.split(" ")
    amounts = [int(word) for word in rest[:5]]
    more = tuple((name, value) for name, _, value in (word.partition("=") for word in rest[5:]))
    return JournalEntry(number, kind, int(at_ms), account, entry_id, Totals(*amounts), more)


def summed(entries: Iterable[JournalEntry], *, after: int = 0) -> Totals:
    """What the entries numbered above `after` add; openings are left out."""
    total = Totals()
    for entry in entries:
        if entry.number > after and entry.kind != OPENING:
            total += entry.adds
    return total
