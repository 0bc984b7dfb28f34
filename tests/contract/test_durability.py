"""What the store can lose is told in plain words, from the settings of real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from servers import running_valkey

from gateway.adapters.embedded import embedded_server
from gateway.adapters.redis.durability import DurabilityReport, Level, look
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.memory import MemoryWatch


async def report_of(url: str) -> DurabilityReport:
    link = await RedisLink.open(url, timeout_s=5)
    report = await look(link)
    await link.close()
    return report


async def report_with(tmp_path: Path, *options: str) -> DurabilityReport:
    with running_valkey(tmp_path, *options) as port:
        return await report_of(f"redis://127.0.0.1:{port}")


def losses(report: DurabilityReport) -> dict[str, int | None]:
    return {loss.event.split(" (")[0]: loss.seconds for loss in report.losses}


async def test_the_embedded_store_loses_nothing_to_kills_and_power_cuts(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as url:
        report = await report_of(url)
    assert report.sound
    assert losses(report) == {
        "the server's process is killed": 0,
        "the machine loses power": 0,
        "the disk is lost": None,
    }
    assert all(finding.level is Level.NOTE for finding in report.findings)
    assert any("on disk before it is acknowledged" in line for line in report.lines())


@pytest.mark.parametrize(
    ("options", "killed_s", "power_s"),
    [
        (("--appendonly", "yes", "--appendfsync", "everysec"), 0, 2),
        (("--appendonly", "yes", "--appendfsync", "no"), 0, 30),
        (("--save", "900 1 60 100"), 900, 900),
        ((), None, None),
    ],
)
async def test_each_way_to_persist_has_its_loss(
    tmp_path: Path, options: tuple[str, ...], killed_s: int | None, power_s: int | None
) -> None:
    found = losses(await report_with(tmp_path, *options))
    assert (found["the server's process is killed"], found["the machine loses power"]) == (killed_s, power_s)


async def test_eviction_and_a_missing_file_are_faults(tmp_path: Path) -> None:
    report = await report_with(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    assert not report.sound
    faults = [str(finding) for finding in report.findings if finding.level is Level.FAULT]
    assert len(faults) == 2
    assert any("noeviction" in fault for fault in faults) and any("appendonly yes" in fault for fault in faults)


async def test_a_replica_without_a_least_number_of_replicas_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running_valkey(tmp_path / "a", "--appendonly", "yes", "--repl-diskless-sync-delay", "0") as primary:
        with running_valkey(tmp_path / "b", "--replicaof", f"127.0.0.1 {primary}"):
            link = await RedisLink.open(f"redis://127.0.0.1:{primary}", timeout_s=5)
            while b"state=online" not in await link.command("INFO", "replication", key=""):
                await asyncio.sleep(0.02)
            report = await look(link)
            assert losses(report)["a replica takes over"] is None
            assert any("min-replicas-to-write 1" in finding.remedy for finding in report.findings)
            await link.command("CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 3, key="")
            assert losses(await look(link))["a replica takes over"] == 3
            await link.close()


async def test_settings_that_are_hidden_are_told_as_not_known(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as port:
        link = await RedisLink.open(f"redis://127.0.0.1:{port}", timeout_s=5)
        await link.command("ACL", "SETUSER", "default", "-config", key="")
        report = await look(link)
        await link.close()
    assert any("not known" in str(finding) for finding in report.findings)
    assert not report.losses


async def test_memory_is_full_at_85_percent(tmp_path: Path) -> None:
    told: list[bool] = []
    with running_valkey(tmp_path, "--maxmemory", "12mb", "--maxmemory-policy", "noeviction") as port:
        link = await RedisLink.open(f"redis://127.0.0.1:{port}", timeout_s=5)
        watch = MemoryWatch(link, tell=told.append)
        await watch.look()
        assert not watch.memory_full()
        for number in range(200):
            await link.command("SET", f"{{p00}}{number}", b"x" * 50_000, key="{p00}")
            await watch.look()
            if watch.memory_full():
                break
        assert 0.85 <= watch.share < 1.0
        assert told[0] is False and told[-1] is True
        await link.close()
