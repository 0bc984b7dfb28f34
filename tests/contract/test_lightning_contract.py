"""The contract of `LightningNode`: invoices and payments, over the simulated node and, where lnd is built, a real pair.

What the real nodes did is what the simulated one has to do. See tests/lnd for how the pair is started.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time

import pytest
from lnd.steps import (
    a_held_invoice,
    an_invoice,
    looked_up,
    pay,
    settle_held,
    until,
)
from lnd.worlds import SimulatedWorld, World, adapter, raw

from gateway import lnrpc
from gateway.adapters.lnd import LndNode
from gateway.core.errors import InvalidRequest
from gateway.ports import Payment


async def test_an_added_invoice_is_found_as_it_was_added(seller: LndNode) -> None:
    before = int(time.time())
    added = await an_invoice(seller, 5_001)
    found = await looked_up(seller, added.payment_hash)
    assert found.preimage != b""
    assert before <= added.created_at_s <= time.time()
    assert added.expires_at_s == added.created_at_s + 600
    assert (found.state, found.amount_msat, found.memo, found.paid_msat) == ("open", 5_001, "fb1 a token", 0)
    same = ("payment_request", "payment_hash", "created_at_s", "expires_at_s", "add_index", "settled_at_s")
    assert [getattr(found, name) for name in same] == [getattr(added, name) for name in same]


async def test_an_unknown_hash_finds_nothing(seller: LndNode) -> None:
    assert await seller.lookup_invoice(os.urandom(32)) is None


async def test_an_invoice_of_nothing_is_refused(seller: LndNode) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await seller.add_invoice(amount_msat=0, memo="", expiry_s=60)
    assert refused.value.param == "amount_msat"


async def test_the_identity_is_the_public_key(world: World, seller: LndNode) -> None:
    assert await seller.identity() == world.seller.public_key


async def test_a_paid_invoice_is_settled_and_the_payer_has_its_preimage(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller, 5_001)
    payment = await pay(payer, invoice.payment_request)
    assert payment == Payment(invoice.payment_hash, "succeeded", 5_001, 0, payment.preimage)
    assert hashlib.sha256(payment.preimage).digest() == invoice.payment_hash
    found = await looked_up(seller, invoice.payment_hash)
    assert (found.state, found.paid_msat, found.preimage) == ("settled", 5_001, payment.preimage)
    assert found.settle_index > 0
    assert abs((found.settled_at_s or 0) - time.time()) < 5
    assert await payer.track(invoice.payment_hash) == payment


async def test_a_paid_invoice_paid_again_gives_the_first_payment(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller)
    first = await pay(payer, invoice.payment_request)
    assert await pay(payer, invoice.payment_request) == first
    assert (await looked_up(seller, invoice.payment_hash)).paid_msat == 5_000


async def test_one_invoice_paid_by_many_at_once_is_paid_once(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller)
    payments = await asyncio.gather(*(pay(payer, invoice.payment_request) for _ in range(8)))
    assert {payment.state for payment in payments} <= {"succeeded", "in_flight"}
    assert (await pay(payer, invoice.payment_request)).state == "succeeded"
    assert (await looked_up(seller, invoice.payment_hash)).paid_msat == 5_000


async def test_a_node_pays_not_itself(seller: LndNode) -> None:
    payment = await pay(seller, (await an_invoice(seller)).payment_request)
    assert (payment.state, payment.failure) == ("failed", "self_payment")


async def test_an_invoice_expires_and_cannot_be_paid_then(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller, expiry_s=1)

    async def canceled() -> bool:
        return (await looked_up(seller, invoice.payment_hash)).state == "canceled"

    await until(canceled)
    payment = await pay(payer, invoice.payment_request)
    assert (payment.state, payment.failure) == ("failed", "invoice_expired")
    assert (await payer.track(invoice.payment_hash)).state == "unknown"


async def test_a_canceled_invoice_cannot_be_paid(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller)
    await seller.cancel_invoice(invoice.payment_hash)
    await seller.cancel_invoice(invoice.payment_hash)
    assert (await looked_up(seller, invoice.payment_hash)).state == "canceled"
    payment = await pay(payer, invoice.payment_request)
    assert (payment.state, payment.failure) == ("failed", "incorrect_payment_details")
    assert await payer.track(invoice.payment_hash) == payment


async def test_cancelling_leaves_unknown_and_settled_invoices_alone(seller: LndNode, payer: LndNode) -> None:
    await seller.cancel_invoice(os.urandom(32))
    invoice = await an_invoice(seller)
    await pay(payer, invoice.payment_request)
    await seller.cancel_invoice(invoice.payment_hash)
    assert (await looked_up(seller, invoice.payment_hash)).state == "settled"


async def test_a_foreign_invoice_is_decoded(world: World, seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(payer, 123_456)
    found = await seller.decode(invoice.payment_request)
    assert (found.payment_hash, found.amount_msat) == (invoice.payment_hash, 123_456)
    assert (found.expires_at_s, found.description) == (invoice.expires_at_s, "fb1 a token")
    assert (found.destination, found.final_cltv_delta) == (world.payer.public_key, 80)


@pytest.mark.parametrize("text", ["", "lnbc1junk", "not an invoice", "lnbcrt1" + "q" * 200])
async def test_junk_is_not_an_invoice(seller: LndNode, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await seller.decode(text)
    assert refused.value.param == "payment_request"
    with pytest.raises(InvalidRequest):
        await pay(seller, text)


async def test_one_wrong_letter_is_noticed(seller: LndNode, payer: LndNode) -> None:
    text = (await an_invoice(payer)).payment_request
    with pytest.raises(InvalidRequest):
        await seller.decode(text[:-1] + ("q" if text[-1] != "q" else "p"))


async def test_an_invoice_without_amount_takes_the_payers(world: World, seller: LndNode, payer: LndNode) -> None:
    text = (await raw(world.seller, lnrpc.ADD_INVOICE, lnrpc.lightning.Invoice())).payment_request
    decoded = await payer.decode(text)
    assert decoded.amount_msat is None
    assert (await pay(payer, text)).failure == "wrong_amount"
    payment = await pay(payer, text, amount_msat=4_321)
    assert (payment.state, payment.amount_msat) == ("succeeded", 4_321)
    assert (await looked_up(seller, payment.payment_hash)).paid_msat == 4_321


async def test_an_invoice_with_amount_takes_no_other(seller: LndNode, payer: LndNode) -> None:
    payment = await pay(payer, (await an_invoice(seller)).payment_request, amount_msat=7_000)
    assert (payment.state, payment.failure) == ("failed", "wrong_amount")


async def test_a_route_longer_than_the_limit_is_not_taken(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller)
    payment = await pay(payer, invoice.payment_request, cltv_limit=83)
    assert (payment.state, payment.failure) == ("failed", "cltv_limit")
    assert (await pay(payer, invoice.payment_request, cltv_limit=84)).state == "succeeded"


async def test_more_than_the_node_has_is_not_paid(seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller, 2_000_000_000_000)
    payment = await pay(payer, invoice.payment_request)
    assert (payment.state, payment.failure) == ("failed", "insufficient_balance")


async def test_a_fee_above_the_limit_is_not_paid(simulated: SimulatedWorld) -> None:
    seller, payer = adapter(simulated.seller), adapter(simulated.payer)
    simulated.payer.faults.fee_msat = 1_000
    invoice = await an_invoice(seller)
    failed = await pay(payer, invoice.payment_request, fee_limit_msat=999)
    assert (failed.state, failed.failure) == ("failed", "no_route")
    paid = await pay(payer, invoice.payment_request, fee_limit_msat=1_000)
    assert (paid.state, paid.amount_msat, paid.fee_msat) == ("succeeded", 5_000, 1_000)
    await seller.close()
    await payer.close()


async def test_nothing_is_known_of_a_payment_that_never_began(payer: LndNode) -> None:
    payment_hash = os.urandom(32)
    assert await payer.track(payment_hash) == Payment(payment_hash, "unknown")


async def test_a_held_invoice_is_accepted_until_its_owner_settles(
    world: World, seller: LndNode, payer: LndNode
) -> None:
    preimage = os.urandom(32)
    payment_hash = hashlib.sha256(preimage).digest()
    text = await a_held_invoice(world, preimage)
    assert await settle_held(world, preimage) == ("UNKNOWN", "invoice still open")
    paying = asyncio.create_task(pay(payer, text))

    async def accepted() -> bool:
        return (await looked_up(seller, payment_hash)).state == "accepted"

    await until(accepted)
    assert (await looked_up(seller, payment_hash)).settle_index == 0
    assert (await payer.track(payment_hash)).state == "in_flight"
    assert (await pay(payer, text)).state == "in_flight"
    await settle_held(world, preimage)
    assert (await paying).preimage == preimage
    found = await looked_up(seller, payment_hash)
    assert (found.state, found.paid_msat, found.preimage) == ("settled", 10_000, preimage)


async def test_a_held_payment_outlives_the_payers_patience(world: World, payer: LndNode) -> None:
    preimage = os.urandom(32)
    payment_hash = hashlib.sha256(preimage).digest()
    text = await a_held_invoice(world, preimage)
    assert (await pay(payer, text, timeout_s=1)).state == "in_flight"
    await settle_held(world, preimage)

    async def succeeded() -> bool:
        return (await payer.track(payment_hash)).state == "succeeded"

    await until(succeeded)


async def test_a_held_payment_comes_back_when_the_invoice_is_canceled(
    world: World, seller: LndNode, payer: LndNode
) -> None:
    preimage = os.urandom(32)
    payment_hash = hashlib.sha256(preimage).digest()
    paying = asyncio.create_task(pay(payer, await a_held_invoice(world, preimage)))

    async def accepted() -> bool:
        return (await looked_up(seller, payment_hash)).state == "accepted"

    await until(accepted)
    await seller.cancel_invoice(payment_hash)
    payment = await paying
    assert (payment.state, payment.failure) == ("failed", "incorrect_payment_details")
    assert (await looked_up(seller, payment_hash)).state == "canceled"
