"""Refunds on a store that keeps an append-only file and two nodes that can pay each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bolthub.delegate import attenuate
from l402_parts import RATE, Parts, running_parts, shown
from servers import flush, running_valkey

from gateway.core.errors import Conflict, Forbidden, InvalidRequest, RateLimited, Unavailable
from gateway.core.holds import Balance, Placed, Posted
from gateway.core.money import Rate, Unit
from gateway.core.refunds import Refund, RefundState
from gateway.flows.verifying import NeedsChallenge, VerifiedPayer
from gateway.simulators.bolt11 import decode
from gateway.simulators.lightning import PaymentOrder


@pytest.fixture(scope="module")
def durable_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory: Path = tmp_path_factory.mktemp("durable")
    with running_valkey(directory, "--appendonly", "yes", "--appendfsync", "always") as port:
        yield port


@pytest.fixture
async def parts(durable_port: int) -> AsyncIterator[Parts]:
    flush(durable_port)
    async with running_parts(f"redis://127.0.0.1:{durable_port}/0") as parts:
        yield parts


async def funded(parts: Parts, sats: int = 1_000) -> VerifiedPayer:
    _, credential = await parts.bought(sats)
    payer = parts.payer(credential)
    await parts.crediting.credit(payer)
    return payer


async def balance_of(parts: Parts, payer: VerifiedPayer) -> Balance:
    balance = await parts.ledger.balance(payer.account)
    assert balance is not None
    return balance


async def refund(parts: Parts, payer: VerifiedPayer, invoice: str) -> Refund:
    outcome = await parts.refunder.refund(payer, invoice)
    assert isinstance(outcome, Refund)
    return outcome


def without_waiting(parts: Parts) -> None:
    parts.refund_policy = replace(parts.refund_policy, answer_within_s=0.2, first_retry_s=0.0, greatest_retry_s=0.0)


async def test_a_refund_pays_the_invoice_and_charges_amount_and_real_fee(parts: Parts) -> None:
    payer = await funded(parts)
    parts.simulated.faults.fee_msat = 1_234
    before_msat = parts.wallet.balance_msat
    done = await refund(parts, payer, parts.wallet.add_invoice(amount_msat=500_000))
    assert (done.state, done.amount_msat, done.fee_msat) == (RefundState.PAID, 500_000, 1_234)
    assert parts.wallet.balance_msat == before_msat + 500_000
    balance = await balance_of(parts, payer)
    assert (balance.available, balance.held, balance.posted) == (498_766, 0, 501_234)


async def test_an_invoice_without_amount_takes_all_that_is_left_but_the_greatest_fee(parts: Parts) -> None:
    payer = await funded(parts)
    done = await refund(parts, payer, parts.wallet.add_invoice(amount_msat=0))
    assert done.state is RefundState.PAID
    assert done.greatest_cost_msat <= 1_000_000 < done.greatest_cost_msat + 3
    balance = await balance_of(parts, payer)
    assert balance.available == 1_000_000 - done.amount_msat
    assert balance.held == 0


async def test_the_same_invoice_is_paid_once_however_often_it_is_sent(parts: Parts) -> None:
    payer = await funded(parts)
    invoice = parts.wallet.add_invoice(amount_msat=100_000)
    answers = await asyncio.gather(*(refund(parts, payer, text) for text in [invoice, invoice.upper()] * 10))
    assert {answer.payment_hash for answer in answers} == {answers[0].payment_hash}
    again = await refund(parts, payer, f"lightning:{invoice}")
    assert again.state is RefundState.PAID
    balance = await balance_of(parts, payer)
    assert (balance.posted, balance.held) == (100_000, 0)


async def test_many_refunds_at_once_never_pay_more_than_there_is(parts: Parts) -> None:
    payer = await funded(parts)
    parts.refund_policy = replace(parts.refund_policy, in_flight_per_destination=64)
    invoices = [parts.wallet.add_invoice(amount_msat=300_000) for _ in range(10)]
    before_msat = parts.wallet.balance_msat
    answers = await asyncio.gather(*(refund(parts, payer, one) for one in invoices), return_exceptions=True)
    paid = [answer for answer in answers if isinstance(answer, Refund)]
    assert len(paid) == 3
    assert all(isinstance(answer, Refund | InvalidRequest) for answer in answers)
    assert parts.wallet.balance_msat == before_msat + 900_000
    balance = await balance_of(parts, payer)
    assert (balance.available, balance.held, balance.posted) == (100_000, 0, 900_000)


async def test_another_accounts_refund_is_not_told(parts: Parts) -> None:
    payer, other = await funded(parts), await funded(parts)
    invoice = parts.wallet.add_invoice(amount_msat=100_000)
    await refund(parts, payer, invoice)
    with pytest.raises(Conflict):
        await refund(parts, other, invoice)
    assert (await balance_of(parts, other)).available == 1_000_000


async def test_an_invoice_paid_by_other_means_is_refused(parts: Parts) -> None:
    payer = await funded(parts)
    invoice = parts.wallet.add_invoice(amount_msat=100_000)
    await parts.simulated.pay(PaymentOrder(invoice))
    with pytest.raises(Conflict):
        await refund(parts, payer, invoice)
    assert (await balance_of(parts, payer)).available == 1_000_000


async def test_an_attenuated_credential_is_forbidden(parts: Parts) -> None:
    challenge, credential = await parts.bought()
    narrowed = parts.payer(shown(attenuate(challenge.macaroon, method="POST"), credential.preimage or b""))
    with pytest.raises(Forbidden):
        await refund(parts, narrowed, parts.wallet.add_invoice(amount_msat=1_000))


async def test_a_revoked_token_is_forbidden(parts: Parts) -> None:
    payer = await funded(parts)
    await parts.ledger.revoke(payer.token, payer.account)
    with pytest.raises(Forbidden):
        await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))


async def test_a_token_that_was_never_paid_needs_a_challenge(parts: Parts) -> None:
    challenge = await parts.challenger.challenge("192.0.2.1")
    parts.simulated.accept(challenge.payment_hash)
    payer = parts.payer(shown(challenge.macaroon, parts.simulated.preimage(challenge.payment_hash)))
    outcome = await parts.refunder.refund(payer, parts.wallet.add_invoice(amount_msat=1_000))
    assert isinstance(outcome, NeedsChallenge)


async def test_a_top_up_that_nobody_has_shown_yet_is_credited_on_the_way(parts: Parts) -> None:
    payer = await funded(parts, 100)
    top_up = await parts.challenger.challenge("192.0.2.1", asked_sats=400, top_up_of=payer.top_up_of)
    second = parts.payer(shown(top_up.macaroon, await parts.pay(top_up)))
    done = await refund(parts, second, parts.wallet.add_invoice(amount_msat=50_000))
    assert done.state is RefundState.PAID
    assert (await balance_of(parts, payer)).credited == 500_000


@pytest.mark.parametrize("text", ["", "hello", "lnbcrt1", "ln" + "q" * 5_000])
async def test_what_is_no_invoice_names_the_field(parts: Parts, text: str) -> None:
    payer = await funded(parts)
    with pytest.raises(InvalidRequest) as refused:
        await refund(parts, payer, text)
    assert refused.value.param == "payment_request"


async def test_amounts_outside_what_is_there_are_refused_before_anything_moves(parts: Parts) -> None:
    payer = await funded(parts)
    for amount_msat in (999, 985_000, 1_000_000, 5_000_000):
        with pytest.raises(InvalidRequest) as refused:
            await refund(parts, payer, parts.wallet.add_invoice(amount_msat=amount_msat))
        assert refused.value.members["available_msat"] == 1_000_000
    assert await parts.refunds.unfinished() == []
    most = refused.value.members["refundable_msat"]
    assert (await refund(parts, payer, parts.wallet.add_invoice(amount_msat=most))).state is RefundState.PAID


async def test_our_own_and_badly_timed_invoices_are_refused(parts: Parts) -> None:
    payer = await funded(parts)
    wrong = [
        parts.simulated.add_invoice(amount_msat=1_000),
        parts.wallet.add_invoice(amount_msat=1_000, expiry_s=5),
        parts.wallet.add_invoice(amount_msat=1_000, expiry_s=40 * 86_400),
    ]
    for invoice in wrong:
        with pytest.raises(InvalidRequest):
            await refund(parts, payer, invoice)
    parts.refund_policy = replace(parts.refund_policy, final_cltv_limit=40)
    with pytest.raises(InvalidRequest):
        await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))


async def test_a_payment_in_flight_holds_its_money_until_the_node_knows_more(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    parts.simulated.faults.keep_payments_in_flight = True
    invoice = parts.wallet.add_invoice(amount_msat=100_000)
    waiting = await refund(parts, payer, invoice)
    assert waiting.state is RefundState.HELD
    held = (await balance_of(parts, payer)).held
    assert held == waiting.greatest_cost_msat
    parts.clock.ahead_s = 10 * 86_400
    assert (await refund(parts, payer, invoice)).state is RefundState.HELD
    parts.clock.ahead_s = 0
    parts.simulated.release(waiting.payment_hash)
    await until(parts, waiting, RefundState.PAID)
    balance = await balance_of(parts, payer)
    assert (balance.held, balance.posted) == (0, 100_000)


async def test_a_failed_payment_is_sent_again_and_given_up_only_behind_its_expiry(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    parts.simulated.faults.fail_payments = "NO_ROUTE"
    invoice = parts.wallet.add_invoice(amount_msat=100_000, expiry_s=600)
    waiting = await refund(parts, payer, invoice)
    await parts.refunder.sweep()
    assert (await balance_of(parts, payer)).held == waiting.greatest_cost_msat
    parts.clock.ahead_s = 610
    await parts.refunder.sweep()
    assert (await balance_of(parts, payer)).held == waiting.greatest_cost_msat
    parts.clock.ahead_s = 600 + parts.refund_policy.expiry_margin_s + 5
    await until(parts, waiting, RefundState.FAILED)
    assert (await balance_of(parts, payer)).available == 1_000_000
    assert (await refund(parts, payer, invoice)).state is RefundState.FAILED


async def test_a_payment_that_fails_first_is_paid_later(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    parts.simulated.faults.fail_payments = "NO_ROUTE"
    waiting = await refund(parts, payer, parts.wallet.add_invoice(amount_msat=100_000))
    parts.simulated.faults.fail_payments = ""
    await until(parts, waiting, RefundState.PAID)
    assert (await balance_of(parts, payer)).posted == 100_000


async def test_refunds_under_way_are_capped_per_destination_and_in_all(parts: Parts) -> None:
    without_waiting(parts)
    parts.refund_policy = replace(parts.refund_policy, in_flight_per_destination=2)
    parts.simulated.faults.keep_payments_in_flight = True
    payer = await funded(parts)
    for _ in range(2):
        await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))
    with pytest.raises(RateLimited):
        await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))
    parts.refund_policy = replace(parts.refund_policy, in_flight_per_destination=9, in_flight_in_all=2)
    with pytest.raises(RateLimited):
        await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))


@pytest.mark.parametrize("lost_after", ["intent", "hold", "payment", "post"])
async def test_a_worker_killed_anywhere_leaves_a_refund_that_another_ends_once(parts: Parts, lost_after: str) -> None:
    """The dead worker's steps are made by hand, then a sweep of another finds what is left."""
    without_waiting(parts)
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), lost_after)
    await until(parts, begun, RefundState.PAID)
    balance = await balance_of(parts, payer)
    assert (balance.available, balance.held, balance.posted) == (900_000, 0, 100_000)
    assert await parts.refunds.unfinished() == []


async def half_done(parts: Parts, payer: VerifiedPayer, invoice: str, lost_after: str) -> Refund:
    refunder = parts.refunder
    begun = await refunder._intent(payer, invoice)
    assert isinstance(begun, Refund)
    if lost_after == "intent":
        return begun
    placed = await parts.ledger.place(refunder._payouts.place(begun))
    assert isinstance(placed, Placed)
    if lost_after == "hold":
        return begun
    begun = await parts.refunds.advance(begun.at(RefundState.HELD), expected=RefundState.INTENDED)
    await parts.simulated.pay(PaymentOrder(invoice, fee_limit_msat=begun.fee_limit_msat))
    if lost_after == "payment":
        return begun
    posted = await parts.ledger.post(begun.hold_id, 100_000, account=begun.account)
    assert isinstance(posted, Posted)
    return begun


async def test_a_lock_keeps_two_workers_from_driving_one_refund(parts: Parts) -> None:
    payment_hash = b"\x01" * 32
    assert await parts.refunds.lock(payment_hash, "a", life_ms=10_000)
    assert not await parts.refunds.lock(payment_hash, "b", life_ms=10_000)
    await parts.refunds.unlock(payment_hash, "b")
    assert not await parts.refunds.lock(payment_hash, "b", life_ms=10_000)
    await parts.refunds.unlock(payment_hash, "a")
    assert await parts.refunds.lock(payment_hash, "b", life_ms=10_000)


async def test_a_store_that_keeps_nothing_sends_no_refund(valkey_url: str) -> None:
    async with running_parts(valkey_url) as parts:
        payer = await funded(parts)
        with pytest.raises(Unavailable) as refused:
            await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))
        assert refused.value.code == "store_not_durable"
        assert (await balance_of(parts, payer)).available == 1_000_000


async def test_under_everysec_nothing_is_sent_before_the_intent_has_certainly_reached_the_disk(tmp_path: Path) -> None:
    with running_valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "everysec") as port:
        async with running_parts(f"redis://127.0.0.1:{port}/0") as parts:
            payer = await funded(parts)
            invoice = parts.wallet.add_invoice(amount_msat=1_000)
            task = asyncio.create_task(refund(parts, payer, invoice))
            began_at = asyncio.get_running_loop().time()
            payment_hash = decode(invoice).payment_hash
            while (await parts.node.track(payment_hash)).state == "unknown":
                await asyncio.sleep(0.05)
            waited_s = asyncio.get_running_loop().time() - began_at
            assert (await task).state is RefundState.PAID
            assert waited_s >= parts.refund_policy.durable_after_ms / 1_000 - 0.05


async def test_an_intent_of_another_run_of_the_store_is_written_anew_before_it_is_sent(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "hold")
    await parts.refunds.advance(begun.at(RefundState.HELD, run_id="another"), expected=RefundState.INTENDED)
    await until(parts, begun, RefundState.PAID)
    ended = await parts.refunds.find(begun.payment_hash)
    assert ended is not None
    assert ended.run_id == begun.run_id
    assert (await balance_of(parts, payer)).posted == 100_000


async def test_a_refund_at_an_old_rate_is_held_at_the_new_one(parts: Parts) -> None:
    payer = await funded(parts)
    await parts.ledger.credit("other", payer.account, 1_000, unit=Unit.MSAT, rate=Rate(7), source="lightning")
    assert parts.crediting.known_rate(payer) == RATE
    done = await refund(parts, payer, parts.wallet.add_invoice(amount_msat=100_000))
    assert done.state is RefundState.PAID
    assert parts.crediting.known_rate(payer) == Rate(7)


async def test_a_token_that_was_not_paid_on_a_credited_account_needs_a_challenge(parts: Parts) -> None:
    payer = await funded(parts)
    top_up = await parts.challenger.challenge("192.0.2.1", top_up_of=payer.top_up_of)
    parts.simulated.accept(top_up.payment_hash)
    unpaid = parts.payer(shown(top_up.macaroon, parts.simulated.preimage(top_up.payment_hash)))
    outcome = await parts.refunder.refund(unpaid, parts.wallet.add_invoice(amount_msat=1_000))
    assert isinstance(outcome, NeedsChallenge)
    assert await parts.refunds.unfinished() == []


async def test_a_refund_that_another_worker_drives_is_told_as_it_stands(parts: Parts) -> None:
    payer = await funded(parts)
    invoice = parts.wallet.add_invoice(amount_msat=100_000)
    payment_hash = decode(invoice).payment_hash
    await parts.refunds.lock(payment_hash, "another", life_ms=60_000)
    assert (await refund(parts, payer, invoice)).state is RefundState.INTENDED
    assert (await parts.node.track(payment_hash)).state == "unknown"
    await parts.refunds.unlock(payment_hash, "another")
    assert (await refund(parts, payer, invoice)).state is RefundState.PAID


async def test_a_frozen_account_and_a_changed_balance_say_so(parts: Parts) -> None:
    payer = await funded(parts)
    invoice = parts.wallet.add_invoice(amount_msat=900_000)
    begun = await parts.refunder._intent(payer, invoice)
    assert isinstance(begun, Refund)
    placed = await parts.place(payer, 500_000, "ffee")
    assert isinstance(placed, Placed)
    with pytest.raises(InvalidRequest):
        await refund(parts, payer, invoice)
    await parts.ledger.void(placed.hold_id, account=payer.account)
    await parts.ledger.freeze(payer.account)
    with pytest.raises(Unavailable) as refused:
        await refund(parts, payer, invoice)
    assert refused.value.code == "frozen"
    await parts.ledger.unfreeze(payer.account)
    assert (await refund(parts, payer, invoice)).state is RefundState.PAID


async def test_a_hold_that_is_gone_and_cannot_be_placed_again_sends_nothing(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "hold")
    await parts.refunds.advance(begun.at(RefundState.HELD, run_id="another"), expected=RefundState.INTENDED)
    await parts.ledger.void(begun.hold_id, account=begun.account)
    await parts.refunder.sweep()
    assert (await parts.node.track(begun.payment_hash)).state == "unknown"
    parts.clock.ahead_s = 100_000
    await until(parts, begun, RefundState.FAILED)
    assert (await balance_of(parts, payer)).available == 1_000_000


async def test_an_intent_that_never_becomes_durable_is_not_sent(parts: Parts) -> None:
    without_waiting(parts)
    parts.refund_policy = replace(parts.refund_policy, answer_within_s=10.0)
    await parts.link.command("CONFIG", "SET", "appendfsync", "everysec", key="")
    try:
        payer = await funded(parts)
        begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "hold")
        await parts.refunds.advance(begun.at(RefundState.HELD), expected=RefundState.INTENDED)
        parts.refund_policy = replace(parts.refund_policy, durable_after_ms=-1_000)
        await parts.link.command("CONFIG", "SET", "appendonly", "no", key="")
        await parts.refunder.sweep()
        assert (await parts.node.track(begun.payment_hash)).state == "unknown"
    finally:
        await parts.link.command("CONFIG", "SET", "appendfsync", "always", key="")
        await parts.link.command("CONFIG", "SET", "appendonly", "yes", key="")


async def test_a_payment_that_went_through_after_it_was_given_up_is_still_charged(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "payment")
    await parts.ledger.void(begun.hold_id, account=begun.account)
    await until(parts, begun, RefundState.PAID)
    balance = await balance_of(parts, payer)
    assert (balance.available, balance.held) == (900_000, 0)


async def test_a_refund_whose_hold_was_charged_and_forgotten_is_not_charged_again(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "post")
    key = f"{{p{payer.token[:2]}}}h:{begun.hold_id}"
    assert await parts.link.command("DEL", key, key=key) == 1
    await until(parts, begun, RefundState.PAID)
    assert (await balance_of(parts, payer)).posted == 100_000


async def test_a_refund_whose_hold_another_has_charged_otherwise_is_left_for_a_person(parts: Parts) -> None:
    without_waiting(parts)
    payer = await funded(parts)
    paid = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "payment")
    unpaid = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "hold")
    await parts.refunds.advance(unpaid.at(RefundState.HELD), expected=RefundState.INTENDED)
    for one in (paid, unpaid):
        await parts.ledger.post(one.hold_id, 7, account=one.account)
    parts.clock.ahead_s = 100_000
    await parts.refunder.sweep()
    assert len(await parts.refunds.unfinished()) == 2


async def test_refunds_are_seen_through_in_the_background_also_when_node_and_store_are_away(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flows.refunding.SWEEP_PAUSE_S", 0.01)
    without_waiting(parts)
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "intent")
    parts.simulated.faults.refuse = frozenset({"*"})
    task = asyncio.create_task(parts.refunder.see_through())
    try:
        await asyncio.sleep(0.1)
        parts.simulated.faults.refuse = frozenset()
        async with asyncio.timeout(10):
            while (found := await parts.refunds.find(begun.payment_hash)) and found.state is not RefundState.PAID:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    assert (await balance_of(parts, payer)).posted == 100_000


async def test_always_is_believed_only_where_rewrites_do_not_suspend_it(parts: Parts) -> None:
    account = "tk_7f" + "00" * 31
    before = await parts.refunds.durability(account)
    assert (before.always, before.never) == (True, False)
    await parts.link.command("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes", key="")
    try:
        assert not (await parts.refunds.durability(account)).always
    finally:
        await parts.link.command("CONFIG", "SET", "no-appendfsync-on-rewrite", "no", key="")


async def test_a_store_that_hides_its_configuration_is_given_time(tmp_path: Path) -> None:
    hidden = ("--appendonly", "yes", "--rename-command", "CONFIG", "")
    with running_valkey(tmp_path, *hidden) as port:
        async with running_parts(f"redis://127.0.0.1:{port}/0") as parts:
            durability = await parts.refunds.durability("tk_7f" + "00" * 31)
            assert (durability.always, durability.never) == (False, False)
            payer = await funded(parts)
            done = await refund(parts, payer, parts.wallet.add_invoice(amount_msat=1_000))
            assert done.state is RefundState.PAID


async def test_an_unknown_refund_does_not_advance(parts: Parts) -> None:
    payer = await funded(parts)
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "intent")
    with pytest.raises(ValueError, match="no such refund"):
        await parts.refunds.advance(replace(begun, payment_hash=bytes(32)), expected=RefundState.INTENDED)


async def test_a_retry_waits_for_its_time(parts: Parts) -> None:
    without_waiting(parts)
    parts.refund_policy = replace(parts.refund_policy, first_retry_s=60.0, greatest_retry_s=60.0)
    payer = await funded(parts)
    parts.simulated.faults.fail_payments = "NO_ROUTE"
    begun = await half_done(parts, payer, parts.wallet.add_invoice(amount_msat=100_000), "intent")
    await parts.refunder.sweep()
    parts.simulated.faults.fail_payments = ""
    await parts.refunder.sweep()
    found = await parts.refunds.find(begun.payment_hash)
    assert found is not None
    assert found.state is RefundState.HELD
    parts.clock.ahead_s = 61
    await parts.refunder.sweep()
    found = await parts.refunds.find(begun.payment_hash)
    assert found is not None
    assert found.state is RefundState.PAID


async def test_a_worker_that_comes_late_finds_the_refund_ended_and_sends_nothing(parts: Parts) -> None:
    payer = await funded(parts)
    begun = await refunder_intent(parts, payer)
    stale = replace(begun, run_id="another")
    assert (await refund(parts, payer, begun.payment_request)).state is RefundState.PAID
    late, refused = await parts.refunder._payouts.drive(stale)
    assert (late.state, refused) == (RefundState.PAID, None)
    assert await parts.refunder._payouts._until_durable(stale.at(RefundState.HELD)) is None
    assert (await balance_of(parts, payer)).posted == 100_000


async def refunder_intent(parts: Parts, payer: VerifiedPayer) -> Refund:
    begun = await parts.refunder._intent(payer, parts.wallet.add_invoice(amount_msat=100_000))
    assert isinstance(begun, Refund)
    return begun


async def test_a_rate_that_never_rests_ends_in_a_conflict(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unmended(*_: object) -> Rate:
        return RATE

    monkeypatch.setattr(parts.refunder, "_mend", unmended)
    payer = await funded(parts)
    await parts.ledger.credit("other", payer.account, 1_000, unit=Unit.MSAT, rate=Rate(7), source="lightning")
    with pytest.raises(Conflict):
        await refund(parts, payer, parts.wallet.add_invoice(amount_msat=100_000))
    assert await parts.refunds.unfinished() == []


async def test_a_listed_refund_without_a_record_is_passed_over(parts: Parts) -> None:
    key = "refund:{p00}:unfinished"
    await parts.link.command("ZADD", key, 1, "ab" * 32, key=key)
    assert await parts.refunder.sweep() == 1


async def until(parts: Parts, begun: Refund, state: RefundState) -> None:
    async with asyncio.timeout(20):
        while True:
            await parts.refunder.sweep()
            current = await parts.refunds.find(begun.payment_hash)
            assert current is not None
            if current.state is state:
                return
            await asyncio.sleep(0.02)
