"""The real pair as such: money on both sides, and a seller that comes back with all that it had acknowledged."""

from __future__ import annotations

from lnd.steps import an_invoice, looked_up, pay
from lnd.worlds import RealWorld, adapter

from gateway.adapters.lnd import LndNode


async def test_both_sides_can_pay(real_seller: LndNode, real_payer: LndNode) -> None:
    sale = await pay(real_payer, (await an_invoice(real_seller, 50_000)).payment_request)
    refund = await pay(real_seller, (await an_invoice(real_payer, 20_000)).payment_request)
    assert (sale.state, refund.state) == ("succeeded", "succeeded")


async def test_a_killed_node_comes_back_with_its_invoices(real_world: RealWorld, real_payer: LndNode) -> None:
    before = adapter(real_world.seller)
    paid, unpaid = await an_invoice(before), await an_invoice(before)
    await pay(real_payer, paid.payment_request)
    await before.close()
    await real_world.kill_seller()
    await real_world.start_seller()
    after = adapter(real_world.seller)
    assert (await looked_up(after, paid.payment_hash)).state == "settled"
    assert (await pay(real_payer, unpaid.payment_request)).state == "succeeded"
    await after.close()
