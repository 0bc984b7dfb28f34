"""Steps that the tests of Lightning share: make an invoice, pay it, wait for an event."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from lnd.worlds import World, raw

from gateway import lnrpc
from gateway.adapters.lnd import LndNode
from gateway.ports import Invoice, Payment


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


async def a_settled(seller: LndNode, payer: LndNode) -> Invoice:
    invoice = await an_invoice(seller)
    await pay(payer, invoice.payment_request)
    return await looked_up(seller, invoice.payment_hash)
