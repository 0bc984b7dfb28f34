"""The parts of a benchmark, each a process of its own that ends with the benchmark: upstream, stores, simulated node,
load.

Nothing is shared with a gateway that runs on this machine: ports are free ones, files lie in a directory that is
removed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.adapters.embedded import find_binary
from gateway.cli.bench_load import Order, Result

READY_S = 60.0
_POLL_S = 0.02
_STOP_S = 10.0
_LAST_WORDS = 1_000


class BenchError(Exception):
    """A part did not start, or did not do what it must."""


def lift_open_files() -> int:
    """Thousands of streams need two sockets each. The number of files that may now be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(there: Callable[[], object], process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Wait for a part. Errors: BenchError, with what it said last, when its process ends or takes too long."""
    deadline = time.monotonic() + READY_S
    while not there():
        if process.poll() is not None:
            raise BenchError(f"{name} ended with exit code {process.returncode}: {_last_words(log)}")
        if time.monotonic() > deadline:
            raise BenchError(f"{name} did not come up within {READY_S:g} s: {_last_words(log)}")
        time.sleep(_POLL_S)


def _last_words(log: Path) -> str:
    """The end of a part's log, which is removed with everything else."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return text[-_LAST_WORDS:].strip() or "it said nothing"


def accepts(port: int) -> bool:
    """Whether somebody listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def process(command: list[str], log: Path, *, pipes: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a part; it is told to end, then made to. `pipes`: standard input and output are ours."""
    with log.open("ab") as output, ExitStack() as stack:
        stdin, stdout = (subprocess.PIPE, subprocess.PIPE) if pipes else (subprocess.DEVNULL, output)
        # A session of its own: Ctrl-C is for the benchmark, which then ends its parts in order.
        started = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=output, start_new_session=True)
        stack.enter_context(started)
        try:
            yield started
        finally:
            if started.stdin is not None:
                started.stdin.close()
            else:
                started.terminate()
            try:
                started.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                started.kill()


@contextmanager
def fixed_upstream(directory: Path) -> Iterator[tuple[int, int]]:
    """The upstream that all subjects share: its port and process id."""
    command = [sys.executable, "-m", "gateway.simulators.fixed_upstream"]
    with process(command, directory / "upstream.log", pipes=True) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        if not line.strip().isdigit():
            raise BenchError(f"the upstream did not start: {_last_words(directory / 'upstream.log')}")
        yield int(line), started.pid


@contextmanager
def store(directory: Path, fsync: str) -> Iterator[tuple[int, int]]:
    """A Redis or Valkey server with an append-only file: its port and process id."""
    home = directory / f"store-{fsync}"
    home.mkdir()
    port = free_port()
    settings = {
        "bind": "127.0.0.1", "port": str(port), "dir": str(home), "appendonly": "yes", "appendfsync": fsync,
        "save": "", "maxmemory-policy": "noeviction", "daemonize": "no",
    }  # fmt: skip
    command = [find_binary(), *(part for name, value in settings.items() for part in (f"--{name}", value))]
    with process(command, home / "store.log") as started:
        until(lambda: accepts(port), started, "the store", home / "store.log")
        yield port, started.pid


@contextmanager
def simulated_parts(directory: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The simulated Lightning node and wallet: what `gateway.simulators.parts` tells of them, and their process id."""
    home = directory / "parts"
    home.mkdir()
    ready = home / "ready.json"
    command = [sys.executable, "-m", "gateway.simulators.parts", "--data-dir", str(home), "--ready-file", str(ready)]
    with process(command, home / "parts.log", pipes=True) as started:
        until(ready.exists, started, "the simulated node", home / "parts.log")
        yield msgspec.json.decode(ready.read_bytes()), started.pid


class Load:
    """The process that makes the load."""

    def __init__(self, started: subprocess.Popen[bytes], log: Path) -> None:
        self._process = started
        self._log = log

    def run(self, order: Order) -> Result:
        """Carry out one order. Errors: BenchError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the load generator ended: {_last_words(self._log)}")
        return msgspec.json.decode(line, type=Result)


@contextmanager
def load(directory: Path) -> Iterator[Load]:
    """The load generator, ready for orders."""
    log = directory / "load.log"
    with process([sys.executable, "-m", "gateway.cli.bench_load"], log, pipes=True) as started:
        yield Load(started, log)


def write_private(path: Path, text: str) -> Path:
    """A file that this user alone can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return path
