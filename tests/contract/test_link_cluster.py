"""The hot path's client against a three-node cluster on loopback, also while a slot moves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from cluster import Cluster, running_cluster

from gateway.adapters.redis.address import Layout
from gateway.adapters.redis.connection import RedisReplyError
from gateway.adapters.redis.link import RedisLink


@dataclass(frozen=True)
class Lua:
    name: str
    text: str

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.text.encode()).hexdigest()


COUNT_ONCE = Lua(
    "count_once",
    "#!lua\nif redis.call('HSETNX', KEYS[1], ARGV[1], 1) == 1 then redis.call('INCR', KEYS[2]) end\n"
    "redis.call('SET', KEYS[3], ARGV[1])\nreturn redis.call('GET', KEYS[2])",
)


def keys(tag: str, number: int) -> list[str]:
    """A step's keys: two that are there, and one that is new, as a hold is."""
    return [f"{{{tag}}}seen", f"{{{tag}}}n", f"{{{tag}}}h:{number}"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def link(cluster: Cluster) -> AsyncIterator[RedisLink]:
    for node in cluster.nodes:
        node.client.flushall()
        node.client.script_flush()
    link = await RedisLink.open(cluster.url, timeout_s=10)
    yield link
    await link.close()


async def test_every_partition_finds_its_server(link: RedisLink, cluster: Cluster) -> None:
    assert link.layout is Layout.CLUSTER
    assert len(link.servers()) == 3
    tags = [f"p{partition:02x}" for partition in range(256)]
    await asyncio.gather(*(link.script(COUNT_ONCE, keys(tag, 1), ["1"]) for tag in tags))
    assert (
        await asyncio.gather(*(link.command("GET", f"{{{tag}}}n", key=f"{{{tag}}}n") for tag in tags)) == [b"1"] * 256
    )
    assert sum(node.client.dbsize() for node in cluster.nodes) == 3 * 256


async def test_a_plain_url_into_a_cluster_is_noticed(cluster: Cluster) -> None:
    link = await RedisLink.open(f"redis://127.0.0.1:{cluster.nodes[1].port}", timeout_s=10)
    assert link.layout is Layout.CLUSTER
    for tag in ("p00", "p01", "p02", "p03"):
        await link.command("SET", f"{{{tag}}}x", "1", key=f"{{{tag}}}x")
    await link.close()


async def test_scripts_run_on_while_their_slot_moves_and_count_once(link: RedisLink, cluster: Cluster) -> None:
    tag = "p7f"
    for number in range(200):
        await link.script(COUNT_ONCE, keys(tag, number), [f"id{number}"])
    moving = asyncio.create_task(
        asyncio.to_thread(cluster.migrate_slot, cluster.slot_of(keys(tag, 0)[0]), pause_s=0.001)
    )
    number = 200
    while not moving.done() or number < 400:
        await asyncio.gather(*(link.script(COUNT_ONCE, keys(tag, n), [f"id{n}"]) for n in range(number, number + 20)))
        number += 20
    source, target = await moving
    assert source is not target
    assert await link.command("GET", f"{{{tag}}}n", key=f"{{{tag}}}n") == str(number).encode()
    assert cluster.owner_of(cluster.slot_of(keys(tag, 0)[0])) is target
    assert source.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", cluster.slot_of(keys(tag, 0)[0])) == 0


async def test_in_a_half_moved_slot_each_key_is_found_and_a_split_step_waits(link: RedisLink, cluster: Cluster) -> None:
    tag = "p21"
    slot = cluster.slot_of(f"{{{tag}}}a")
    source = cluster.owner_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    for name in ("a", "b", "c", "d"):
        await link.command("SET", f"{{{tag}}}{name}", name, key=f"{{{tag}}}{name}")
    cluster.begin_migration(slot, source, target)
    assert cluster.move_keys(slot, source, target, most=2) == 2
    for name in ("a", "b", "c", "d"):
        assert await link.command("GET", f"{{{tag}}}{name}", key=f"{{{tag}}}{name}") == name.encode()
    split = asyncio.create_task(link.command("MGET", *(f"{{{tag}}}{name}" for name in "abcd"), key=f"{{{tag}}}a"))
    await asyncio.sleep(0.1)
    assert not split.done()
    while cluster.move_keys(slot, source, target):
        pass
    assert await split == [b"a", b"b", b"c", b"d"]
    cluster.end_migration(slot, target)
    assert await link.command("GET", f"{{{tag}}}a", key=f"{{{tag}}}a") == b"a"


async def test_keys_of_two_slots_in_one_step_are_refused(link: RedisLink) -> None:
    with pytest.raises(RedisReplyError) as refused:
        await link.script(COUNT_ONCE, ["{p00}a", "{p01}b", "{p00}c"], ["1"])
    assert refused.value.code == "CROSSSLOT"


async def test_each_server_is_asked(link: RedisLink) -> None:
    replies = await link.each_server("PING")
    assert set(replies) == set(link.servers()) and set(replies.values()) == {b"PONG"}
