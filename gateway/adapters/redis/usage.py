"""What postings counted, by day: `{pNN}y:<day>|<account>`, one field a line (`<model>|<user>|<key>`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, timedelta
from urllib.parse import unquote

from gateway.adapters.redis import keys
from gateway.adapters.redis.books import Link
from gateway.people_ports import UsageLine


class RedisUsage:
    """`people_ports.UsageBook`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def lines(self, account: str, *, first_day: str, last_day: str) -> Sequence[UsageLine]:
        """Every line of the days from the first to the last, in order."""
        first, last = date.fromisoformat(first_day), date.fromisoformat(last_day)
        days = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
        found = await asyncio.gather(*(self._day(account, day) for day in days))
        return [line for lines in found for line in lines]

    async def _day(self, account: str, day: str) -> list[UsageLine]:
        name = f"{keys.tag(account)}y:{day}|{account}"
        fields = await self._link.command("HGETALL", name, key=name)
        pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
        lines = []
        for field, value in pairs:
            model, user, key = field.decode().split("|")
            lines.append(UsageLine(day, unquote(model), unquote(user), key, *map(int, value.split())))
        return sorted(lines, key=lambda line: (line.model, line.user, line.key))
