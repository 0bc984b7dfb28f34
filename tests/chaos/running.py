"""What the tests of chaos break: a store process of their own, streams that run beside, processes and their sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from e2e.stack import CHAT, Stack, body, proof, until
from redis import Redis
from redis.exceptions import RedisError
from servers import free_port, server_binary

# gpt-4o costs 10 USD a million tokens of output; a msat is a millionth of a dollar at the tests' rate.
DEAR, OUTPUT_MSAT = "gpt-4o", 10
# The price of a short input, rounded up.
INPUT_MOST_MSAT = 200
_LEAD = b": farebox "
_ESTABLISHED = "01"


class OwnStore:
    """A server with an append-only file, written every second as most operators have it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process = self._started()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def environment(self) -> dict[str, str]:
        """What the server gets beside our own."""
        return {}

    def _started(self) -> subprocess.Popen[bytes]:
        command = [
            *(server_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--aof-load-truncated", "yes"),
        ]
        with (self.directory / "server.log").open("ab") as log:
            environment = {**os.environ, **self.environment()}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        with Redis(host="127.0.0.1", port=self.port) as client:
            until(lambda: _answers(client, process), what="the store")
        return process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = self._started()

    def file(self) -> Path:
        """The part of the append-only file that is being written."""
        parts = (self.directory / "appendonlydir").glob("*.incr.aof")
        return max(parts, key=lambda path: path.stat().st_mtime)


def _answers(client: Redis, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the store ended at once"
    try:
        return bool(client.ping())
    except RedisError:
        return False


@contextmanager
def own_store(directory: Path) -> Iterator[OwnStore]:
    store = OwnStore(directory)
    try:
        yield store
    finally:
        store.kill()


class Streaming:
    """A stream that is read in a thread while the test breaks things."""

    def __init__(self, stack: Stack, credential: str, tokens: int, *, interval_ms: int = 10) -> None:
        self.tokens_asked = tokens
        self.status = 0
        self.request_id = ""
        self.port = 0  # ours, of the connection
        self.error: Exception | None = None
        self.last_token_at = 0.0  # monotonic time
        self._data = bytearray()
        headers = proof(credential) | {"x-sim-output-tokens": str(tokens), "x-sim-interval-ms": str(interval_ms)}
        self._thread = threading.Thread(target=self._read, args=(stack.base_url, headers), daemon=True)
        self._thread.start()

    def _read(self, base_url: str, headers: dict[str, str]) -> None:
        said = body("Hello there", model=DEAR, stream=True)
        try:
            with httpx.stream("POST", f"{base_url}{CHAT}", headers=headers, json=said, timeout=60) as answer:
                self.request_id = answer.headers.get("farebox-request-id", "")
                self.status = answer.status_code
                self.port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
                for piece in answer.iter_raw():
                    self._data += piece
                    if b'"content":"' in piece:
                        self.last_token_at = time.monotonic()
        except httpx.HTTPError as error:
            self.error = error

    @property
    def lines(self) -> list[bytes]:
        """What has come, in whole lines."""
        return bytes(self._data).split(b"\n")[:-1]

    @property
    def tokens(self) -> int:
        """Words that have come; the upstream writes one a token."""
        chunks = [json.loads(line[6:])["choices"] for line in self.lines if line.startswith(b"data: {")]
        return sum(len((choices[0]["delta"].get("content") or "").split()) for choices in chunks if choices)

    @property
    def note(self) -> dict[str, Any]:
        """What the comment says of the cost."""
        (line,) = [line for line in self.lines if line.startswith(_LEAD)]
        return dict(json.loads(line.removeprefix(_LEAD)))

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def complete(self) -> bool:
        """It came to its proper end, with everything that was asked for."""
        return self.over and self.error is None and b"data: [DONE]" in self.lines and self.tokens == self.tokens_asked

    def until_tokens(self, count: int) -> Self:
        until(lambda: self.tokens >= count or self.over, what=f"{count} tokens of a stream")
        assert self.tokens >= count, (self.status, self.error, bytes(self._data[-500:]))
        return self

    def until_over(self, seconds: float = 30.0) -> Self:
        self._thread.join(seconds)
        assert self.over, f"the stream did not end within {seconds:g} s"
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join(30)


def connections_of(pid: int, port: int) -> set[int]:
    """The clients' ports of the connections to this port of ours that a process serves."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(path.readlink())))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    served = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == _ESTABLISHED and row[9] in inodes]
    return {int(row[2].rpartition(":")[2], 16) for row in served}


def marked(mark: str) -> set[int]:
    """All processes that were started with this mark in their environment."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (path / "environ").read_bytes() and not _is_dead(int(path.name)):
                    found.add(int(path.name))
    return found


def _is_dead(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}


def is_gone(pid: int) -> bool:
    """Ended, whether somebody has asked for its exit code or not."""
    try:
        os.kill(pid, 0)
        return _is_dead(pid)
    except (ProcessLookupError, FileNotFoundError):
        return True


def books_are_in_order(stack: Stack, credential: str) -> dict[str, int]:
    """One reconcile; then nothing is held, and the sums are right."""
    status, report = stack.farebox("reconcile")
    assert status == 0, report
    assert "the books are in order" in report
    return stack.settled(credential)
