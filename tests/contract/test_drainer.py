"""The drain changes hands between workers, and stops all placing when the past does not fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cluster import running_cluster

from gateway.adapters.redis.drainer import Drainer
from gateway.adapters.redis.freeze import Freezer
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.segments import SegmentsInUse, segment_paths, verify_chain
from gateway.core.money import Rate, Unit

RATE = Rate(60_000_000_000)


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


async def credit(link: RedisLink, name: str, partition: str = "7f") -> None:
    ledger = RedisLedger(link, worker="w1")
    account = f"tok_{partition}0000000000000001"
    await ledger.credit(name, account, 100, unit=Unit.MSAT, rate=RATE, source="lightning")


def drainer(link: RedisLink, data_dir: Path) -> Drainer:
    return Drainer(link, RedisLedger(link, worker="w1"), Freezer(link), data_dir)


async def test_a_worker_waits_until_the_other_lets_go_and_then_goes_on(link: RedisLink, tmp_path: Path) -> None:
    first, second = drainer(link, tmp_path), drainer(link, tmp_path)
    await credit(link, "a")
    assert (await first.once()).entries == 1
    await credit(link, "b")
    assert (await second.once()).entries == 0
    with pytest.raises(SegmentsInUse):
        await second.accept()
    first.release()
    assert (await second.once()).entries == 1
    second.release()
    second.release()
    assert verify_chain(tmp_path) == {0x7F: 2}


async def test_a_start_on_a_store_that_went_back_freezes_before_the_first_hold(link: RedisLink, tmp_path: Path) -> None:
    before = drainer(link, tmp_path)
    assert await before.check_at_start() == []
    await credit(link, "a")
    await before.once()
    before.release()
    assert await drainer(link, tmp_path).check_at_start() == []
    await link.command("FLUSHDB", key="")
    (history,) = await drainer(link, tmp_path).check_at_start()
    assert history.found == 0
    assert await Freezer(link).look() == str(history)


async def test_changed_files_freeze_and_are_not_written_on(link: RedisLink, tmp_path: Path) -> None:
    before = drainer(link, tmp_path)
    await credit(link, "a")
    await before.once()
    before.release()
    (path,) = segment_paths(tmp_path / "journal")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    await credit(link, "b")
    assert (await drainer(link, tmp_path).once()).entries == 0
    reason = await Freezer(link).look()
    assert reason is not None and "files were changed" in reason
    assert path.read_bytes() == content


async def test_every_partition_of_a_cluster_is_drained(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "cluster") as cluster:
        link = await RedisLink.open(cluster.url, timeout_s=10)
        for partition in range(0, 256, 5):
            await credit(link, "a", f"{partition:02x}")
        drain = drainer(link, tmp_path)
        assert (await drain.once()).entries == 52
        assert (await drain.once()).entries == 0
        drain.release()
        assert verify_chain(tmp_path) == dict.fromkeys(range(0, 256, 5), 1)
        await link.close()
