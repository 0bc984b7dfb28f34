"""Looking at the ledger: balances, holds, open holds, the journal, and the records that steps only read (budgets,
revocations).

Why apart from the steps: nothing here moves money. Reconcile, the sweeper, the drainer and the API's reads come through
here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.adapters.redis import keys, replies
from gateway.adapters.redis.scripts import Script, load
from gateway.core.accounts import Budget, CounterState
from gateway.core.holds import Balance, HoldRecord, ScopeClaim
from gateway.core.journal import JournalEntry, Totals, parse_entry

# Holds and accounts are read in batches of this many: one reply stays small against what else the server has to do.
_BATCH = 256
# Entries that one trim sums: about 1 ms of the server's time.
_TRIM_MOST = 1_000


class Link(Protocol):
    """The calls that the ledger makes; `link.RedisLink` is the one that is used."""

    async def command(self, *args: bytes | str | int, key: str) -> Any: ...
    async def script(self, script: Script, keys: Sequence[str], args: Sequence[bytes | str | int]) -> Any: ...


class RedisBooks:
    """The ledger's records as they stand in the store."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._trim = load("trim")

    async def balance(self, account: str) -> Balance | None:
        """The account's balances, None where there is no account."""
        key = keys.account_key(account)
        return replies.balance(account, await self._link.command("HMGET", key, *replies.BALANCE_FIELDS, key=key))

    async def hold(self, hold_id: str) -> HoldRecord | None:
        """The hold, None where it is unknown or forgotten."""
        key = keys.hold_key(hold_id)
        raw = await self._link.command("GET", key, key=key)
        return None if raw is None else replies.hold_record(hold_id, replies.read_hold(raw))

    async def open_ids(self, partition: int, *, until_ms: int | None = None, most: int = 1_000) -> list[str]:
        """Ids of open holds whose renewal ends by `until_ms` (all where None), the longest overdue first."""
        key = f"{keys.partition_tag(partition)}open"
        score = "+inf" if until_ms is None else until_ms
        found = await self._link.command("ZRANGEBYSCORE", key, "-inf", score, "LIMIT", 0, most, key=key)
        return [hold_id.decode() for hold_id in found]

    async def open_holds(self, partition: int) -> list[HoldRecord]:
        """Every open hold of a partition. Between the index and the record a hold may end: such a one is left out."""
        key = f"{keys.partition_tag(partition)}open"
        ids = [hold_id.decode() for hold_id in await self._link.command("ZRANGE", key, 0, -1, key=key)]
        records = []
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            names = [keys.hold_key(hold_id) for hold_id in batch]
            for hold_id, raw in zip(batch, await self._link.command("MGET", *names, key=key), strict=True):
                if raw is not None:
                    records.append(replies.hold_record(hold_id, replies.read_hold(raw)))
        return [record for record in records if record.state == "open"]

    async def accounts(self, partition: int) -> list[Balance]:
        """Every account of a partition, the house's own among them."""
        key = f"{keys.partition_tag(partition)}accounts"
        found = []
        cursor: bytes = b"0"
        while True:
            cursor, members = await self._link.command("SSCAN", key, cursor, "COUNT", _BATCH, key=key)
            found += [name.decode() for name in members]
            if cursor == b"0":
                break
        names = sorted(set(found))
        balances: list[Balance | None] = []
        for start in range(0, len(names), _BATCH):
            balances += await asyncio.gather(*map(self.balance, names[start : start + _BATCH]))
        return [balance for balance in balances if balance is not None]

    async def journal(self, partition: int, after: int, most: int = 1_000) -> list[JournalEntry]:
        """At most `most` entries numbered above `after`."""
        key = f"{keys.partition_tag(partition)}journal"
        entries = await self._link.command("XRANGE", key, f"0-{after + 1}", "+", "COUNT", most, key=key)
        return [parse_entry(int(entry_id.split(b"-")[1]), fields[1].decode()) for entry_id, fields in entries]

    async def opening(self, partition: int) -> tuple[int, Totals]:
        """Up to which number the journal was trimmed, and what all entries up to it add."""
        key = f"{keys.partition_tag(partition)}opening"
        names = ("through", "available", "held", "credited", "posted", "debt")
        through, *totals = [int(value or 0) for value in await self._link.command("HMGET", key, *names, key=key)]
        return through, Totals(*totals)

    async def audited(self, partition: int) -> tuple[int, str]:
        """Number and digest of the last entry of the audit log that the trimmed journal knew of; 0 where of none."""
        key = f"{keys.partition_tag(partition)}opening"
        number, digest = await self._link.command("HMGET", key, "audit", "audit_digest", key=key)
        return int(number or 0), (digest or b"").decode()

    async def trim(self, partition: int, acknowledged: int) -> int:
        """Forget the journal up to `acknowledged`, or less of it in one step; answers up to which number it is
        forgotten.

        Errors: RedisReplyError on a gap in the numbers, or a number that the journal has not reached.
        """
        of_tag = keys.partition_tag(partition)
        step_keys = (f"{of_tag}journal", f"{of_tag}opening")
        reply = await self._link.script(self._trim, step_keys, (acknowledged, _TRIM_MOST))
        return int(reply[1])

    async def counter(self, account: str, claim: ScopeClaim) -> CounterState | None:
        """What the counter of a claim says, None where nothing was counted in that window."""
        key = keys.counter_key(keys.tag(account), claim)
        used, held = await self._link.command("HMGET", key, "used", "held", key=key)
        if used is None:
            return None
        lives_ms = await self._link.command("PTTL", key, key=key)
        return CounterState(int(used), int(held), lives_ms if lives_ms >= 0 else None)

    async def put_budget(self, account: str, budget: Budget) -> None:
        """Write a budget record into the account's partition; a limit takes effect with the next step."""
        key = keys.budget_key(keys.tag(account), budget.budget_id)
        limit = () if budget.limit is None else ("limit", budget.limit)
        raised = ("raised", budget.raised_to, "raised_until", budget.raised_until_ms) if budget.raised_until_ms else ()
        await self._link.command("HSET", key, "state", budget.state, *limit, *raised, key=key)

    async def get_budget(self, account: str, budget_id: str) -> Budget | None:
        key = keys.budget_key(keys.tag(account), budget_id)
        return replies.budget(budget_id, await self._link.command("HMGET", key, *replies.BUDGET_FIELDS, key=key))

    async def revoke(self, token_id: str, account: str) -> None:
        """From now on no hold is placed with this token. Open holds run on."""
        key = keys.account_key(account)
        await self._link.command("HSET", key, f"r:{token_id}", int(time.time()), key=key)

    async def is_revoked(self, token_id: str, account: str) -> bool:
        """Whether `place` would refuse this token; for what needs no hold."""
        key = keys.account_key(account)
        return bool(await self._link.command("HEXISTS", key, f"r:{token_id}", key=key))

    async def freeze(self, account: str) -> None:
        """From now on no hold is placed on this account; what runs is settled. For reconcile, on a mismatch."""
        key = keys.account_key(account)
        await self._link.command("HSET", key, "frozen", "1", key=key)

    async def unfreeze(self, account: str) -> None:
        key = keys.account_key(account)
        await self._link.command("HDEL", key, "frozen", key=key)

    async def has_lease(self, worker: str) -> bool:
        """Whether this worker has shown within its lease that it lives (`leases.WorkerLease`)."""
        key = f"{{leases}}{worker}"
        return bool(await self._link.command("EXISTS", key, key=key))
