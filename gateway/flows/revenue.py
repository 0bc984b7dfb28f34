"""What was earned: what requests of people's accounts were posted at, as the postings counted it, by day, account and
model; and what agents' credits have paid so far.

Days are those of each account. An agent's credit keeps no days, and its refunds are posted like its requests: only its
sums can be told, in msat, because every credit has its own rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

from gateway.core.errors import InvalidRequest
from gateway.core.holds import PARTITIONS, Balance
from gateway.core.money import Unit, money_object
from gateway.people_ports import AccountIndex, UsageBook, UsageLine

GROUPS = ("day", "account", "model")
FIGURES = ("requests", "input_tokens", "cached_input_tokens", "output_tokens")
MONEY = ("posted", "included", "prepaid", "postpaid")
_AGENT = "agent"
# Accounts times days that one answer reads: some seconds of the store's and our time.
READS_MOST = 200_000
_AT_ONCE = 32


class Books(Protocol):
    """What of the ledger matters here."""

    async def accounts(self, partition: int) -> list[Balance]: ...


@dataclass(slots=True)
class Earned:
    """One group's sums; money in nanousd."""

    group: tuple[str, ...]
    figures: list[int] = field(default_factory=lambda: [0] * (len(FIGURES) + len(MONEY)))


class Revenue:
    """Sums what was posted."""

    def __init__(self, *, usage: UsageBook, accounts: AccountIndex, books: Books) -> None:
        self._usage = usage
        self._accounts = accounts
        self._books = books

    async def rows(self, *, first_day: str, last_day: str, groups: Sequence[str]) -> list[Earned]:
        """One row a group in which anything was posted. Errors: InvalidRequest where it is too much to read."""
        accounts = await self._accounts.all()
        days = (date.fromisoformat(last_day) - date.fromisoformat(first_day)).days + 1
        if len(accounts) * days > READS_MOST:
            raise InvalidRequest(f"ask for at most {max(READS_MOST // len(accounts), 1)} days at once", param="from")
        rows: dict[tuple[str, ...], Earned] = {}
        for start in range(0, len(accounts), _AT_ONCE):
            some = accounts[start : start + _AT_ONCE]
            lines = (self._usage.lines(account, first_day=first_day, last_day=last_day) for account in some)
            for account, found in zip(some, await asyncio.gather(*lines), strict=True):
                for line in found:
                    names = {"day": line.day, "account": account, "model": line.model}
                    group = tuple(names[name] for name in groups)
                    row = rows.setdefault(group, Earned(group))
                    row.figures = [sum(pair) for pair in zip(row.figures, _figures(line), strict=True)]
        return list(rows.values())

    async def agents(self) -> dict[str, Any]:
        """The sums of all agents' credits since ever; `posted` has their refunds in it."""
        count, sums = 0, dict.fromkeys(("credited", "posted", "held", "available"), 0)
        for partition in range(PARTITIONS):
            for balance in await self._books.accounts(partition):
                if balance.account_class == _AGENT:
                    count += 1
                    for name in sums:
                        sums[name] += getattr(balance, name)
        return {"accounts": count} | {name: money_object(amount, Unit.MSAT) for name, amount in sums.items()}


def _figures(line: UsageLine) -> Iterator[int]:
    yield from (getattr(line, name) for name in FIGURES)
    yield from (line.cost, line.included, line.prepaid, line.postpaid)


def revenue_members(row: Earned, groups: Sequence[str]) -> dict[str, Any]:
    """A row as the API shows it."""
    counts, money = row.figures[: len(FIGURES)], row.figures[len(FIGURES) :]
    return {
        **dict(zip(groups, row.group, strict=True)),
        **dict(zip(FIGURES, counts, strict=True)),
        **{name: money_object(amount, Unit.NANOUSD) for name, amount in zip(MONEY, money, strict=True)},
    }
