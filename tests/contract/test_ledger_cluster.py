"""The ledger on a three-node cluster, also while the slot of a partition moves: no step is lost, none is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from cluster import Cluster, running_cluster
from ledgers import AGENT, PARTITION, RATE, check_books, fund, hold

from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.accounts import CounterState
from gateway.core.holds import Placed, PlaceHold, Posted, ScopeClaim
from gateway.core.money import Unit

CLAIMS = (ScopeClaim("org", "total", limit=10**9), ScopeClaim("user", "day:1", limit=10**9))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def ledger(cluster: Cluster) -> AsyncIterator[RedisLedger]:
    for node in cluster.nodes:
        node.client.flushall()
    link = await RedisLink.open(cluster.url, timeout_s=10)
    yield RedisLedger(link, worker="w1")
    await link.close()


async def test_every_partition_carries_an_account_and_its_holds(ledger: RedisLedger) -> None:
    for partition in range(0, 256, 5):
        account = f"tok_{partition:02x}a"
        await ledger.credit("p1", account, 100, unit=Unit.MSAT, rate=RATE, source="lightning")
        placed = await ledger.place(
            PlaceHold(f"ho_{partition:02x}1", account, floor=60, first=60, ceiling=60, rate=RATE, scopes=CLAIMS)
        )
        assert isinstance(placed, Placed)
        assert await ledger.post(placed.hold_id, 50, account=account) == Posted("posted", 50, 0, 50)
        await check_books(ledger, partition)


async def test_a_slot_that_moves_loses_no_step_and_does_none_twice(ledger: RedisLedger, cluster: Cluster) -> None:
    await fund(ledger, 10**8)

    async def life(number: int) -> None:
        name = f"{number:06x}"
        placed = await ledger.place(hold(name, scopes=CLAIMS))
        assert isinstance(placed, Placed)
        ended = await ledger.post(placed.hold_id, 70, account=AGENT)
        assert isinstance(ended, Posted) and ended.posted == 70

    await asyncio.gather(*(life(number) for number in range(100)))
    moving = asyncio.create_task(asyncio.to_thread(cluster.migrate_slot, cluster.slot_of("{p7f}"), pause_s=0.001))
    number = 100
    while not moving.done() or number < 300:
        await asyncio.gather(*(life(each) for each in range(number, number + 20)))
        number += 20
    await moving
    balance = await ledger.balance(AGENT)
    assert balance is not None and (balance.held, balance.posted) == (0, 70 * number)
    assert await ledger.counter(AGENT, CLAIMS[0]) == CounterState(used=70 * number, held=0)
    await check_books(ledger, PARTITION)
