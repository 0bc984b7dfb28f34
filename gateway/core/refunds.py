"""Leftovers paid back over Lightning: what a refund is, and when it may be sent, ended or given up.

Invariants: one refund per payment hash of its invoice, ever; nothing is sent before its intent is durable; money goes
back to the account only when the node says that the payment failed (or knows nothing of it) *and* the invoice has
expired, because until then a worker that was frozen in the middle may wake and send. An attempt never ends by a
timeout of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from gateway.core.errors import InvalidRequest
from gateway.core.money import ceil_div


class RefundState(StrEnum):
    """`intended` -> `held` -> `paid` or `failed`; `refused` before anything was held."""

    INTENDED = "intended"
    HELD = "held"
    PAID = "paid"
    FAILED = "failed"
    REFUSED = "refused"


UNFINISHED = frozenset({RefundState.INTENDED, RefundState.HELD})


@dataclass(frozen=True, slots=True)
class RefundPolicy:
    """Figures of refunds."""

    least_amount_msat: int = 1_000
    # A route costs a base fee and a share; what is not used stays the agent's.
    base_fee_msat: int = 10_000
    fee_ppm: int = 10_000
    # An invoice must live long enough to be paid, and not so long that its fence (its expiry) comes late.
    least_life_s: int = 30
    greatest_life_s: int = 90_000  # wallets write a day by default
    # 10 days of blocks: what a hold invoice can lock of our liquidity.
    cltv_limit: int = 1_440
    final_cltv_limit: int = 288
    in_flight_in_all: int = 64
    in_flight_per_destination: int = 4
    attempt_timeout_s: int = 30
    # Clocks of node and gateway differ, and a frozen attempt may still be on its way.
    expiry_margin_s: int = 60
    # Twice the interval of `appendfsync everysec`, and one second for the disk.
    durable_after_ms: int = 3_000
    # How long a caller waits for the outcome; the payment goes on without it.
    answer_within_s: float = 45.0
    first_retry_s: float = 5.0
    greatest_retry_s: float = 300.0
    # Ended refunds are told of for so long.
    retention_s: int = 90 * 86_400


@dataclass(frozen=True, slots=True)
class RefundCaps:
    """How many may be unfinished at once."""

    in_all: int
    per_destination: int


@dataclass(frozen=True, slots=True)
class TooManyRefunds:
    """A cap is reached."""

    per_destination: bool


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund. `written_at_ms` and `run_id` say when the last change was written, and by which run of the store."""

    payment_hash: bytes
    payment_request: str
    destination: str
    account: str
    token_id: str
    credit_id: str
    amount_msat: int
    fee_limit_msat: int
    rate_microusd_per_btc: int
    expires_at_s: int
    names_amount: bool  # False: the invoice leaves the amount to us
    state: RefundState = RefundState.INTENDED
    fee_msat: int = 0
    written_at_ms: int = 0
    run_id: str = ""

    @property
    def hold_id(self) -> str:
        """One hold per refund: the account's partition, then the payment hash."""
        partition = self.account.rpartition("_")[2][:2]
        return f"ho_{partition}{self.payment_hash.hex()[:30]}"

    @property
    def greatest_cost_msat(self) -> int:
        """What the hold reserves."""
        return self.amount_msat + self.fee_limit_msat

    def at(self, state: RefundState, **changes: Any) -> Refund:
        """The same refund, further on."""
        return replace(self, state=state, **changes)


@dataclass(frozen=True, slots=True)
class Durability:
    """What the store promises now. `always`: every acknowledged write is on disk. `never`: it keeps no append-only
    file."""

    always: bool
    never: bool
    now_ms: int
    run_id: str


def fee_limit_msat(policy: RefundPolicy, amount_msat: int) -> int:
    """The most that a payment of this amount may cost in fees."""
    return policy.base_fee_msat + ceil_div(amount_msat * policy.fee_ppm, 1_000_000)


def amount_of_rest(policy: RefundPolicy, available_msat: int) -> int:
    """The greatest amount that, with its fee limit, is within what is available; 0 when there is none."""
    rest = max(available_msat - policy.base_fee_msat, 0)
    return rest * 1_000_000 // (1_000_000 + policy.fee_ppm)


def check_invoice(policy: RefundPolicy, *, expires_at_s: int, final_cltv_delta: int, now_s: int) -> None:
    """Refuse an invoice that cannot be paid safely. Errors: InvalidRequest."""
    life_s = expires_at_s - now_s
    if not policy.least_life_s <= life_s <= policy.greatest_life_s:
        raise InvalidRequest(
            f"The invoice must expire between {policy.least_life_s} and {policy.greatest_life_s} seconds from now.",
            param="payment_request",
        )
    if final_cltv_delta > policy.final_cltv_limit:
        raise InvalidRequest(
            f"The invoice asks for a final lock of more than {policy.final_cltv_limit} blocks.", param="payment_request"
        )


def is_durable(refund: Refund, durability: Durability, policy: RefundPolicy) -> bool:
    """Whether the refund's record has certainly reached the disk. A round trip that says so is no proof; the same run
    of the store, two fsync intervals later, is."""
    if durability.never or durability.run_id != refund.run_id:
        return False
    return durability.always or durability.now_ms - refund.written_at_ms >= policy.durable_after_ms


def may_give_up(refund: Refund, policy: RefundPolicy, *, now_s: int) -> bool:
    """Whether a payment that the node calls failed or does not know can no longer be sent by anybody."""
    return now_s > refund.expires_at_s + policy.expiry_margin_s


def refund_members(refund: Refund) -> dict[str, Any]:
    """The body of the answer."""
    paid = refund.state is RefundState.PAID
    states = {RefundState.PAID: "paid", RefundState.FAILED: "failed", RefundState.REFUSED: "failed"}
    return {
        "refunded_msat": refund.amount_msat if paid else 0,
        "fee_msat": refund.fee_msat if paid else 0,
        "payment_hash": refund.payment_hash.hex(),
        "state": states.get(refund.state, "in_flight"),
    }
