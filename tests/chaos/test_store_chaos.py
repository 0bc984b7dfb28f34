"""The store is killed, stopped, cut short and moved while money is spent; afterwards every invariant holds."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from cluster import running_cluster

from gateway.adapters.embedded import embedded_store
from gateway.adapters.redis.clock import server_clocks_ms
from gateway.adapters.redis.freeze import Freezer
from gateway.adapters.redis.journal import JournalDrain
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.segments import Segments, verify_chain
from gateway.core.errors import OutcomeUnknown, Unavailable
from gateway.core.holds import Placed, PlaceHold, Posted, Refusal, Refused, ScopeClaim
from gateway.core.money import Rate, Unit
from gateway.flows.reconcile import Reconciler, ReconcileReport

RATE = Rate(60_000_000_000)
SCOPE = ScopeClaim("agent:x", "total", limit=10**9)
CREDIT = 1_000_000

SPENDER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from gateway.adapters.embedded import embedded_server
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from test_store_chaos import account, fund, spend_one
async def main():
    async with embedded_server(sys.argv[1]) as url:
        link = await RedisLink.open(url, timeout_s=5)
        ledger = RedisLedger(link, worker="doomed")
        await fund(ledger, "7f")
        async def spender(name):
            number = 0
            while True:
                await spend_one(ledger, "7f", f"{name}{number}")
                print("posted", flush=True)
                number += 1
        await asyncio.gather(*(spender(name) for name in "abcdefgh"))
asyncio.run(main())
"""


def account(partition: str) -> str:
    return f"tok_{partition}0000000000000001"


async def fund(ledger: RedisLedger, partition: str) -> None:
    await ledger.credit("pay1", account(partition), CREDIT, unit=Unit.MSAT, rate=RATE, source="lightning")


async def spend_one(ledger: RedisLedger, partition: str, name: str) -> None:
    """Place 10, post 7, each with the same id until the answer is known."""
    hold = PlaceHold(f"ho_{partition}{name}", account(partition), 10, 10, 10, RATE, scopes=(SCOPE,))
    assert isinstance(await certainly(lambda: ledger.place(hold)), Placed)
    assert isinstance(await certainly(lambda: ledger.post(hold.hold_id, 7, account=account(partition))), Posted)


Answer = TypeVar("Answer")


async def certainly(step: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat an idempotent step until its outcome is known, for at most 30 s."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return await step()
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def until_gone(pid: int) -> None:
    """The keeper has reaped the server."""
    deadline = time.monotonic() + 15
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            await asyncio.sleep(0.01)
        raise AssertionError("the server does not end")


async def reconcile(link: RedisLink, ledger: RedisLedger, drain: JournalDrain | None = None) -> ReconcileReport:
    history = drain.check_history if drain is not None else None
    reconciler = Reconciler(ledger, lambda: server_clocks_ms(link), freeze_all=Freezer(link).freeze, history=history)
    return await reconciler.run(lease_wait_s=0.05)


async def posted(ledger: RedisLedger, partition: str = "7f") -> int:
    balance = await ledger.balance(account(partition))
    assert balance is not None and balance.held == 0
    return balance.posted


async def test_a_store_killed_again_and_again_under_load_charges_each_hold_once(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as joined:
        link = await RedisLink.open(joined.url, timeout_s=5)
        ledger = RedisLedger(link, worker="w1")
        await fund(ledger, "7f")

        async def spender(name: str) -> None:
            for number in range(60):
                await spend_one(ledger, "7f", f"{name}{number}")
                await asyncio.sleep(0.01)

        spending = asyncio.gather(*(spender(name) for name in "abcdefgh"))
        for _ in range(3):
            await asyncio.sleep(0.25)
            info = await certainly(lambda: link.command("INFO", "server", key=""))
            pid = next(int(line[11:]) for line in info.decode().splitlines() if line.startswith("process_id:"))
            os.kill(pid, signal.SIGKILL)
        await spending
        assert await posted(ledger) == 8 * 60 * 7
        assert (await reconcile(link, ledger)).clean
        await link.close()


async def test_a_stopped_primary_answers_nobody_and_loses_nothing(tmp_path: Path) -> None:
    async with embedded_store(tmp_path) as joined:
        link = await RedisLink.open(joined.url, timeout_s=0.5)
        ledger = RedisLedger(link, worker="w1")
        await fund(ledger, "7f")
        os.kill(joined.pid, signal.SIGSTOP)
        started = time.monotonic()
        holds = [PlaceHold(f"ho_7f{number}", account("7f"), 10, 10, 10, RATE) for number in range(50)]
        answers = await asyncio.gather(*(ledger.place(hold) for hold in holds), return_exceptions=True)
        assert all(isinstance(answer, OutcomeUnknown) for answer in answers)
        assert time.monotonic() - started < 2.5
        os.kill(joined.pid, signal.SIGCONT)
        for hold in holds:  # after an unknown place: void; some had been placed, some not
            await certainly(partial(ledger.void, hold.hold_id, account=hold.account))
        late = await ledger.place(holds[0])
        assert isinstance(late, Refused) or (isinstance(late, Placed) and late.state == "voided")
        assert await posted(ledger) == 0
        assert (await reconcile(link, ledger)).clean
        await link.close()


async def test_a_file_cut_short_is_found_by_the_high_water_mark_and_frozen(tmp_path: Path) -> None:
    segments = Segments.open(tmp_path)
    async with embedded_store(tmp_path) as joined:
        link = await RedisLink.open(joined.url)
        ledger = RedisLedger(link, worker="w1")
        await fund(ledger, "7f")
        for number in range(20):
            await spend_one(ledger, "7f", str(number))
        await JournalDrain(link, ledger, segments).once()
        await link.close()
        pid = joined.pid
    await until_gone(pid)
    newest = max((tmp_path / "store" / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
    os.truncate(newest, newest.stat().st_size - 1_500)
    async with embedded_store(tmp_path) as joined:
        assert joined.truncated
        link = await RedisLink.open(joined.url)
        ledger = RedisLedger(link, worker="w2")
        drain = JournalDrain(link, ledger, segments)
        report = await reconcile(link, ledger, drain)
        assert not report.mismatches  # a cut is between two steps: what is left is whole
        assert len(report.history) == 1 and "gone back in time" in report.history[0]
        freezer = Freezer(link, tell=lambda reason: setattr(ledger, "is_frozen", reason is not None))
        await freezer.look()
        refused = await ledger.place(PlaceHold("ho_7fz", account("7f"), 1, 1, 1, RATE))
        assert isinstance(refused, Refused) and refused.reason is Refusal.FROZEN
        await drain.accept()
        await freezer.thaw()
        assert isinstance(await ledger.place(PlaceHold("ho_7fz", account("7f"), 1, 1, 1, RATE)), Placed)
        await ledger.post("ho_7fz", 1, account=account("7f"))
        assert (await reconcile(link, ledger, drain)).clean
        assert not (await drain.once()).mismatches
        await link.close()
    segments.close()
    verify_chain(tmp_path)


async def test_kill_9_of_everything_loses_no_acknowledged_posting(tmp_path: Path) -> None:
    spender = subprocess.Popen(
        [sys.executable, "-c", SPENDER, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert spender.stdout is not None
    with spender.stdout as stdout:
        acknowledged = 0
        while acknowledged < 200:
            assert (await asyncio.to_thread(stdout.readline)) == "posted\n"
            acknowledged += 1
        async with embedded_store(tmp_path) as joined:
            for pid in (spender.pid, joined.keeper_pid, joined.pid):
                os.kill(pid, signal.SIGKILL)
        spender.wait()
        acknowledged += (await asyncio.to_thread(stdout.read)).count("posted\n")
    async with embedded_store(tmp_path) as joined:
        assert not joined.truncated
        link = await RedisLink.open(joined.url, timeout_s=5)
        ledger = RedisLedger(link, worker="w2")
        report = await reconcile(link, ledger)
        assert report.clean
        charged = await posted(ledger)
        assert acknowledged * 7 <= charged <= (acknowledged + 8) * 7
        await link.close()


async def test_money_is_spent_on_while_its_slot_moves_through_a_cluster(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        link = await RedisLink.open(cluster.url, timeout_s=10)
        ledger = RedisLedger(link, worker="w1")
        partitions = ["7f", "21", "a0", "03"]
        for partition in partitions:
            await fund(ledger, partition)

        async def spender(partition: str, name: str, until: asyncio.Task[object]) -> int:
            number = 0
            while not until.done() or number < 30:
                await spend_one(ledger, partition, f"{name}{number}")
                number += 1
            return number

        def move_all() -> None:
            for partition in partitions[:2]:
                cluster.migrate_slot(cluster.slot_of(f"{{p{partition}}}x"), pause_s=0.002)

        moving: asyncio.Task[object] = asyncio.create_task(asyncio.to_thread(move_all))
        counts = await asyncio.gather(*(spender(p, n, moving) for p in partitions for n in "abcd"))
        await moving
        spent = [sum(counts[index * 4 : index * 4 + 4]) for index in range(len(partitions))]
        assert [await posted(ledger, partition) for partition in partitions] == [count * 7 for count in spent]
        assert (await reconcile(link, ledger)).clean
        await link.close()


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_a_failover_by_sentinel_is_followed(tmp_path: Path, fault: str) -> None:
    from sentinel import running_sentinel

    with running_sentinel(tmp_path) as deployment:
        link = await RedisLink.open(deployment.url, timeout_s=2)
        ledger = RedisLedger(link, worker="w1")
        await fund(ledger, "7f")
        for number in range(10):
            await spend_one(ledger, "7f", str(number))
        deployment.wait_until_replicated()
        before = link.servers()
        os.kill(deployment.primary.pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        for number in range(10, 20):
            await spend_one(ledger, "7f", str(number))
        assert link.servers() != before
        assert await posted(ledger) == 20 * 7
        assert (await reconcile(link, ledger)).clean
        await link.close()
