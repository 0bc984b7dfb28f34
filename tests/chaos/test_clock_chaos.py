"""The store's clock is stepped while money is held: nobody's work is expired, nobody is charged twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.running import OUTPUT_MSAT, Streaming, books_are_in_order
from chaos.stepped import SteppedStore, stepped_store
from e2e.stack import CALL_MSAT, Parts, proof, start_stack

from gateway.adapters.redis.clock import server_clocks_ms
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core.holds import Placed, PlaceHold, Renewed
from gateway.core.money import Rate, Unit
from gateway.flows.sweeping import HoldSweep

TEN_MINUTES_S = 600
RATE = Rate(60_000_000_000)
ACCOUNT = "tok_7f0000000000000001"
# A sweep that waits for as long as this test's holds live.
LIFETIME_MS = 3_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SteppedStore]:
    with stepped_store(tmp_path / "store") as store:
        yield store


def test_streams_and_calls_go_on_while_the_clock_is_stepped_to_and_fro(
    store: SteppedStore, parts: Parts, tmp_path: Path
) -> None:
    with start_stack(tmp_path / "gateway", parts, redis={"url": store.url}) as gateway:
        credential = gateway.buy(500)
        calls = 0
        with Streaming(gateway, credential, 450) as stream:
            for seconds in (TEN_MINUTES_S, 0, -TEN_MINUTES_S, 0):
                stream.until_tokens(stream.tokens + 70)
                store.step(seconds)
                answer = gateway.http.get("/raw/search", headers=proof(credential))
                assert answer.status_code == 200, answer.text
                calls += 1
        assert stream.complete and stream.note["final"]
        record = gateway.record(stream.request_id, credential)
        assert record["state"] == "posted"
        balance = books_are_in_order(gateway, credential)
        assert balance["posted"] == stream.note["cost"]["amount_msat"] + calls * CALL_MSAT
        assert record["cost"]["amount_msat"] >= stream.tokens * OUTPUT_MSAT


async def test_a_sweep_expires_nobody_after_a_step_and_only_the_abandoned_after_a_lifetime(store: SteppedStore) -> None:
    link = await RedisLink.open(store.url)
    ledger = RedisLedger(link, worker="w1")
    await ledger.credit("pay1", ACCOUNT, 1_000, unit=Unit.MSAT, rate=RATE, source="lightning")
    sweep = HoldSweep(ledger, lambda: server_clocks_ms(link), lifetime_ms=LIFETIME_MS)
    assert (await sweep.once()).waiting, "a new sweep knows nothing of the clock"
    for name in ("kept", "left"):
        hold = PlaceHold(f"ho_7f{name}", ACCOUNT, 10, 10, 10, RATE, lifetime_ms=LIFETIME_MS)
        assert isinstance(await ledger.place(hold), Placed)
    for _ in range(LIFETIME_MS // 500 + 1):
        await asyncio.sleep(0.5)  # a worker's rhythm
        for name in ("kept", "left"):
            assert isinstance(await ledger.checkpoint(f"ho_7f{name}", 1), Renewed)
    assert not (await sweep.once()).waiting

    store.step(TEN_MINUTES_S)
    assert await ledger.open_ids(0x7F, until_ms=min((await server_clocks_ms(link)).values())), "nothing looks overdue"
    swept = await sweep.once()
    assert (swept.waiting, swept.expired) == (True, 0)
    assert set(await ledger.open_ids(0x7F)) == {"ho_7fkept", "ho_7fleft"}

    while (swept := await sweep.once()).waiting:
        assert isinstance(await ledger.checkpoint("ho_7fkept", 2), Renewed)
        await asyncio.sleep(0.25)
    assert swept.expired == 1
    assert await ledger.open_ids(0x7F) == ["ho_7fkept"]
    await ledger.post("ho_7fkept", 5, account=ACCOUNT)
    balance = await ledger.balance(ACCOUNT)
    assert balance is not None
    assert (balance.posted, balance.held, balance.available) == (6, 0, 994)
    await link.close()
