"""One primary, one replica and one sentinel on loopback, for tests of a failover."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from servers import free_port, server_binary

SERVICE = "farebox"


@dataclass(frozen=True, slots=True)
class Deployment:
    """`primary` is the process that was the primary at first."""

    url: str
    primary: subprocess.Popen[bytes]
    primary_port: int
    replica_port: int

    def wait_until_replicated(self) -> None:
        """Until the replica has all that the primary has."""
        with Redis(port=self.primary_port) as client:
            assert client.execute_command("WAIT", 1, 5000) == 1


@contextmanager
def running_sentinel(directory: Path) -> Iterator[Deployment]:
    """Start the three and wait until the sentinel knows the replica."""
    primary_port, replica_port, sentinel_port = free_port(), free_port(), free_port()
    common = ("--save", "", "--repl-diskless-sync-delay", "0")
    with ExitStack() as stack:
        primary = stack.enter_context(_process(directory / "primary", primary_port, *common))
        stack.enter_context(
            _process(directory / "replica", replica_port, *common, "--replicaof", f"127.0.0.1 {primary_port}")
        )
        config = directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        stack.enter_context(_process(directory / "sentinel", sentinel_port, config=config))
        _until_known(sentinel_port)
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel_port}/{SERVICE}"  # the first sentinel is away
        yield Deployment(url, primary, primary_port, replica_port)


@contextmanager
def _process(
    directory: Path, port: int, *options: str, config: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    directory.mkdir(parents=True)
    first = [str(config), "--sentinel"] if config is not None else []
    command = [server_binary(), *first, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), *options]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 20
        with Redis(port=port) as client:
            while True:
                assert process.poll() is None, (directory / "server.log").read_text()
                try:
                    client.ping()
                    break
                except RedisError:
                    assert time.monotonic() < deadline, "no answer in 20 s"
                    time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def _until_known(port: int) -> None:
    deadline = time.monotonic() + 30
    with Redis(port=port, decode_responses=True) as client:
        while True:
            state = client.sentinel_masters()[SERVICE]
            if int(state["num-slaves"]) == 1 and "disconnected" not in state["flags"]:
                replicas = client.execute_command("SENTINEL", "REPLICAS", SERVICE)
                if "master-link-status" in str(replicas) and "'ok'" in str(replicas):
                    return
            assert time.monotonic() < deadline, "the sentinel does not know the replica"
            time.sleep(0.05)
