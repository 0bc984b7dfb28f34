"""Which approval a piece of work takes, by the most it may cost. Order: hard limits, allowance, tier.

`policies/approvals.yaml` holds the figures. Amounts are nanousd.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.directory import encoded
from gateway.core.holds import ScopeClaim
from gateway.core.money import NANOUSD_PER_USD
from gateway.core.quotes import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalPolicy:
    """`auto_most`: up to here nobody is asked; `explicit_most`: up to here a yes is enough, above it takes a step-up.
    `cumulative_most`: what one payer may spend automatically within `cumulative_window_s`, splitting or not. A request
    that names no output limit is capped at `auto_most` instead of being asked about, as long as that buys
    `least_auto_tokens`."""

    auto_most: int = NANOUSD_PER_USD
    explicit_most: int = 20 * NANOUSD_PER_USD
    two_persons_above: int | None = None
    cumulative_most: int = 20 * NANOUSD_PER_USD
    cumulative_window_s: int = 3_600
    least_auto_tokens: int = 1_024
    notify_above: int | None = None  # charges above it that nobody was asked about are told by webhook; None: none
    app_may_approve: bool = True  # an app key may say yes for the person it names, at the explicit tier
    step_up_methods: tuple[str, ...] = ("password", "otp", "passkey")
    quote_lifetime_s: int = 900
    mid_stream: str = "ask"  # ask | cut: at an approved maximum, the automatic cap, or a budget that says `ask`
    answer_within_s: int = 60
    ask_margin_tokens: int = 64  # what a stream that waits for an answer keeps held beside what it earned
    expected_output_ppm: int = 250_000  # of the most output tokens: what is expected until something is learned
    prior_confidence: float = 0.5  # how sure that is


def tier_of(policy: ApprovalPolicy, most: int) -> Tier:
    """The tier of work that may cost `most`."""
    if most <= policy.auto_most:
        return Tier.AUTO
    return Tier.EXPLICIT if most <= policy.explicit_most else Tier.STEP_UP


def automatic_scope(org_id: str, who: str) -> str:
    """The name of the counters of what one payer spends without being asked."""
    return f"{org_id}&automatic={encoded(who)}"


def cumulative_claims(policy: ApprovalPolicy, org_id: str, who: str, now_ms: int) -> tuple[ScopeClaim, ...]:
    """What an automatic charge reserves beside the money. Two windows of twice the length, one of them offset by half:
    every interval of the length lies wholly inside one of the two, so no splitting over a boundary gets round."""
    length_ms = policy.cumulative_window_s * 1_000
    scope = automatic_scope(org_id, who)
    claims = []
    for number in (now_ms // length_ms - 1, now_ms // length_ms):
        ends_at_ms = (number + 2) * length_ms
        window = f"a{number * length_ms // 1_000}"
        claims.append(ScopeClaim(scope, window, limit=policy.cumulative_most, window_ends_at_ms=ends_at_ms))
    return tuple(claims)
