"""What may be refunded, and when a refund may be sent or given up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.core.holds import partition_of
from gateway.core.refunds import (
    Durability,
    Refund,
    RefundPolicy,
    RefundState,
    amount_of_rest,
    check_invoice,
    fee_limit_msat,
    is_durable,
    may_give_up,
    refund_members,
)

POLICY = RefundPolicy()
REFUND = Refund(
    payment_hash=b"\xab" * 32, payment_request="lnbcrt1", destination="02", account="tk_7f" + "00" * 31, token_id="7f",
    credit_id="01", amount_msat=5_000, fee_limit_msat=100, rate_microusd_per_btc=1, expires_at_s=1_000,
    names_amount=True, state=RefundState.HELD, written_at_ms=10_000, run_id="r1",
)  # fmt: skip


@given(st.integers(0, 10**15), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_rest_is_the_greatest_amount_that_fits_with_its_fee(available: int, base: int, ppm: int) -> None:
    policy = RefundPolicy(base_fee_msat=base, fee_ppm=ppm)
    amount = amount_of_rest(policy, available)
    assert amount == 0 or amount + fee_limit_msat(policy, amount) <= available
    assert amount + 2 + fee_limit_msat(policy, amount + 2) > available


def test_a_refund_has_one_hold_in_its_accounts_partition() -> None:
    assert partition_of(REFUND.hold_id) == 0x7F
    assert REFUND.hold_id == replace(REFUND, amount_msat=1).hold_id
    assert REFUND.greatest_cost_msat == 5_100


def test_an_intent_is_durable_under_always_or_after_a_while_on_the_same_run() -> None:
    young = Durability(always=False, never=False, now_ms=10_000 + POLICY.durable_after_ms - 1, run_id="r1")
    old = replace(young, now_ms=10_000 + POLICY.durable_after_ms)
    assert not is_durable(REFUND, young, POLICY)
    assert is_durable(REFUND, old, POLICY)
    assert is_durable(REFUND, replace(young, always=True), POLICY)
    assert not is_durable(REFUND, replace(old, run_id="r2"), POLICY)
    assert not is_durable(REFUND, replace(old, always=True, run_id="r2"), POLICY)
    assert not is_durable(REFUND, replace(old, never=True), POLICY)


def test_a_refund_is_given_up_only_behind_its_invoices_expiry_and_a_margin() -> None:
    last = REFUND.expires_at_s + POLICY.expiry_margin_s
    assert not may_give_up(REFUND, POLICY, now_s=last)
    assert may_give_up(REFUND, POLICY, now_s=last + 1)


@pytest.mark.parametrize(("life_s", "cltv"), [(0, 80), (-5, 80), (POLICY.greatest_life_s + 1, 80), (600, 2_000)])
def test_an_invoice_that_cannot_be_paid_safely_is_refused(life_s: int, cltv: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_invoice(POLICY, expires_at_s=1_000 + life_s, final_cltv_delta=cltv, now_s=1_000)
    assert refused.value.param == "payment_request"


def test_an_ordinary_invoice_is_accepted() -> None:
    check_invoice(POLICY, expires_at_s=4_600, final_cltv_delta=80, now_s=1_000)


@pytest.mark.parametrize(
    ("state", "told", "refunded"),
    [
        (RefundState.INTENDED, "in_flight", 0),
        (RefundState.HELD, "in_flight", 0),
        (RefundState.PAID, "paid", 5_000),
        (RefundState.FAILED, "failed", 0),
        (RefundState.REFUSED, "failed", 0),
    ],
)
def test_the_answer_tells_one_of_three_states(state: RefundState, told: str, refunded: int) -> None:
    members = refund_members(REFUND.at(state, fee_msat=7))
    assert members["state"] == told
    assert members["refunded_msat"] == refunded
    assert members["fee_msat"] == (7 if told == "paid" else 0)
    assert members["payment_hash"] == "ab" * 32
