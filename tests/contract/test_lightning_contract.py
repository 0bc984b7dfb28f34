"""The contract of `LightningNode`: one suite over the simulated node and, where lnd is built, over a real pair on simnet.

What the real nodes did is what the simulated one has to do. See tests/lnd for how the pair is started.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from lnd.nodes import built
from lnd.worlds import RealWorld, SimulatedWorld, World, adapter, raw

from gateway import lnrpc
from gateway.adapters.lnd import LndNode
from gateway.core.errors import InvalidRequest, Unavailable
from gateway.ports import Invoice, Payment

KINDS = ["simulated", *(["real"] if built() else [])]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "real":
        yield RealWorld(request.getfixturevalue("real_pair"))
        return
    simulated = SimulatedWorld(tmp_path)
    await simulated.start()
    yield simulated
    await simulated.stop()


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[SimulatedWorld]:
    """For what real nodes cannot be told to do."""
    one = SimulatedWorld(tmp_path)
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def seller(world: World) -> AsyncIterator[LndNode]:
    node = adapter(world.seller)
    yield node
    await node.close()


@pytest.fixture
async def payer(world: World) -> AsyncIterator[LndNode]:
    node = adapter(world.payer)
    yield node
    await node.close()


async def an_invoice(node: LndNode, amount_msat: int = 5_000, *, expiry_s: int = 600) -> Invoice:
    return await node.add_invoice(amount_msat=amount_msat, memo="fb1 a token", expiry_s=expiry_s)


async def pay(node: LndNode, payment_request: str, **changes: Any) -> Payment:
    terms: dict[str, Any] = {"amount_msat": None, "fee_limit_msat": 1_000, "timeout_s": 20, "cltv_limit": 300}
    return await node.pay(payment_request, **{**terms, **changes})


async def until(ready: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not await ready():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def looked_up(node: LndNode, payment_hash: bytes) -> Invoice:
    found = await node.lookup_invoice(payment_hash)
    assert found is not None
    return found


async def last_settled(node: LndNode) -> int:
    newest = await node.list_invoices(after_add_index=0, most=10_000)
    return max((invoice.settle_index for invoice in newest), default=0)


async def a_settled_index(seller: LndNode, payer: LndNode) -> int:
    invoice = await an_invoice(seller)
    assert (await pay(payer, invoice.payment_request)).state == "succeeded"
    return (await looked_up(seller, invoice.payment_hash)).settle_index


async def events(node: LndNode, count: int, *, after: int) -> list[Invoice]:
    found: list[Invoice] = []
    async with asyncio.timeout(20), aclosing(node.settled_invoices(after_settle_index=after)) as stream:
        async for invoice in stream:
            found.append(invoice)
            if len(found) == count:
                break
    return found


async def a_held_invoice(world: World, preimage: bytes, amount_msat: int = 10_000) -> str:
    request = lnrpc.invoices.AddHoldInvoiceRequest(hash=hashlib.sha256(preimage).digest(), value_msat=amount_msat)
    return str((await raw(world.seller, lnrpc.ADD_HOLD_INVOICE, request)).payment_request)


async def settle_held(world: World, preimage: bytes) -> Any:
    return await raw(world.seller, lnrpc.SETTLE_INVOICE, lnrpc.invoices.SettleInvoiceMsg(preimage=preimage))


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


async def test_settlements_are_told_in_order(seller: LndNode, payer: LndNode) -> None:
    start = await a_settled_index(seller, payer)
    listening = asyncio.create_task(events(seller, 3, after=start))
    invoices = [await an_invoice(seller, 1_000 + number) for number in range(3)]
    for invoice in invoices:
        await pay(payer, invoice.payment_request)
    told = await listening
    assert [invoice.payment_hash for invoice in told] == [invoice.payment_hash for invoice in invoices]
    assert [invoice.settle_index for invoice in told] == [start + 1, start + 2, start + 3]
    assert [(invoice.state, invoice.paid_msat) for invoice in told] == [("settled", 1_000 + n) for n in range(3)]


async def test_a_subscription_resumes_after_the_given_index(seller: LndNode, payer: LndNode) -> None:
    start = await a_settled_index(seller, payer)
    later = [await a_settled_index(seller, payer) for _ in range(2)]
    assert [invoice.settle_index for invoice in await events(seller, 2, after=start)] == later


async def test_from_zero_the_past_is_told_too(seller: LndNode, payer: LndNode) -> None:
    index = await a_settled_index(seller, payer)
    told = await events(seller, index, after=0)
    assert [invoice.settle_index for invoice in told] == list(range(1, index + 1))


async def test_added_and_canceled_invoices_are_not_told(seller: LndNode, payer: LndNode) -> None:
    start = await a_settled_index(seller, payer)
    listening = asyncio.create_task(events(seller, 1, after=start))
    await an_invoice(seller)
    await seller.cancel_invoice((await an_invoice(seller)).payment_hash)
    assert [invoice.settle_index for invoice in [await a_settled(seller, payer)]] == [start + 1]
    assert [invoice.settle_index for invoice in await listening] == [start + 1]


async def a_settled(seller: LndNode, payer: LndNode) -> Invoice:
    invoice = await an_invoice(seller)
    await pay(payer, invoice.payment_request)
    return await looked_up(seller, invoice.payment_hash)


async def test_a_subscription_survives_the_nodes_restart(world: World, seller: LndNode, payer: LndNode) -> None:
    start = await a_settled_index(seller, payer)
    told: list[int] = []

    async def listen() -> None:
        async for invoice in seller.settled_invoices(after_settle_index=start):
            told.append(invoice.settle_index)

    listening = asyncio.create_task(listen())
    before = await a_settled_index(seller, payer)

    async def heard() -> bool:
        return before in told

    await until(heard)
    open_one = await an_invoice(seller)
    await world.kill_seller()
    with pytest.raises(Unavailable) as refused:
        await seller.lookup_invoice(open_one.payment_hash)
    assert refused.value.code == "lightning_unavailable"
    await world.start_seller()

    async def back() -> bool:
        with suppress(Unavailable):
            return (await looked_up(seller, open_one.payment_hash)).state == "open"
        return False

    await until(back)
    await pay(payer, open_one.payment_request)
    after = (await looked_up(seller, open_one.payment_hash)).settle_index

    async def heard_after() -> bool:
        return after in told

    await until(heard_after)
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening


async def test_invoices_are_listed_in_pages(seller: LndNode) -> None:
    added = [await an_invoice(seller, 1_000 + number) for number in range(5)]
    start = added[0].add_index - 1
    found = await seller.list_invoices(after_add_index=start, most=3)
    assert [invoice.payment_hash for invoice in found] == [invoice.payment_hash for invoice in added[:3]]
    rest = await seller.list_invoices(after_add_index=found[-1].add_index, most=100)
    assert [invoice.payment_hash for invoice in rest] == [invoice.payment_hash for invoice in added[3:]]
    assert await seller.list_invoices(after_add_index=rest[-1].add_index, most=100) == []


async def test_a_list_longer_than_a_page_is_whole(seller: LndNode) -> None:
    start = (await an_invoice(seller)).add_index
    await asyncio.gather(*(an_invoice(seller) for _ in range(600)))
    found = await seller.list_invoices(after_add_index=start, most=2_000)
    assert [invoice.add_index for invoice in found] == list(range(start + 1, start + 601))


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
