"""A debit costs the store the same with one credit and with 100,000; and a gateway starts over them as over none."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from e2e.outside import Store, running_store
from e2e.stack import Parts, proof, start_stack

from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.holds import Placed, PlaceHold
from gateway.core.money import Rate, Unit

CREDITS = 100_000
AT_ONCE = 2_000
ROUNDS, DEBITS_A_ROUND = 10, 50
RATIO_MOST = 1.5
START_MOST_S = 15.0  # on a machine that others use too; alone it is two
RATE = Rate(100_000_000_000)
ACCOUNT = f"tk_{'7f' * 32}"


async def credit(ledger: RedisLedger, number: int, account: str) -> None:
    await ledger.credit(f"{number:064x}", account, 10**9, unit=Unit.MSAT, rate=RATE, source="lightning")


async def fill(ledger: RedisLedger) -> None:
    """So many credits of other agents, spread over all partitions as tokens are."""
    for first in range(1, CREDITS + 1, AT_ONCE):
        numbers = range(first, first + AT_ONCE)
        await asyncio.gather(*(credit(ledger, number, f"tk_{number & 255:02x}{number:062x}") for number in numbers))


async def debits_us(store: Store, ledger: RedisLedger, first: int) -> float:
    """What the server spent on one script, over a round of holds placed and posted."""
    assert b"OK" in store.ask(b"CONFIG RESETSTAT")
    for number in range(first, first + DEBITS_A_ROUND):
        hold_id = f"ho_7f{number}"
        assert isinstance(await ledger.place(PlaceHold(hold_id, ACCOUNT, 1_000, 1_000, 1_000, RATE)), Placed)
        await ledger.post(hold_id, 1_000, account=ACCOUNT)
    text = store.ask(b"INFO commandstats").decode()
    ((calls, usec),) = re.findall(r"cmdstat_evalsha:calls=(\d+),usec=(\d+)", text)
    assert int(calls) >= 2 * DEBITS_A_ROUND, text  # more where the scripts were not known yet
    return int(usec) / int(calls)


async def compared(few: Store, many: Store) -> tuple[float, float]:
    """The cheapest round on either store; the rounds take turns, so that both see the same machine."""
    links = [await RedisLink.open(store.url) for store in (few, many)]
    ledgers = [RedisLedger(link, worker="w") for link in links]
    for ledger in ledgers:
        await credit(ledger, 0, ACCOUNT)
    await fill(ledgers[1])
    rounds = [
        [
            await debits_us(store, ledger, number * DEBITS_A_ROUND)
            for store, ledger in zip((few, many), ledgers, strict=True)
        ]
        for number in range(ROUNDS)
    ]
    for link in links:
        await link.close()
    return min(round_us[0] for round_us in rounds), min(round_us[1] for round_us in rounds)


def test_a_debit_costs_the_same_with_100000_credits_in_the_store(parts: Parts, tmp_path: Path) -> None:
    with running_store(tmp_path / "few", durable=False) as few, running_store(tmp_path / "many", durable=False) as many:
        few_us, many_us = asyncio.run(compared(few, many))
        assert many_us / few_us < RATIO_MOST, f"{few_us:.0f} us with one credit, {many_us:.0f} us with {CREDITS:,}"
        began = time.monotonic()
        with start_stack(tmp_path / "gateway", parts, redis={"url": many.url}) as stack:
            assert time.monotonic() - began < START_MOST_S
            assert stack.http.get("/raw/x", headers=proof(stack.buy(1))).status_code == 200
