"""The simulated node as such: what it is told to do wrong, what it keeps, and that any decoder reads its invoices."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import bech32
import bolt11
import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from lnd.steps import a_settled_index, an_invoice, events, looked_up, pay, until
from lnd.worlds import SimulatedWorld, adapter, raw

from gateway import lnrpc
from gateway.adapters.lnd import LndNode
from gateway.adapters.lnd_wire import request_head
from gateway.core.errors import Unavailable
from gateway.simulators.bolt11 import Request, decode, encode
from gateway.simulators.lightning import NodeRefusal

KEY = PrivateKey()


@pytest.fixture
async def nodes(simulated: SimulatedWorld) -> AsyncIterator[tuple[LndNode, LndNode]]:
    seller, payer = adapter(simulated.seller), adapter(simulated.payer)
    yield seller, payer
    await seller.close()
    await payer.close()


@settings(max_examples=60, deadline=None)
@given(
    amount_msat=st.none() | st.integers(1, 2_100_000_000_000_000_000),
    memo=st.text(max_size=150),
    expiry_s=st.integers(1, 31_536_000),
    cltv=st.integers(1, 2_016),
)
def test_any_invoice_reads_the_same_in_an_independent_decoder(
    amount_msat: int | None, memo: str, expiry_s: int, cltv: int
) -> None:
    wrote = Request("bcrt", amount_msat, int(time.time()), os.urandom(32), os.urandom(32), memo, expiry_s, cltv)
    text = encode(wrote, KEY)
    read = bolt11.decode(text)
    public_key = KEY.public_key.format().hex()
    assert (read.payment_hash, read.payment_secret) == (wrote.payment_hash.hex(), wrote.secret.hex())
    assert (read.amount_msat, read.expiry, read.min_final_cltv_expiry) == (amount_msat, expiry_s, cltv)
    assert (read.description or "", read.payee, read.date) == (memo, public_key, wrote.timestamp_s)
    ours = decode(text.upper())
    assert ours.destination == public_key
    assert (ours.payment_hash, ours.amount_msat, ours.description) == (wrote.payment_hash, amount_msat, memo)
    assert request_head(text) == (wrote.timestamp_s, wrote.payment_hash)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=300) | st.binary(max_size=300).map(lambda junk: "lnbcrt1" + junk.hex()))
def test_junk_is_refused_with_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)
    assert request_head(text)[1] == b"" or len(request_head(text)[1]) == 32


@pytest.mark.parametrize(
    "readable", ["lnbcrt", "lnbcrt5x", "lnbcrt5", "lnbcrtxx5", "lnbcrtm", "lnbcrt99999999999999999999n"]
)
@pytest.mark.parametrize("group", [0, 1, 31])
def test_a_right_checksum_over_nonsense_is_refused(readable: str, group: int) -> None:
    for length in (7 + 104, 200):
        with pytest.raises(ValueError):
            decode(bech32.bech32_encode(readable, [group] * length))


async def test_it_can_settle_above_the_asked_amount(simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]) -> None:
    seller, _ = nodes
    invoice = await an_invoice(seller, 5_000)
    simulated.seller.settle(invoice.payment_hash, amount_msat=7_500)
    found = await looked_up(seller, invoice.payment_hash)
    assert (found.state, found.amount_msat, found.paid_msat) == ("settled", 5_000, 7_500)
    assert hashlib.sha256(simulated.seller.preimage(invoice.payment_hash)).digest() == invoice.payment_hash


async def test_it_can_hold_any_invoice_unsettled(simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]) -> None:
    seller, payer = nodes
    simulated.seller.faults.hold_incoming = True
    invoice = await an_invoice(seller)
    assert (await pay(payer, invoice.payment_request, timeout_s=1)).state == "in_flight"
    assert (await looked_up(seller, invoice.payment_hash)).state == "accepted"
    simulated.seller.settle(invoice.payment_hash)
    assert (await looked_up(seller, invoice.payment_hash)).state == "settled"


async def test_a_stranger_can_pay_an_invoice_that_stays_accepted(
    simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]
) -> None:
    seller, _ = nodes
    invoice = await an_invoice(seller)
    simulated.seller.accept(invoice.payment_hash)
    assert (await looked_up(seller, invoice.payment_hash)).state == "accepted"
    await seller.cancel_invoice(invoice.payment_hash)
    assert simulated.seller.state(invoice.payment_hash) == "canceled"


async def test_a_refusing_node_is_unavailable_and_can_refuse_single_calls(
    simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]
) -> None:
    seller, _ = nodes
    simulated.seller.faults.refuse = frozenset({"AddInvoice"})
    with pytest.raises(Unavailable):
        await an_invoice(seller)
    assert await seller.identity() == simulated.seller.public_key
    simulated.seller.faults.refuse = frozenset({"*"})
    with pytest.raises(Unavailable):
        await seller.identity()
    simulated.seller.faults.refuse = frozenset()
    assert (await an_invoice(seller)).add_index == 1


async def test_a_dropped_stream_is_taken_up_without_a_gap(
    simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]
) -> None:
    seller, payer = nodes
    start = await a_settled_index(seller, payer)
    told: list[int] = []

    async def listen() -> None:
        async with aclosing(seller.settled_invoices(after_settle_index=start)) as stream:
            async for invoice in stream:
                told.append(invoice.settle_index)

    async def heard_all() -> bool:
        return set(range(start + 1, start + 13)) <= set(told)

    listening = asyncio.create_task(listen())
    for _ in range(4):
        for _ in range(3):
            await a_settled_index(seller, payer)
        simulated.seller.drop_streams()
    await until(heard_all)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_payment_can_fail_and_be_tried_again(simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]) -> None:
    seller, payer = nodes
    before = simulated.payer.balance_msat
    simulated.payer.faults.fail_payments = "NO_ROUTE"
    invoice = await an_invoice(seller)
    failed = await pay(payer, invoice.payment_request)
    assert (failed.state, failed.failure) == ("failed", "no_route")
    assert simulated.payer.balance_msat == before
    simulated.payer.faults.fail_payments = ""
    assert (await pay(payer, invoice.payment_request)).state == "succeeded"
    assert simulated.payer.balance_msat == before - 5_000


@pytest.mark.parametrize(("failure", "state"), [("", "succeeded"), ("NO_ROUTE", "failed")])
async def test_a_payment_can_be_kept_in_flight(
    simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode], failure: str, state: str
) -> None:
    seller, payer = nodes
    simulated.payer.faults.keep_payments_in_flight = True
    invoice = await an_invoice(seller)
    paying = asyncio.create_task(pay(payer, invoice.payment_request))

    async def in_flight() -> bool:
        return (await payer.track(invoice.payment_hash)).state == "in_flight"

    await until(in_flight)
    await asyncio.sleep(0)
    simulated.payer.release(invoice.payment_hash, failure=failure)
    assert (await paying).state == state
    assert (await payer.track(invoice.payment_hash)).state == state


async def test_a_stream_lost_while_paying_leaves_the_payment_in_flight(
    simulated: SimulatedWorld, nodes: tuple[LndNode, LndNode]
) -> None:
    seller, payer = nodes
    simulated.payer.faults.keep_payments_in_flight = True
    invoice = await an_invoice(seller)
    paying = asyncio.create_task(pay(payer, invoice.payment_request))

    async def in_flight() -> bool:
        return (await payer.track(invoice.payment_hash)).state == "in_flight"

    await until(in_flight)
    simulated.payer.drop_streams()
    assert (await paying).state == "in_flight"
    simulated.payer.release(invoice.payment_hash)
    assert (await pay(payer, invoice.payment_request)).preimage != b""


async def test_a_new_node_on_the_same_directory_goes_on(simulated: SimulatedWorld) -> None:
    seller, payer = adapter(simulated.seller), adapter(simulated.payer)
    paid, open_one = await an_invoice(seller), await an_invoice(seller)
    await pay(payer, paid.payment_request)
    was = (simulated.seller.tls_cert_pem, simulated.seller.macaroon(), simulated.seller.public_key)
    balance_msat = simulated.seller.balance_msat
    await simulated.kill_seller()
    await simulated.start_seller()
    assert was == (simulated.seller.tls_cert_pem, simulated.seller.macaroon(), simulated.seller.public_key)
    assert simulated.seller.balance_msat == balance_msat
    fresh = adapter(simulated.seller)
    assert (await looked_up(fresh, paid.payment_hash)).state == "settled"
    assert (await pay(payer, open_one.payment_request)).state == "succeeded"
    assert [event.settle_index for event in await events(fresh, 2, after=0)] == [1, 2]
    assert (await an_invoice(fresh)).add_index == open_one.add_index + 1
    for node in (seller, payer, fresh):
        await node.close()


async def test_a_payment_in_flight_survives_the_restart_of_its_sender(simulated: SimulatedWorld) -> None:
    seller, payer = adapter(simulated.seller), adapter(simulated.payer)
    simulated.payer.faults.hold_incoming = True
    refund = await an_invoice(payer)
    assert (await pay(seller, refund.payment_request, timeout_s=1)).state == "in_flight"
    await simulated.kill_seller()
    simulated.payer.settle(refund.payment_hash)
    await simulated.start_seller()
    fresh = adapter(simulated.seller)

    async def succeeded() -> bool:
        return (await fresh.track(refund.payment_hash)).state == "succeeded"

    await until(succeeded)
    for node in (seller, payer, fresh):
        await node.close()


async def test_the_keys_in_the_directory_are_the_owners_alone(simulated: SimulatedWorld, tmp_path: Path) -> None:
    assert {path.name for path in tmp_path.iterdir()} >= {"node.key", "tls.key", "admin.macaroon"}
    for name in ("node.key", "tls.key", "admin.macaroon"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


async def test_invoices_are_cheap_for_both_sides(nodes: tuple[LndNode, LndNode]) -> None:
    seller, _ = nodes
    in_flight = asyncio.Semaphore(64)

    async def one() -> None:
        async with in_flight:
            await an_invoice(seller)

    await an_invoice(seller)
    before_s = time.process_time()
    await asyncio.gather(*(one() for _ in range(1_000)))
    # 500 a second on one core, client and node together. CPU time, because the machine may be busy with other things.
    assert time.process_time() - before_s < 2.0


async def test_balances_are_told(simulated: SimulatedWorld) -> None:
    told = await raw(simulated.seller, lnrpc.CHANNEL_BALANCE, lnrpc.lightning.ChannelBalanceRequest())
    assert told.local_balance.msat == simulated.seller.balance_msat
    wallet = await raw(simulated.seller, lnrpc.WALLET_BALANCE, lnrpc.lightning.WalletBalanceRequest())
    assert wallet.confirmed_balance == 0


async def test_an_unknown_invoice_cannot_be_settled(simulated: SimulatedWorld) -> None:
    with pytest.raises(NodeRefusal):
        simulated.seller.settle(os.urandom(32))
