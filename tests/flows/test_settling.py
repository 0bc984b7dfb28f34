"""A posting is bounded by what the request can cost, whatever its upstream reports."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from gateway.core.facts import RequestFacts
from gateway.core.holds import Posted
from gateway.core.money import NO_RATE, Unit
from gateway.core.price_cards import Band, PriceCard, TokenPrices
from gateway.core.terms import Terms
from gateway.core.usage import Basis, Usage
from gateway.flows.settling import Settler, Work

# One nanousd a token of input, two a token of output.
PRICES = TokenPrices(
    input=1_000, cached_input=1_000, cache_write=1_000, cache_write_1h=1_000, output=2_000, reasoning=2_000
)
BANDS = (Band(-1, PRICES),)
CARD = PriceCard(
    provider="p",
    model="m",
    bands=BANDS,
    bounds=MappingProxyType({"": BANDS}),
    tools=MappingProxyType({"search": 5_000}),
)


FACTS = RequestFacts("m", stream=True, shows_all=True, input_bound_tokens=100, tools=(("search", 1),))


class Book:
    """Posts whatever it is told."""

    async def post(self, _hold_id: str, cost: int, *, account: str, outcome: bytes = b"") -> Posted:
        assert account and outcome
        return Posted("posted", cost, 0, 0)


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        (Usage(input_tokens=90, output_tokens=10), 110),
        (Usage(input_tokens=99_000_000, output_tokens=10), 125),
        (Usage(input_tokens=100, output_tokens=10, cached_input_tokens=10**9, cache_write_tokens=10**9), 120),
        (Usage(input_tokens=100, output_tokens=10, tool_calls=(("search", 10**8),)), 125),
    ],
    ids=["honest", "input", "cache", "tools"],
)
async def test_no_report_charges_more_than_the_request_can_cost(usage: Usage, charged: int) -> None:
    terms = Terms(CARD, FACTS, Unit.NANOUSD, NO_RATE)
    work = Work("req_00", "ho_00", "tk_00", terms, 1_000_000, 0)
    await Settler(Book(), None).post(work, usage, Basis.REPORTED)  # type: ignore[arg-type]
    assert work.cost == charged <= terms.bound(usage.output_tokens)
