"""The ledger's records as others read them: the journal and its trimming, batches, leases, memory, cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from ledgers import AGENT, PARTITION, RATE, check_books, fund, hold

from gateway.adapters.redis.connection import RedisReplyError
from gateway.adapters.redis.leases import WorkerLease
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.accounts import LedgerTerms
from gateway.core.holds import (
    Extended,
    Placed,
    Posted,
    Refusal,
    Refused,
    Renewed,
)
from gateway.core.journal import Totals
from gateway.core.money import Unit


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
def ledger(link: RedisLink) -> RedisLedger:
    return RedisLedger(link, worker="w1", terms=LedgerTerms(most_shortfalls=3))


async def test_trimming_keeps_the_totals_and_does_not_feed_itself(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold())
    await ledger.post("ho_7f1", 40, account=AGENT)
    assert await ledger.trim(PARTITION, 2) == 2
    assert [(entry.number, entry.kind) for entry in await ledger.journal(PARTITION, 0)] == [
        (3, "posted"),
        (4, "opening"),
    ]
    await check_books(ledger)
    assert await ledger.trim(PARTITION, 4) == 4
    assert await ledger.trim(PARTITION, 5) == 4
    assert await ledger.opening(PARTITION) == (4, Totals(available=960, credited=1_000, posted=40))
    await check_books(ledger)


async def test_the_books_are_read_in_more_than_one_batch(ledger: RedisLedger) -> None:
    await fund(ledger, 1_000_000)
    await asyncio.gather(*(ledger.place(hold(f"{number:04x}")) for number in range(600)))
    assert len(await ledger.open_holds(PARTITION)) == 600
    await asyncio.gather(
        *(
            ledger.credit("p1", f"tok_7f{number:04x}", 5, unit=Unit.MSAT, rate=RATE, source="lightning")
            for number in range(600)
        )
    )
    assert len(await ledger.accounts(PARTITION)) == 601
    await check_books(ledger)


async def test_a_workers_lease_is_seen_by_everybody(ledger: RedisLedger, link: RedisLink) -> None:
    assert not await ledger.has_lease("w1")
    lease = asyncio.create_task(WorkerLease(link, "w1").run())
    while not await ledger.has_lease("w1"):
        await asyncio.sleep(0.001)
    lease.cancel()
    with suppress(asyncio.CancelledError):
        await lease
    assert not await ledger.has_lease("w1")


async def test_when_memory_is_short_nothing_is_placed_and_what_runs_is_ended(
    ledger: RedisLedger, link: RedisLink
) -> None:
    await fund(ledger, 1_000)
    await ledger.place(hold())
    try:
        await link.command("CONFIG", "SET", "maxmemory", "1mb", key="{p7f}")
        ledger.memory_is_short = True
        assert await ledger.place(hold("2")) == Refused(Refusal.MEMORY)
        ledger.memory_is_short = False
        with pytest.raises(RedisReplyError, match="OOM"):
            await ledger.place(hold("2"))
        assert await ledger.extend_to("ho_7f1", 100) == Extended(100, 900)
        assert await ledger.checkpoint("ho_7f1", 10) == Renewed(10)
        assert await ledger.post("ho_7f1", 10, account=AGENT) == Posted("posted", 10, 0, 990)
        await fund(ledger, 5, "pay2")
    finally:
        await link.command("CONFIG", "SET", "maxmemory", "0", key="{p7f}")
    assert await ledger.place(hold("2")) == Placed("ho_7f2", 100, 895)


async def test_a_debit_costs_the_same_with_many_accounts_in_the_store(ledger: RedisLedger, link: RedisLink) -> None:
    """No step reads anything but its own keys: with 100,000 more it makes the same number of calls inside the
    server."""

    async def calls_of_a_life(name: str) -> int:
        await link.command("CONFIG", "RESETSTAT", key="{p7f}")
        await ledger.place(hold(name))
        await ledger.post(f"ho_7f{name}", 10, account=AGENT)
        stats = (await link.command("INFO", "commandstats", key="{p7f}")).decode()
        inside = [line for line in stats.splitlines() if line.startswith("cmdstat_") and "config" not in line]
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in inside)

    await fund(ledger, 100_000)
    await calls_of_a_life("1")
    alone = await calls_of_a_life("2")
    fill = "for i = 1, 100000 do redis.call('HSET', '{p7f}a:tok_7fx' .. i, 'unit', 'msat', 'available', '5') end"
    await link.command("EVAL", fill, 0, key="{p7f}")
    assert await calls_of_a_life("3") == alone
