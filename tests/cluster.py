"""A three-node cluster on loopback for tests, with a helper that moves a slot while others work on it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from servers import server_binary

SLOTS = 16_384
_BUS_OFFSET = 10_000


def cluster_port() -> int:
    """A free port whose bus port (10,000 above) is free as well."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port + _BUS_OFFSET > 65_535:
                continue
            try:
                bus.bind(("127.0.0.1", port + _BUS_OFFSET))
            except OSError:
                continue
            return port


@dataclass(frozen=True, slots=True)
class Node:
    """One primary."""

    port: int
    client: Redis
    process: subprocess.Popen[bytes]

    @property
    def id(self) -> str:
        return self._text("CLUSTER", "MYID")

    def _text(self, *args: Any) -> str:
        return str(self.client.execute_command(*args))


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three primaries that own a third of the slots each at first."""

    nodes: tuple[Node, ...]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def slot_of(self, key: str) -> int:
        return int(self.nodes[0].client.execute_command("CLUSTER", "KEYSLOT", key))

    def owner_of(self, slot: int) -> Node:
        """The node that says of itself that it owns the slot."""
        for node in self.nodes:
            ranges = node.client.execute_command("CLUSTER", "SHARDS")
            if any(_serves(shard, node.id, slot) for shard in ranges):
                return node
        raise AssertionError(f"nobody owns slot {slot}")

    def begin_migration(self, slot: int, source: Node, target: Node) -> None:
        """From now on the source answers ASK for what it does not have, TRYAGAIN for what is split."""
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, source: Node, target: Node, *, most: int = 10_000, pause_s: float = 0.0) -> int:
        """Move up to `most` keys, one by one."""
        moved = 0
        while moved < most:
            keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1)
            if not keys:
                break
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            moved += 1
            time.sleep(pause_s)
        return moved

    def end_migration(self, slot: int, target: Node) -> None:
        for node in (target, *(node for node in self.nodes if node is not target)):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def migrate_slot(self, slot: int, *, pause_s: float = 0.0) -> tuple[Node, Node]:
        """Move a slot to another node, key by key; blocking, so run it in a thread while others work on the slot."""
        source = self.owner_of(slot)
        target = self.nodes[(self.nodes.index(source) + 1) % len(self.nodes)]
        self.begin_migration(slot, source, target)
        while self.move_keys(slot, source, target, pause_s=pause_s):
            pass
        self.end_migration(slot, target)
        return source, target


def _serves(shard: Any, node_id: str, slot: int) -> bool:
    fields = shard if isinstance(shard, dict) else dict(zip(shard[::2], shard[1::2], strict=True))
    slots = [int(number) for number in _flat(fields["slots"])]
    mine = any(node_id in str(node) for node in fields["nodes"])
    return mine and any(first <= slot <= last for first, last in zip(slots[::2], slots[1::2], strict=True))


def _flat(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        else:
            yield item


@contextmanager
def running_cluster(directory: Path, *options: str) -> Iterator[Cluster]:
    """Start three nodes, give each a third of the slots, wait until all agree."""
    with ExitStack() as stack:
        nodes = tuple(stack.enter_context(_node(directory / f"node{number}", options)) for number in range(3))
        for number, node in enumerate(nodes):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        _until_all_agree(nodes)
        yield Cluster(nodes)


@contextmanager
def _node(directory: Path, options: tuple[str, ...]) -> Iterator[Node]:
    directory.mkdir(parents=True)
    port = cluster_port()
    command = [
        *(server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""),
        *(
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "3000",
            "--cluster-config-file",
            "nodes.conf",
            *options,
        ),
    ]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    client = Redis(host="127.0.0.1", port=port, decode_responses=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, "a node ended at once"
            try:
                client.ping()
                break
            except RedisError:
                assert time.monotonic() < deadline, "a node did not answer in 20 s"
                time.sleep(0.01)
        yield Node(port, client, process)
    finally:
        client.close()
        process.kill()
        process.wait()


def _until_all_agree(nodes: tuple[Node, ...]) -> None:
    deadline = time.monotonic() + 30
    while not all(_is_whole(node) for node in nodes):
        assert time.monotonic() < deadline, "the cluster did not form in 30 s"
        time.sleep(0.02)


def _is_whole(node: Node) -> bool:
    info = node.client.execute_command("CLUSTER", "INFO")
    fields = (
        info if isinstance(info, dict) else dict(line.split(":", 1) for line in str(info).split("\r\n") if ":" in line)
    )
    return (
        fields["cluster_state"] == "ok"
        and str(fields["cluster_known_nodes"]) == "3"
        and str(fields["cluster_slots_assigned"]) == str(SLOTS)
    )
