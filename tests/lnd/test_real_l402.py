"""Credit, top-up and refund against a real pair of nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from l402_parts import RATE, Parts, assemble, shown
from lnd.steps import an_invoice, pay
from servers import running_valkey

from gateway.adapters.lnd import LndNode
from gateway.adapters.redis.link import RedisLink
from gateway.core.challenges import Challenge
from gateway.core.errors import Conflict, InvalidRequest
from gateway.core.refunds import Refund, RefundState
from gateway.flows.verifying import VerifiedPayer


@pytest.fixture
async def parts(real_seller: LndNode, tmp_path: Path) -> AsyncIterator[Parts]:
    with running_valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as port:
        link = await RedisLink.open(f"redis://127.0.0.1:{port}/0")
        none = cast("Any", None)
        yield assemble(link, real_seller, none, none)
        await link.close()


async def bought(parts: Parts, payer: LndNode, challenge: Challenge) -> VerifiedPayer:
    payment = await pay(payer, challenge.invoice)
    assert payment.state == "succeeded"
    return parts.payer(shown(challenge.macaroon, payment.preimage))


async def available(parts: Parts, payer: VerifiedPayer) -> int:
    balance = await parts.ledger.balance(payer.account)
    return -1 if balance is None else balance.available


async def test_a_real_payment_is_credited_by_showing_it_and_topped_up(parts: Parts, real_payer: LndNode) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1", asked_sats=100)
    payer = await bought(parts, real_payer, challenge)
    assert await parts.crediting.credit(payer) == RATE
    top_up = await parts.challenger.challenge("192.0.2.1", asked_sats=50, top_up_of=payer.top_up_of)
    again = await bought(parts, real_payer, top_up)
    assert again.account == payer.account
    assert await parts.crediting.credit(again) == RATE
    assert await available(parts, payer) == 150_000


async def test_a_real_payment_that_nobody_shows_is_credited_from_the_stream(parts: Parts, real_payer: LndNode) -> None:
    task = asyncio.create_task(parts.crediting.credit_settled())
    try:
        payer = await bought(parts, real_payer, await parts.challenger.challenge("192.0.2.1", asked_sats=33))
        async with asyncio.timeout(20):
            while await available(parts, payer) < 0:
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
    assert await available(parts, payer) == 33_000


async def test_a_new_store_is_filled_from_the_real_node(parts: Parts, real_payer: LndNode) -> None:
    payer = await bought(parts, real_payer, await parts.challenger.challenge("192.0.2.1", asked_sats=34))
    assert await parts.crediting.recover() >= 1
    assert await parts.crediting.recover() == 0
    assert await available(parts, payer) == 34_000


async def test_a_refund_goes_to_a_real_wallet_once(parts: Parts, real_payer: LndNode) -> None:
    payer = await bought(parts, real_payer, await parts.challenger.challenge("192.0.2.1", asked_sats=500))
    named = (await an_invoice(real_payer, 100_000)).payment_request
    outcomes = await asyncio.gather(*(parts.refunder.refund(payer, named) for _ in range(3)))
    assert all(isinstance(one, Refund) for one in outcomes)
    paid = await parts.refunder.refund(payer, named)
    assert isinstance(paid, Refund)
    assert (paid.state, paid.amount_msat) == (RefundState.PAID, 100_000)
    received = await real_payer.lookup_invoice(paid.payment_hash)
    assert received is not None
    assert (received.state, received.paid_msat) == ("settled", 100_000)
    assert await available(parts, payer) == 400_000 - paid.fee_msat


async def test_real_invoices_that_cannot_be_refunded_are_refused(parts: Parts, real_payer: LndNode) -> None:
    payer = await bought(parts, real_payer, await parts.challenger.challenge("192.0.2.1", asked_sats=500))
    ours = await parts.challenger.challenge("192.0.2.1", asked_sats=5)
    for invoice in (ours.invoice, "lnbcrt1rubbish", (await an_invoice(real_payer, 500_000)).payment_request):
        with pytest.raises(InvalidRequest):
            await parts.refunder.refund(payer, invoice)
    elsewhere = (await an_invoice(real_payer, 5_000)).payment_request
    assert (await pay(parts.node, elsewhere)).state == "succeeded"
    with pytest.raises(Conflict):
        await parts.refunder.refund(payer, elsewhere)
    assert await available(parts, payer) == 500_000


async def test_a_real_refund_that_finds_no_way_is_kept_until_its_invoice_has_expired(
    parts: Parts, real_payer: LndNode
) -> None:
    payer = await bought(parts, real_payer, await parts.challenger.challenge("192.0.2.1", asked_sats=500))
    invoice = await an_invoice(real_payer, 100_000, expiry_s=40)
    await real_payer.cancel_invoice(invoice.payment_hash)
    waiting = await parts.refunder.refund(payer, invoice.payment_request)
    assert isinstance(waiting, Refund)
    assert waiting.state is RefundState.HELD
    assert await available(parts, payer) == 500_000 - waiting.greatest_cost_msat
    parts.clock.ahead_s = invoice.expires_at_s - time.time() + parts.refund_policy.expiry_margin_s + 5
    await parts.refunder.sweep()
    ended = await parts.refunds.find(invoice.payment_hash)
    assert ended is not None
    assert ended.state is RefundState.FAILED
    assert await available(parts, payer) == 500_000
