"""What a request is expected to cost, before it runs, and how it is told.

`least` and `most` are bounds: what the input and one token of output cost, and the ceiling that the hold is made for.
Between them stands a prior of the policy, with the confidence that the policy gives it; nothing is learned yet.
"""

from __future__ import annotations

from typing import Any

from gateway.core.approvals import ApprovalPolicy
from gateway.core.money import Unit, money_object, usd_string
from gateway.core.quotes import Estimate, Quote
from gateway.core.request_record import rfc3339
from gateway.core.terms import HoldPolicy, Terms, ceiling_tokens
from gateway.core.usage import Usage

# English text has about four bytes a token, and no vocabulary needs fewer than one token for eight; the bound counts
# one token a byte.
_BYTES_A_TOKEN, _MOST_BYTES_A_TOKEN = 4, 8


def estimate(terms: Terms, holding: HoldPolicy, policy: ApprovalPolicy, most: int, *, overhead_tokens: int) -> Estimate:
    """`most`: the hold's ceiling; `overhead_tokens`: what the input's bound has beside the body. All amounts are in the
    payer's unit."""
    facts = terms.facts
    seen = max(facts.input_bound_tokens - facts.unseen_input_tokens - overhead_tokens, 0)
    counted = facts.input_bound_tokens if facts.input_counted else None
    output = ceiling_tokens(facts, holding)
    if facts.output_limit_tokens is None:
        output = min(output, holding.unstreamed_ceiling_tokens)
    fewest = terms.with_input(counted if counted is not None else seen // _MOST_BYTES_A_TOKEN)
    likely = terms.with_input(counted if counted is not None else seen // _BYTES_A_TOKEN)
    # What else the bound stands for (pictures, seconds, fees) may come to nothing.
    least = min(fewest.amount(Usage(input_tokens=fewest.facts.input_bound_tokens)), most)
    expected = min(max(likely.bound(output * policy.expected_output_ppm // 1_000_000), least), most)
    return Estimate(least, expected, most, policy.prior_confidence)


def quote_header(quote_id: str, of: Estimate) -> bytes:
    """`Farebox-Quote` (RFC 9651 dictionary, money as strings)."""
    return (
        f'id="{quote_id}", min="{usd_string(of.least)}", expected="{usd_string(of.expected)}", '
        f'max="{usd_string(of.most)}", currency=USD, confidence={of.confidence:.2f}'
    ).encode()


def quote_object(quote: Quote) -> dict[str, Any]:
    """The `quote` member of a 402 that waits for an approval."""
    return {"id": quote.quote_id, **estimate_members(quote.estimate), "expires_at": rfc3339(quote.expires_at_ms)}


def estimate_members(of: Estimate) -> dict[str, Any]:
    """A range with its confidence."""
    return {
        "min": money_object(of.least, Unit.NANOUSD),
        "expected": money_object(of.expected, Unit.NANOUSD),
        "max": money_object(of.most, Unit.NANOUSD),
        "confidence": of.confidence,
    }
