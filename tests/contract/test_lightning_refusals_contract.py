"""The contract of `LightningNode`: who may not, and in which words a node refuses."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import pytest
from lnd.steps import (
    a_held_invoice,
    an_invoice,
    events,
    looked_up,
    pay,
    until,
)
from lnd.worlds import World, adapter, raw

from gateway import lnrpc
from gateway.adapters.lnd import LndNode
from gateway.core.errors import Unavailable

REFUSALS: list[tuple[lnrpc.Method, Any, tuple[str, str]]] = [
    (lnrpc.ADD_INVOICE, lnrpc.lightning.Invoice(value_msat=-5), ("UNKNOWN", "amount cannot be negative")),
    (
        lnrpc.ADD_INVOICE,
        lnrpc.lightning.Invoice(value=5, value_msat=5),
        ("UNKNOWN", "sat and msat arguments are mutually exclusive"),
    ),
    (
        lnrpc.ADD_INVOICE,
        lnrpc.lightning.Invoice(value_msat=5, memo="x" * 1_025),
        ("UNKNOWN", "memo too large: 1025 bytes (maxsize=1024)"),
    ),
    (
        lnrpc.ADD_INVOICE,
        lnrpc.lightning.Invoice(value_msat=5, expiry=1_000_000_000),
        ("UNKNOWN", "expiry of 1e+09 seconds greater than max expiry of 3.1536e+07 seconds"),
    ),
    (
        lnrpc.LOOKUP_INVOICE,
        lnrpc.lightning.PaymentHash(r_hash=b"1" * 32),
        ("NOT_FOUND", "unable to locate invoice"),
    ),
    (
        lnrpc.LOOKUP_INVOICE,
        lnrpc.lightning.PaymentHash(r_hash=b"1" * 31),
        ("UNKNOWN", "payment hash must be exactly 32 bytes, is instead 31"),
    ),
    (
        lnrpc.TRACK_PAYMENT,
        lnrpc.router.TrackPaymentRequest(payment_hash=b"1" * 32),
        ("NOT_FOUND", "payment isn't initiated"),
    ),
    (
        lnrpc.SETTLE_INVOICE,
        lnrpc.invoices.SettleInvoiceMsg(preimage=b"1" * 32),
        ("UNKNOWN", "unable to locate invoice"),
    ),
    (
        lnrpc.CANCEL_INVOICE,
        lnrpc.invoices.CancelInvoiceMsg(payment_hash=b"1" * 32),
        ("UNKNOWN", "unable to locate invoice"),
    ),
]


async def test_a_wrong_macaroon_is_unavailable_not_failed(world: World, seller: LndNode) -> None:
    text = (await an_invoice(seller)).payment_request
    for macaroon in ("00" * 60, world.seller.macaroon("admin")[:-2] + "00", world.payer.macaroon("admin")):
        stranger = LndNode.open(world.seller.address, tls_cert=world.seller.tls_cert_pem, macaroon=macaroon)
        for call in (an_invoice(stranger), stranger.decode(text), pay(stranger, text), stranger.track(os.urandom(32))):
            with pytest.raises(Unavailable) as refused:
                await call
            assert refused.value.code == "lightning_unavailable"
            assert macaroon not in refused.value.detail
        await stranger.close()


async def test_an_invoice_macaroon_is_enough_to_sell(world: World, payer: LndNode) -> None:
    seller = adapter(world.seller, macaroon="invoice")
    invoice = await an_invoice(seller)
    assert (await pay(payer, invoice.payment_request)).state == "succeeded"
    index = (await looked_up(seller, invoice.payment_hash)).settle_index
    assert (await events(seller, index, after=0))[-1].payment_hash == invoice.payment_hash
    await seller.cancel_invoice((await an_invoice(seller)).payment_hash)
    assert await seller.identity() == ""
    with pytest.raises(Unavailable):
        await pay(seller, (await an_invoice(payer)).payment_request)
    await seller.close()


async def test_another_nodes_certificate_is_not_trusted(world: World) -> None:
    stranger = LndNode.open(
        world.seller.address, tls_cert=world.payer.tls_cert_pem, macaroon=world.seller.macaroon("admin")
    )
    with pytest.raises(Unavailable):
        await stranger.identity()
    await stranger.close()


async def test_a_frozen_node_is_unavailable_within_the_deadline(world: World) -> None:
    hasty = adapter(world.seller, deadline_s=0.5)
    await hasty.identity()
    world.freeze_seller()
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await an_invoice(hasty)
        assert time.monotonic() - began < 3
    finally:
        world.thaw_seller()
    await hasty.close()


async def test_a_closed_adapter_is_unavailable(world: World) -> None:
    node = adapter(world.seller)
    await node.identity()
    await node.close()
    with pytest.raises(Unavailable):
        await node.lookup_invoice(os.urandom(32))


@pytest.mark.parametrize(("method", "request_", "expected"), REFUSALS)
async def test_refusals_have_these_words(
    world: World, method: lnrpc.Method, request_: Any, expected: tuple[str, str]
) -> None:
    assert await raw(world.seller, method, request_) == expected


async def test_refusals_about_payments_have_these_words(world: World, seller: LndNode, payer: LndNode) -> None:
    invoice = await an_invoice(seller)
    request = lnrpc.router.SendPaymentRequest(payment_request=invoice.payment_request, timeout_seconds=10)
    assert await raw(world.seller, lnrpc.SEND_PAYMENT, request) == ("UNKNOWN", "self-payments not allowed")
    await pay(payer, invoice.payment_request)
    assert await raw(world.payer, lnrpc.SEND_PAYMENT, request) == ("ALREADY_EXISTS", "invoice is already paid")
    cancel = lnrpc.invoices.CancelInvoiceMsg(payment_hash=invoice.payment_hash)
    assert await raw(world.seller, lnrpc.CANCEL_INVOICE, cancel) == ("UNKNOWN", "invoice already settled")
    hold = lnrpc.invoices.AddHoldInvoiceRequest(hash=invoice.payment_hash, value_msat=5)
    assert await raw(world.seller, lnrpc.ADD_HOLD_INVOICE, hold) == (
        "UNKNOWN",
        "invoice with payment hash already exists",
    )
    preimage = os.urandom(32)
    text = await a_held_invoice(world, preimage)
    held = lnrpc.router.SendPaymentRequest(payment_request=text, timeout_seconds=10)
    assert (await raw(world.payer, lnrpc.SEND_PAYMENT, held)).status == 1

    async def accepted() -> bool:
        return (await looked_up(seller, hashlib.sha256(preimage).digest())).state == "accepted"

    # Before its first HTLC is out, lnd says "payment already exists".
    await until(accepted)
    assert await raw(world.payer, lnrpc.SEND_PAYMENT, held) == ("ALREADY_EXISTS", "payment is in transition")
    await seller.cancel_invoice(hashlib.sha256(preimage).digest())


async def test_refusals_about_macaroons_have_these_words(world: World) -> None:
    ask, nothing = lnrpc.GET_INFO, lnrpc.lightning.GetInfoRequest()
    assert await raw(world.seller, ask, nothing, macaroon="") == ("UNKNOWN", "expected 1 macaroon, got 0")
    assert await raw(world.seller, ask, nothing, macaroon="00" * 60) == (
        "UNKNOWN",
        "cannot determine data format of binary-encoded macaroon",
    )
    assert await raw(world.seller, ask, nothing, macaroon=world.payer.macaroon("admin")) == (
        "UNKNOWN",
        "verification failed: signature mismatch after caveat verification",
    )
    invoice = world.seller.macaroon("invoice")
    assert await raw(world.seller, ask, nothing, macaroon=invoice) == ("UNKNOWN", "permission denied")
