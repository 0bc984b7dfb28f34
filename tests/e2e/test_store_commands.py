"""`farebox doctor` and `farebox reconcile` as an operator runs them, and the upkeep beside a serving gateway."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from servers import running_valkey

from gateway.adapters.embedded import embedded_store
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.segments import verify_chain
from gateway.adapters.redis.spool import PostSpool
from gateway.background import Background
from gateway.core.holds import Placed, PlaceHold, Refusal, Refused
from gateway.core.money import Rate, Unit
from gateway.upkeep_assembly import open_upkeep

ACCOUNT = "tok_7f0000000000000001"
RATE = Rate(60_000_000_000)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"data_dir: {tmp_path / 'data'}\n")
    return path


async def farebox(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "gateway", *words]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    return done.returncode, done.stdout + done.stderr


async def fund(ledger: RedisLedger) -> None:
    await ledger.credit("pay1", ACCOUNT, 10_000, unit=Unit.MSAT, rate=RATE, source="lightning")


async def spend(ledger: RedisLedger, name: str, cost: int) -> None:
    assert isinstance(await ledger.place(PlaceHold(f"ho_7f{name}", ACCOUNT, 100, 100, 100, RATE)), Placed)
    await ledger.post(f"ho_7f{name}", cost, account=ACCOUNT)


async def test_doctor_tells_that_the_embedded_store_loses_nothing(config: Path) -> None:
    code, text = await farebox("doctor", "--config", str(config))
    assert code == 0, text
    assert "the machine loses power: nothing is lost" in text
    assert "no faults" in text


async def test_doctor_tells_faults_and_money(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    config = tmp_path / "config.yaml"
    options = ("--maxmemory-policy", "allkeys-lru", "--appendonly", "yes", "--appendfsync", "everysec")
    with running_valkey(tmp_path / "server", *options) as port:
        config.write_text(f"data_dir: {tmp_path / 'data'}\nredis:\n  url: redis://127.0.0.1:{port}\n")
        link = await RedisLink.open(f"redis://127.0.0.1:{port}")
        ledger = RedisLedger(link, worker="w1")
        await fund(ledger)
        for number in range(60):
            await spend(ledger, str(number), 10)
        await link.close()
        code, text = await farebox("doctor", "--config", str(config))
    assert code == 1, text
    assert "noeviction" in text
    assert "the machine loses power: up to 20 msat" in text  # 600 msat in the last minute, 2 s of them


async def test_reconcile_expires_what_a_killed_worker_left_and_says_the_books_are_in_order(config: Path) -> None:
    data_dir = config.parent / "data"
    async with embedded_store(data_dir) as joined:
        link = await RedisLink.open(joined.url)
        ledger = RedisLedger(link, worker="killed")
        await fund(ledger)
        await ledger.place(PlaceHold("ho_7fa", ACCOUNT, 100, 100, 100, RATE))
        await ledger.checkpoint("ho_7fa", 30)
        code, text = await farebox("reconcile", "--config", str(config))
        assert code == 0, text
        assert "1 holds of workers that are gone expired" in text and "the books are in order" in text
        balance = await ledger.balance(ACCOUNT)
        assert balance is not None and (balance.posted, balance.held) == (30, 0)
        await link.close()


async def test_upkeep_drains_replays_freezes_and_thaws(config: Path) -> None:
    data_dir = config.parent / "data"
    async with AsyncExitStack() as stack:
        joined = await stack.enter_async_context(embedded_store(data_dir))
        link = await RedisLink.open(joined.url)
        stack.push_async_callback(link.close)
        ledger, spool = RedisLedger(link, worker="w1"), PostSpool.open(data_dir)
        background = Background()
        upkeep = await open_upkeep(
            stack, link=link, ledger=ledger, spool=spool, worker="w1", data_dir=data_dir, background=background
        )
        stack.push_async_callback(background.close)
        assert await ledger.has_lease("w1")
        await fund(ledger)
        await ledger.place(PlaceHold("ho_7fa", ACCOUNT, 100, 100, 100, RATE))
        spool.put("ho_7fa", ACCOUNT, 70, b"{}")
        await until(lambda: spool.waiting_count == 0)
        await until(lambda: verify_chain(data_dir).get(0x7F) == 3)
        await link.command("FLUSHDB", key="")
        await until(lambda: upkeep.freezer.reason is not None and "back in time" in upkeep.freezer.reason)
        await fund(ledger)
        refused = await ledger.place(PlaceHold("ho_7fb", ACCOUNT, 1, 1, 1, RATE))
        assert isinstance(refused, Refused) and refused.reason is Refusal.FROZEN
        await ledger.freeze(ACCOUNT)
    code, text = await farebox("reconcile", "--config", str(config), "--files")
    assert code == 1 and "back in time" in text and "chain of the journal's files holds" in text, text
    code, text = await farebox("reconcile", "--config", str(config), "--accept")
    assert code == 0 and "accepted: partition 7f" in text, text
    assert f"no longer frozen: {ACCOUNT}" in text, text


async def until(condition: object, seconds: float = 15.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_command_without_a_store_says_so(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("redis:\n  url: redis://127.0.0.1:1\n" + f"data_dir: {tmp_path}\n")
    assert os.path.exists(config)
    code, text = await farebox("doctor", "--config", str(config))
    assert code == 2 and "not available" in text and "127.0.0.1:1" in text and "Traceback" not in text
