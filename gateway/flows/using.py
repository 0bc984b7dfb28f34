"""What was used and what it cost, as the postings counted it: exact, by day, model, person and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core.budgets import EVERYBODY
from gateway.core.directory import OrgView, Scope, account_of_org
from gateway.core.money import Unit, money_object
from gateway.core.windows import day_at
from gateway.people_ports import DirectoryStore, UsageBook, UsageLine

GROUPS = ("day", "model", "user", "key")
FIGURES = (
    "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost", "included", "prepaid", "postpaid",
)  # fmt: skip
MONEY = frozenset({"cost", "included", "prepaid", "postpaid"})
# A year: usage is kept a little longer.
DAYS_MOST = 366
_PERSONS_AT_ONCE = 500


class Using:
    """Sums usage."""

    def __init__(self, *, usage: UsageBook, store: DirectoryStore) -> None:
        self._usage = usage
        self._store = store

    async def rows(
        self, org_id: str, *, person_id: str, first_day: str, last_day: str, groups: Sequence[str]
    ) -> list[dict[str, Any]]:
        """One row a group, in order; figures are whole numbers, money in nanousd."""
        sums: dict[tuple[str, ...], list[int]] = {}
        for line in await self._lines(org_id, person_id, first_day, last_day):
            name = tuple(str(getattr(line, group)) for group in groups)
            into = sums.setdefault(name, [0] * len(FIGURES))
            for place, figure in enumerate(FIGURES):
                into[place] += getattr(line, figure)
        return [
            dict(zip(groups, name, strict=True)) | dict(zip(FIGURES, figures, strict=True))
            for name, figures in sorted(sums.items())
        ]

    async def _lines(self, org_id: str, person_id: str, first_day: str, last_day: str) -> list[UsageLine]:
        accounts = [account_of_org(org_id)]
        if person_id:
            person = await self._store.person(org_id, person_id)
            if person is not None and person.person.account:
                accounts.append(person.person.account)
        else:
            accounts += await self._own_accounts(org_id)
        lines: list[UsageLine] = []
        for account in accounts:
            lines += await self._usage.lines(account, first_day=first_day, last_day=last_day)
        return [line for line in lines if person_id in ("", line.user)]

    async def _own_accounts(self, org_id: str) -> list[str]:
        """Accounts of persons who have one of their own."""
        found, after = list[str](), ""
        while persons := await self._store.persons(org_id, after=after, most=_PERSONS_AT_ONCE):
            found += [person.account for person in persons if person.account]
            after = persons[-1].person_id
        return found

    async def used_since(self, org: OrgView, scope: Scope, since_ms: int, now_ms: int) -> Mapping[str, int]:
        """What a scope of org, key, user and model has cost since an instant, by whole days of the account, and by
        person; "" is what the keys asked for themselves."""
        last_day, _ = day_at(org.org.time_zones, now_ms)
        first_ms = max(since_ms, now_ms - (DAYS_MOST - 1) * 86_400_000)
        first_day, _ = day_at(org.org.time_zones, first_ms)
        person_id = "" if scope.user == EVERYBODY else scope.user
        used: dict[str, int] = {}
        for line in await self._lines(org.org.org_id, person_id, first_day, last_day):
            if scope.key in ("", line.key) and scope.model in ("", line.model):
                used[line.user] = used.get(line.user, 0) + line.cost
        return used


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its money as money objects."""
    return {name: money_object(value, Unit.NANOUSD) if name in MONEY else value for name, value in row.items()}
