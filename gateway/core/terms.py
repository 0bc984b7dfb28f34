"""What one request may cost, in the payer's unit: the bridge from facts and prices to a hold.

Sound by construction: `bound(n)` is never below the amount that any usage with n visible output tokens is charged, and
`tokens_bought(amount)` is the greatest n whose bound is within the amount. So a stream that stays within the tokens
that its hold bought never costs more than was reserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from gateway.core.facts import RequestFacts
from gateway.core.money import GREATEST_AMOUNT, Rate, Unit, amount_ratio
from gateway.core.prices import PriceCard, bound_parts_picousd, cost_picousd, tokens_within
from gateway.core.usage import Usage


@dataclass(frozen=True, slots=True)
class HoldPolicy:
    """Figures of `policies/limits.yaml` that shape a hold; tokens are of output, over all choices."""

    first_step_tokens: int = 1_024
    greatest_step_tokens: int = 16_384  # extends double from the first step up to here
    unstreamed_ceiling_tokens: int = 4_096  # for requests that name no limit; spliced in as the limit
    stream_ceiling_tokens: int = 1_000_000  # a stream that names no limit never costs more than this many tokens
    floor_tokens: int = 16  # less than this is not worth an upstream call
    checkpoint_interval_s: float = 2.0
    hold_lifetime_s: float = 30.0
    hold_greatest_age_s: float = 3_600.0


class Amounts(NamedTuple):
    """What to reserve. `floor` <= `first` <= `ceiling`."""

    floor: int
    first: int
    ceiling: int


class Terms:
    """One request's prices in the payer's unit. Never changed once made; the parts of its bound are worked out once."""

    __slots__ = ("_each", "_fixed", "_per", "_times", "card", "facts", "rate", "unit")

    def __init__(self, card: PriceCard, facts: RequestFacts, unit: Unit, rate: Rate) -> None:
        self.card = card
        self.facts = facts
        self.unit = unit
        self.rate = rate
        self._fixed, self._each = bound_parts_picousd(card, facts)
        self._times, self._per = amount_ratio(margin_ppm=card.margin_ppm, unit=unit, rate=rate)

    def amount(self, usage: Usage) -> int:
        """The charge for a usage, rounded up once."""
        return -(-cost_picousd(self.card, usage) * self._times // self._per)

    def bound(self, output_tokens: int) -> int:
        """The most that the request costs with so many output tokens over all choices."""
        return -(-(self._fixed + output_tokens * self._each) * self._times // self._per)

    def tokens_bought(self, amount: int) -> int:
        """The greatest number of output tokens, over all choices, whose bound is within `amount`; -1 if not even
        zero."""
        return tokens_within((self._fixed, self._each), amount * self._per // self._times)

    def at_rate(self, rate: Rate) -> Terms:
        """The same request at another rate."""
        return Terms(self.card, self.facts, self.unit, rate)

    def with_card(self, card: PriceCard) -> Terms:
        """The same request at another model's prices."""
        return Terms(card, self.facts, self.unit, self.rate)

    def with_input(self, input_tokens: int) -> Terms:
        """The same request with its input counted exactly instead of bounded by its bytes."""
        if input_tokens >= self.facts.input_bound_tokens:
            return self
        facts = replace(self.facts, input_bound_tokens=input_tokens, input_counted=True)
        return Terms(self.card, facts, self.unit, self.rate)


def ceiling_tokens(facts: RequestFacts, policy: HoldPolicy) -> int:
    """The most output tokens over all choices that the request may bring."""
    limit = facts.output_limit_tokens
    if limit is None:
        limit = policy.stream_ceiling_tokens if facts.stream and facts.shows_all else policy.unstreamed_ceiling_tokens
    return limit * facts.choices


def amounts_of(terms: Terms, policy: HoldPolicy) -> Amounts:
    """What a hold for these terms reserves."""
    facts = terms.facts
    most = ceiling_tokens(facts, policy)
    ceiling = min(terms.bound(most), GREATEST_AMOUNT)
    if facts.session:
        return Amounts(ceiling, ceiling, max(min(terms.bound(policy.stream_ceiling_tokens), GREATEST_AMOUNT), ceiling))
    if not facts.limit_can_be_spliced and not facts.shows_all:
        return Amounts(ceiling, ceiling, ceiling)
    floor = min(terms.bound(min(most, policy.floor_tokens * facts.choices)), ceiling)
    if facts.stream and facts.shows_all:
        return Amounts(floor, min(terms.bound(min(most, policy.first_step_tokens)), ceiling), ceiling)
    return Amounts(floor, ceiling, ceiling)
