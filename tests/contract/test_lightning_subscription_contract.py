"""The contract of `LightningNode`: settlements are told in order, and none is missed, whatever happens to the node."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from lnd.steps import (
    a_settled,
    a_settled_index,
    an_invoice,
    events,
    looked_up,
    pay,
    until,
)
from lnd.worlds import World

from gateway.adapters.lnd import LndNode
from gateway.core.errors import Unavailable


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
