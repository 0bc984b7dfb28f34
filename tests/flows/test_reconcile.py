"""Sweeps and reconcile on a real store: what was left behind ends at its checkpoint, what does not fit is frozen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from gateway.adapters.redis.clock import server_clocks_ms
from gateway.adapters.redis.freeze import Freezer
from gateway.adapters.redis.leases import Lease, WorkerLease
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.errors import Unavailable
from gateway.core.holds import Measure, Placed, PlaceHold, Posted, Refusal, Refused, ScopeClaim
from gateway.core.money import Rate, Unit
from gateway.flows.doctor import present_spend_per_s
from gateway.flows.reconcile import Reconciler, ReconcileReport
from gateway.flows.sweeping import HoldSweep, Sweep, run_sweeps

ACCOUNT = "tok_7f0000000000000001"
RATE = Rate(60_000_000_000)
SCOPE = ScopeClaim("agent:x", "total", limit=100_000)
USES = ScopeClaim("agent:x", "total", measure=Measure.USES, limit=100)


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
async def ledger(link: RedisLink) -> RedisLedger:
    ledger = RedisLedger(link, worker="w1")
    await ledger.credit("pay1", ACCOUNT, 10_000, unit=Unit.MSAT, rate=RATE, source="lightning")
    return ledger


@pytest.fixture
def freezer(link: RedisLink) -> Freezer:
    return Freezer(link)


def clock_of(link: RedisLink) -> Callable[[], Awaitable[Mapping[str, int]]]:
    return lambda: server_clocks_ms(link)


async def reconcile(link: RedisLink, ledger: RedisLedger, freezer: Freezer) -> ReconcileReport:
    return await Reconciler(ledger, clock_of(link), freeze_all=freezer.freeze).run(lease_wait_s=0.05)


async def place(ledger: RedisLedger, name: str, *, lifetime_ms: int = 30_000) -> str:
    hold = PlaceHold(
        f"ho_7f{name}", ACCOUNT, 100, 100, 100, RATE, scopes=(SCOPE, USES), lifetime_ms=lifetime_ms
    )  # floor, first, ceiling
    assert isinstance(await ledger.place(hold), Placed)
    return hold.hold_id


async def test_books_in_order_are_told_so(link: RedisLink, ledger: RedisLedger, freezer: Freezer) -> None:
    await WorkerLeaseNow(link, "w1").take()
    await place(ledger, "a")
    await ledger.post(await place(ledger, "b"), 60, account=ACCOUNT)
    report = await reconcile(link, ledger, freezer)
    assert report.clean and report.open_holds == 1 and report.accounts == 1 and not report.expired
    assert report.lines()[-1] == "the books are in order"


def WorkerLeaseNow(link: RedisLink, worker: str) -> Lease:  # noqa: N802 - reads like the class
    """A worker's lease, taken once."""
    return Lease(link, worker, "1")


async def test_holds_of_a_dead_worker_are_posted_at_their_checkpoint(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    dead = RedisLedger(link, worker="w2")
    await WorkerLeaseNow(link, "w1").take()
    alive = await place(ledger, "a")
    left = await place(dead, "b")
    await dead.checkpoint(left, 40)
    report = await reconcile(link, ledger, freezer)
    assert report.clean and report.expired == [left]
    record = await ledger.hold(left)
    assert record is not None and (record.state, record.posted) == ("expired", 40)
    assert (await ledger.open_ids(0x7F)) == [alive]
    late = await dead.post(left, 55, account=ACCOUNT)  # it was only slow
    assert isinstance(late, Posted)
    assert (await reconcile(link, ledger, freezer)).clean


async def test_a_worker_that_renews_while_it_is_waited_for_keeps_its_holds(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    await place(ledger, "a")
    lease = asyncio.create_task(WorkerLease(link, "w1", life_ms=500, renew_s=0.1).run())
    report = await reconcile(link, ledger, freezer)
    assert not report.expired
    lease.cancel()
    await asyncio.gather(lease, return_exceptions=True)
    assert not await ledger.has_lease("w1")  # given up at once: nobody waits for it
    assert (await reconcile(link, ledger, freezer)).expired == ["ho_7fa"]


@pytest.mark.parametrize(
    ("command", "invariant"),
    [
        (("HINCRBY", "{p7f}a:" + ACCOUNT, "available", 5), "what came in is there, held or used"),
        (("HINCRBY", "{p7f}a:" + ACCOUNT, "held", 5), "held = open holds"),
        (("HSET", "{p7f}a:" + ACCOUNT, "available", -3), "available >= 0"),
        (("HINCRBY", "{p7f}c:total|agent:x", "held", 1), "held = open holds, per scope"),
        (("HINCRBY", "{p7f}u:total|agent:x", "held", 1), "held = open holds, per scope"),
    ],
)
async def test_an_account_that_does_not_fit_is_frozen_and_nothing_is_repaired(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer, command: tuple[str | int, ...], invariant: str
) -> None:
    await WorkerLeaseNow(link, "w1").take()
    await place(ledger, "a")
    await link.command(*command, key=str(command[1]))
    before = await link.command("HGETALL", "{p7f}a:" + ACCOUNT, key="{p7f}a:" + ACCOUNT)
    report = await reconcile(link, ledger, freezer)
    assert invariant in {mismatch.invariant for mismatch in report.mismatches}
    assert ACCOUNT in report.frozen
    after = await link.command("HGETALL", "{p7f}a:" + ACCOUNT, key="{p7f}a:" + ACCOUNT)
    assert set(before) | {b"frozen", b"1"} >= set(after) and before[1::2] == [
        value for name, value in zip(after[::2], after[1::2], strict=True) if name != b"frozen"
    ]
    refused = await ledger.place(PlaceHold("ho_7fz", ACCOUNT, 1, 1, 1, RATE))
    assert isinstance(refused, Refused) and refused.reason is Refusal.FROZEN


async def test_a_journal_that_does_not_fit_freezes_everything(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    await WorkerLeaseNow(link, "w1").take()
    await place(ledger, "a")
    await ledger.post(await place(ledger, "b"), 60, account=ACCOUNT)
    await link.command("XDEL", "{p7f}journal", "0-2", key="{p7f}journal")
    report = await reconcile(link, ledger, freezer)
    assert {"no gap in the journal", "journal = balances"} <= {mismatch.invariant for mismatch in report.mismatches}
    assert freezer.reason is not None and "everything" in report.frozen
    other = Freezer(link)
    assert await other.look() == freezer.reason
    await freezer.thaw()
    assert await other.look() is None


async def test_reconcile_beside_a_spending_gateway_finds_no_false_mismatch(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    await WorkerLeaseNow(link, "w1").take()

    async def spend(name: str) -> None:
        for number in range(40):
            await ledger.post(await place(ledger, f"{name}{number}"), 1, account=ACCOUNT)
            await asyncio.sleep(0.003)

    spending = asyncio.gather(*(spend(name) for name in "ab"))
    while not spending.done():
        report = await reconcile(link, ledger, freezer)
        assert not report.mismatches
    await spending
    assert (await reconcile(link, ledger, freezer)).clean


class Clock:
    """Our own clock and an offset of the store's, both set by the test."""

    def __init__(self, link: RedisLink) -> None:
        self.own_s = 0.0
        self.jump_ms = 0
        self._link = link

    async def store(self) -> dict[str, int]:
        return {server: at + self.jump_ms for server, at in (await server_clocks_ms(self._link)).items()}

    def own(self) -> float:
        return self.own_s + time.monotonic()


async def test_an_overdue_hold_is_expired_and_a_renewed_one_is_not(link: RedisLink, ledger: RedisLedger) -> None:
    clock = Clock(link)
    sweep = HoldSweep(ledger, clock.store, lifetime_ms=50, monotonic_s=clock.own)
    overdue = await place(ledger, "a", lifetime_ms=1)
    await ledger.checkpoint(overdue, 30)
    await place(ledger, "b")
    assert (await sweep.once()).waiting  # it has never seen this clock
    await asyncio.sleep(0.06)
    swept = await sweep.once()
    assert (swept.expired, swept.waiting) == (1, False)
    assert await ledger.open_ids(0x7F) == ["ho_7fb"]
    record = await ledger.hold(overdue)
    assert record is not None and record.posted == 30


async def test_a_jump_of_the_stores_clock_expires_nobody_before_one_lifetime(
    link: RedisLink, ledger: RedisLedger
) -> None:
    clock = Clock(link)
    sweep = HoldSweep(ledger, clock.store, lifetime_ms=30_000, monotonic_s=clock.own)
    assert (await sweep.once()).waiting
    clock.own_s += 31
    clock.jump_ms += 31_000
    await place(ledger, "a")
    assert not (await sweep.once()).waiting
    clock.jump_ms += 3_600_000  # a failover to a machine whose clock is an hour ahead
    assert (await sweep.once()).waiting
    assert await ledger.open_ids(0x7F) == ["ho_7fa"]
    clock.own_s += 29
    clock.jump_ms += 29_000
    assert (await sweep.once()).waiting
    clock.own_s += 2
    clock.jump_ms += 2_000
    assert not (await sweep.once()).waiting


async def test_one_worker_sweeps_and_another_takes_over_when_it_ends(link: RedisLink) -> None:
    turns: list[str] = []

    def sweeper(worker: str) -> asyncio.Task[None]:
        async def once() -> str:
            turns.append(worker)
            return worker

        lease = Lease(link, "sweep", worker)
        return asyncio.create_task(run_sweeps([Sweep("test", 0.01, once, lease)]))

    first = sweeper("first")
    while not turns:
        await asyncio.sleep(0.005)
    second = sweeper("second")
    await asyncio.sleep(0.1)
    assert set(turns) == {"first"}
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    deadline = time.monotonic() + 5
    while turns[-1] != "second":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_a_sweep_that_fails_is_reported_and_tried_again() -> None:
    seen: list[str] = []

    async def once() -> None:
        raise ValueError(len(seen))

    sweeps = asyncio.create_task(
        run_sweeps([Sweep("broken", 0.001, once)], report=lambda name, done, error: seen.append(f"{name} {error}"))
    )
    while len(seen) < 3:
        await asyncio.sleep(0.001)
    sweeps.cancel()
    await asyncio.gather(sweeps, return_exceptions=True)
    assert seen[:3] == ["broken 0", "broken 1", "broken 2"]


async def test_what_waited_on_disk_and_what_the_store_forgot_are_in_the_report(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    async def history() -> list[str]:
        return ["partition 7f: the store has gone back in time"]

    async def replay() -> int:
        return 3

    reconciler = Reconciler(ledger, clock_of(link), freeze_all=freezer.freeze, history=history, replay=replay)
    report = await reconciler.run(lease_wait_s=0)
    assert (report.replayed, report.clean, report.frozen) == (3, False, ["everything"])
    assert "history: partition 7f: the store has gone back in time" in report.lines()
    assert freezer.reason == "partition 7f: the store has gone back in time"


async def test_a_partition_in_which_money_moves_at_every_look_is_told_as_unread(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    moved = 0

    async def clock_that_moves_money() -> Mapping[str, int]:
        nonlocal moved
        moved += 1
        await ledger.credit(f"more{moved}", ACCOUNT, 1, unit=Unit.MSAT, rate=RATE, source="lightning")
        return await server_clocks_ms(link)

    async def no_pause(seconds: float) -> None:
        assert seconds < 1

    reconciler = Reconciler(ledger, clock_that_moves_money, freeze_all=freezer.freeze, sleep=no_pause)
    report = await reconciler.run(lease_wait_s=0)
    assert report.unread == [0x7F] and not report.mismatches and not report.clean
    assert any("money moves all the time: partition 7f" in line for line in report.lines())


async def test_a_hold_that_ends_while_it_is_waited_for_is_not_expired(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    hold_id = await place(ledger, "a")

    async def end_it(seconds: float) -> None:
        await ledger.post(hold_id, 50, account=ACCOUNT)

    report = await Reconciler(ledger, clock_of(link), freeze_all=freezer.freeze, sleep=end_it).run()
    assert report.clean and not report.expired


async def test_a_hold_of_an_execution_is_not_its_workers(
    link: RedisLink, ledger: RedisLedger, freezer: Freezer
) -> None:
    owned = PlaceHold("ho_7fx", ACCOUNT, 10, 10, 10, RATE, owner="exe_7f1")
    assert isinstance(await ledger.place(owned), Placed)
    report = await reconcile(link, ledger, freezer)
    assert report.clean and not report.expired and report.open_holds == 1


async def test_more_overdue_holds_than_a_turn_takes_are_left_for_the_next(
    link: RedisLink, ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flows.sweeping._HOLDS_A_TURN_MAX", 3)
    sweep = HoldSweep(ledger, clock_of(link), lifetime_ms=1)
    for name in "abcde":
        await place(ledger, name, lifetime_ms=1)
    await sweep.once()
    await asyncio.sleep(0.02)
    assert [(await sweep.once()).expired for _ in range(3)] == [3, 2, 0]


async def test_a_sweep_lets_go_while_another_worker_has_the_lease(link: RedisLink) -> None:
    assert await Lease(link, "sweep", "other").take()
    released: list[int] = []

    async def once() -> None:
        raise AssertionError("it is not our turn")

    sweep = Sweep("test", 0.001, once, Lease(link, "sweep", "we"), lambda: released.append(1))
    sweeps = asyncio.create_task(run_sweeps([sweep]))
    while len(released) < 3:
        await asyncio.sleep(0.001)
    sweeps.cancel()
    await asyncio.gather(sweeps, return_exceptions=True)
    assert await link.command("GET", "{leases}sweep", key="{leases}sweep") == b"other"


async def test_a_store_that_is_away_ends_no_sweep(caplog: pytest.LogCaptureFixture) -> None:
    turns = 0

    async def once() -> None:
        nonlocal turns
        turns += 1
        raise Unavailable("away")

    sweeps = asyncio.create_task(run_sweeps([Sweep("away", 0.001, once)]))
    while turns < 3:
        await asyncio.sleep(0.001)
    sweeps.cancel()
    await asyncio.gather(sweeps, return_exceptions=True)
    assert "sweep away failed" in caplog.text


async def test_the_present_spend_is_what_was_posted_in_the_last_minute(link: RedisLink, ledger: RedisLedger) -> None:
    for number in range(12):
        await ledger.post(await place(ledger, str(number)), 99, account=ACCOUNT)
    now_ms = max((await server_clocks_ms(link)).values())
    assert await present_spend_per_s(ledger, now_ms=now_ms) == {Unit.MSAT: 20}  # 1,188 in 60 s, rounded up
    assert await present_spend_per_s(ledger, now_ms=now_ms + 61_000) == {}
    assert await ledger.trim(0x7F, 4) == 4  # what is forgotten is summed up, and that is no spend
    assert await present_spend_per_s(ledger, now_ms=now_ms) == {Unit.MSAT: 19}
    await link.command("DEL", "{p7f}a:" + ACCOUNT, key="{p7f}a:" + ACCOUNT)
    assert await present_spend_per_s(ledger, now_ms=now_ms) == {}


async def test_a_hold_that_its_slow_worker_ends_at_the_last_moment_is_not_counted_as_expired(
    link: RedisLink, freezer: Freezer, ledger: RedisLedger
) -> None:
    class SlowWorker(RedisLedger):
        async def has_lease(self, worker: str) -> bool:
            await self.post("ho_7fa", 70, account=ACCOUNT)
            return False

    slow = SlowWorker(link, worker="w1")
    await place(slow, "a")
    await place(slow, "b")
    report = await reconcile(link, slow, freezer)
    assert report.clean and report.expired == ["ho_7fb"]
    record = await ledger.hold("ho_7fa")
    assert record is not None and (record.state, record.posted) == ("posted", 70)


async def test_holds_on_the_same_scopes_are_summed(link: RedisLink, ledger: RedisLedger, freezer: Freezer) -> None:
    await WorkerLeaseNow(link, "w1").take()
    await place(ledger, "a")
    await place(ledger, "b")
    report = await reconcile(link, ledger, freezer)
    assert report.clean and report.open_holds == 2
