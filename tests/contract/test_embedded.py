"""The embedded store on real processes: it is private, durable, shared, and ends with its last user."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.adapters.embedded import embedded_server, embedded_store
from gateway.adapters.redis.link import RedisLink
from gateway.core.errors import InvalidRequest, Unavailable

USER = """
import asyncio, sys
from gateway.adapters.embedded import embedded_store
async def main():
    async with embedded_store(sys.argv[1]) as joined:
        print(joined.pid, joined.keeper_pid, joined.url, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """A process that runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return state != "Z"


async def remember(url: str, value: str) -> None:
    link = await RedisLink.open(url)
    assert await link.command("SET", "{p00}k", value, key="{p00}k") == b"OK"
    await link.close()


async def recall(url: str) -> bytes | None:
    link = await RedisLink.open(url)
    value: bytes | None = await link.command("GET", "{p00}k", key="{p00}k")
    await link.close()
    return value


async def test_data_survive_a_restart_and_the_server_ends_with_its_user(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as joined:
        await remember(joined.url, "7")
        pid = joined.pid
        assert alive(pid)
    await until(lambda: not alive(pid), "the server has ended")
    async with embedded_server(tmp_path) as url:
        assert await recall(url) == b"7"


async def test_the_server_is_private_durable_and_never_evicts(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as url:
        assert (tmp_path / "store").stat().st_mode & 0o077 == 0
        link = await RedisLink.open(url)
        settings: dict[bytes, bytes] = {}
        for name in ("port", "appendonly", "appendfsync", "maxmemory-policy", "maxmemory", "aof-load-truncated"):
            found = await link.command("CONFIG", "GET", name, key="")
            settings[found[0]] = found[1]
        await link.close()
    assert int(settings.pop(b"maxmemory")) > 10_000_000
    assert settings == {
        b"port": b"0",
        b"appendonly": b"yes",
        b"appendfsync": b"always",
        b"maxmemory-policy": b"noeviction",
        b"aof-load-truncated": b"yes",
    }


async def test_a_path_too_long_for_a_socket_still_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with embedded_server(deep) as url:
        assert len(url) < 120
        await remember(url, "1")
    assert list((deep / "store").glob("appendonlydir/*.aof"))


async def test_two_users_at_the_same_moment_get_one_server(tmp_path: Path) -> None:
    async def use() -> tuple[int, str]:
        async with embedded_store(tmp_path) as joined:
            await asyncio.sleep(0.3)
            return joined.pid, joined.url

    found = await asyncio.gather(*(use() for _ in range(5)))
    assert len(set(found)) == 1


async def test_the_server_outlives_a_killed_starter_for_the_process_that_joined(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", USER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout:
        pid = int((await asyncio.to_thread(starter.stdout.readline)).split()[0])
    async with embedded_store(tmp_path) as joined:
        assert joined.pid == pid
        starter.kill()
        starter.wait()
        await remember(joined.url, "2")
        await asyncio.sleep(0.2)
        assert alive(pid)
        assert await recall(joined.url) == b"2"
    await until(lambda: not alive(pid), "the server has ended")


async def test_the_server_ends_after_the_sigkill_of_its_only_user(tmp_path: Path) -> None:
    user = subprocess.Popen([sys.executable, "-c", USER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    with user.stdout:
        pid, keeper_pid, _ = (await asyncio.to_thread(user.stdout.readline)).split()
    user.kill()
    user.wait()
    await until(lambda: not alive(int(pid)) and not alive(int(keeper_pid)), "server and keeper have ended")


async def test_the_keeper_holds_no_socket_of_the_gateway(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)  # as a worker gets it from its supervisor
        port = listener.getsockname()[1]
        async with embedded_store(tmp_path):
            listener.close()
            with socket.create_server(("127.0.0.1", port)) as again:
                assert again.getsockname()[1] == port


async def test_a_killed_server_is_started_again_with_its_data(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as joined:
        link = await RedisLink.open(joined.url, timeout_s=10.0)
        await link.command("SET", "{p00}k", "3", key="{p00}k")
        os.kill(joined.pid, signal.SIGKILL)
        await until(lambda: not alive(joined.pid), "the server is dead")
        assert await link.command("GET", "{p00}k", key="{p00}k") == b"3"
        await link.close()


async def test_a_killed_keeper_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        async with embedded_store(tmp_path) as joined:
            link = await RedisLink.open(joined.url, timeout_s=10.0)
            await link.command("SET", "{p00}k", "4", key="{p00}k")
            os.kill(joined.keeper_pid, signal.SIGKILL)
            await until(lambda: not alive(joined.keeper_pid), "the keeper is dead")
            await until(lambda: not alive(joined.pid), "its server has followed")
            assert await link.command("GET", "{p00}k", key="{p00}k") == b"4"
            await link.close()


async def test_a_file_cut_short_is_loaded_up_to_the_cut_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with embedded_store(tmp_path) as joined:
        assert not joined.truncated
        await remember(joined.url, "before")
        await remember(joined.url, "after")
        pid = joined.pid
    await until(lambda: not alive(pid), "the server has ended")
    newest = max((tmp_path / "store" / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
    os.truncate(newest, newest.stat().st_size - 5)
    with caplog.at_level(logging.WARNING):
        async with embedded_store(tmp_path) as joined:
            assert joined.truncated
            assert await recall(joined.url) == b"before"
    assert "cut short" in caplog.text


async def test_a_file_that_is_broken_in_the_middle_is_told_and_not_loaded(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as joined:
        await remember(joined.url, "x" * 1000)
        pid = joined.pid
    await until(lambda: not alive(pid), "the server has ended")
    newest = max((tmp_path / "store" / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(b"garbage" + newest.read_bytes())
    with pytest.raises(Unavailable, match=r"store\.log"):
        async with embedded_store(tmp_path):
            pass


async def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InvalidRequest) as refused:
        async with embedded_server(tmp_path / "f"):
            pass
    assert refused.value.param == "data_dir"
