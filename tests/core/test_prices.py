"""Prices are exact, never free by omission, bounded before the call, and agree with the book they come from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers
from hypothesis import given, settings
from hypothesis import strategies as st
from price_corpus import GOLDEN, JULY_S, MAY_S, corpus_book

from gateway.adapters.genai_book import default_book
from gateway.core.facts import RequestFacts
from gateway.core.money import Rate, Unit, amount_of
from gateway.core.price_cards import PriceCard
from gateway.core.price_entries import Always, Daily, From, holds, next_change_s, picousd_up, ppm_up
from gateway.core.prices import (
    UNBOUNDED_TOKENS,
    PriceBook,
    bills,
    bound_picousd,
    cost_picousd,
    flat_card,
    output_tokens_bought,
    steps,
)
from gateway.core.usage import Usage

CORPUS = corpus_book()
BOOK = PriceBook(default_book())
NOVEMBER_S = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def card_of(model: str, *, book: PriceBook = CORPUS, provider: str = "acme", now_s: float = JULY_S) -> PriceCard:
    card = book.card(provider, model, now_s)
    assert card is not None, model
    return card


@pytest.mark.parametrize(("what", "model", "usage", "picousd"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_the_golden_corpus_costs_what_was_computed_by_hand(what: str, model: str, usage: Usage, picousd: int) -> None:
    assert cost_picousd(card_of(model), usage) == picousd


def test_the_margin_is_put_on_once_and_rounded_up_once() -> None:
    plain, dated = card_of("plain"), card_of("dated")
    assert (plain.margin_ppm, dated.margin_ppm) == (1_100_000, 2_000_000)
    cost = cost_picousd(plain, Usage(input_tokens=1_001, output_tokens=100))
    # 3,502,500,000 picousd * 1.1 = 3,852,750 nanousd
    assert amount_of(cost, margin_ppm=plain.margin_ppm, unit=Unit.NANOUSD, rate=Rate(0)) == 3_852_750


def test_a_dated_price_holds_until_the_next_one() -> None:
    may, july = card_of("dated", now_s=MAY_S), card_of("dated", now_s=JULY_S)
    june_s = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    assert (may.bands[0].prices.input, may.holds_until_s) == (1_000_000, june_s)
    assert (july.bands[0].prices.input, july.holds_until_s) == (3_000_000, float("inf"))
    assert card_of("dated", now_s=june_s - 0.001).bands[0].prices.input == 1_000_000
    assert card_of("dated", now_s=june_s).bands[0].prices.input == 3_000_000


def test_before_its_first_day_a_model_has_no_price() -> None:
    assert corpus_book().card("acme", "plain", datetime(2025, 12, 31, tzinfo=UTC).timestamp()) is None


def test_a_model_is_known_by_its_aliases_in_any_case_and_by_no_other_name() -> None:
    for name in ("plain", "PLAIN", "plain-2026-01-01", "acme/plain"):
        assert card_of(name).model == "plain"
    for name in ("plainer", "", "x" * 10_000):
        assert CORPUS.card("acme", name, JULY_S) is None
    assert CORPUS.card("nobody", "plain", JULY_S) is None


def test_names_of_strangers_are_not_remembered_without_end() -> None:
    book = corpus_book()
    for number in range(10_000):
        assert book.card("acme", f"stranger-{number}", JULY_S) is None
    assert len(book._cards) <= 4_096


def test_an_own_price_stands_before_the_default_book_under_every_name_of_the_model() -> None:
    from gateway.config_reader import load_yaml, read
    from gateway.price_files import PriceFile, own_providers

    text = """
provider: openai
margin: "1.5"
models:
  - model: gpt-4o
    prices: [{from_date: 2026-06-01, source: t, checked: 2026-06-01, input_usd_per_mtok: "7", output_usd_per_mtok: "9"}]
"""
    files = {"openai.yaml": read(PriceFile, load_yaml(text, source="openai.yaml"))}
    book = PriceBook(default_book(), own_providers(files, []))
    dated = card_of("gpt-4o-2024-08-06", book=book, provider="openai")
    assert (dated.bands[0].prices.input, dated.model, dated.margin_ppm) == (7_000_000, "gpt-4o", 1_500_000)
    before = card_of("gpt-4o", book=book, provider="openai", now_s=MAY_S)
    assert before.bands[0].prices.input == 2_500_000, "before its first day the book's price holds"
    assert before.holds_until_s == datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    other = card_of("gpt-4.1", book=book, provider="openai")
    assert other.margin_ppm == 1_500_000, "the provider's margin is for the book's models too"


def test_the_provider_decides_where_a_name_stands_under_several() -> None:
    name = "deepseek-chat"
    prices = {each: BOOK.card(each, name, NOVEMBER_S) for each in ("deepseek", "openai")}
    assert prices["deepseek"] is not None
    assert prices["openai"] is None
    assert BOOK.canonical("openai", "gpt-4o-20240806") == "gpt-4o"


def test_hours_of_the_day_change_the_price_and_say_until_when_it_holds() -> None:
    def at(hour: int, minute: int) -> float:
        return datetime(2026, 11, 22, hour, minute, tzinfo=UTC).timestamp()

    night, day = (
        card_of("deepseek-chat", book=BOOK, provider="deepseek", now_s=at(*when)) for when in ((20, 0), (9, 0))
    )
    assert (night.bands[0].prices.input, day.bands[0].prices.input) == (135_000, 270_000)
    assert day.holds_until_s == at(16, 30)
    assert night.holds_until_s == at(0, 30) + 86_400


def test_conditions_hold_and_change_at_their_instants() -> None:
    over_midnight = Daily(79_200, 7_200)
    assert [holds(over_midnight, hour * 3_600) for hour in (21, 22, 23, 0, 1, 2)] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    assert next_change_s([over_midnight], 3 * 3_600) == 79_200
    assert next_change_s([From(10), From(20)], 10) == 20
    assert next_change_s([From(10)], 10) is None
    assert next_change_s([Always()], 10) is None and holds(Always(), 0)


def test_prices_and_margins_are_rounded_up_and_never_negative() -> None:
    assert picousd_up(Decimal("0.0000000000001")) == 1
    assert picousd_up(Decimal("0.36"), per=3_600) == 100_000_000
    assert ppm_up(Decimal("1.0000001")) == 1_000_001
    with pytest.raises(ValueError, match="never negative"):
        picousd_up(Decimal(-1))


def test_short_audio_is_billed_at_the_least_time_of_the_provider() -> None:
    card = card_of("whisper-large-v3", book=BOOK, provider="groq", now_s=NOVEMBER_S)
    assert card.second is not None
    assert cost_picousd(card, Usage(audio_ms=1)) == card.second * 10
    assert bound_picousd(card, RequestFacts("m", audio_ms_bound=1), 0) == card.second * 10
    assert cost_picousd(card, Usage()) == 0


def test_a_flat_card_costs_the_same_whatever_was_used() -> None:
    card = flat_card(1_000, name="r")
    assert cost_picousd(card, Usage(input_tokens=10**6, images=3)) == 1_000
    assert bound_picousd(card, RequestFacts("m", input_bound_tokens=10**6), 10**6) == 1_000
    assert output_tokens_bought(card, RequestFacts("m"), 999) == -1
    assert output_tokens_bought(card, RequestFacts("m"), 1_000) > 10**9
    rule = CORPUS.rule("search")
    assert rule is not None and (rule.call, rule.margin_ppm) == (10**9, 1_000_000)
    assert CORPUS.rule("other") is None


def test_a_model_that_prices_nothing_of_a_request_does_not_bill_it() -> None:
    chat = RequestFacts("m", input_bound_tokens=100)
    assert not bills(card_of("listener"), chat)
    assert not bills(card_of("speaker"), chat)
    assert not bills(card_of("easel"), chat)
    assert bills(card_of("listener"), RequestFacts("m", audio_ms_bound=1))
    assert bills(card_of("speaker"), RequestFacts("m", characters=1))
    assert bills(card_of("easel"), RequestFacts("m", images=1))
    assert bills(card_of("plain"), chat) and bills(card_of("fee"), chat) and bills(flat_card(0, name="free"), chat)


def test_a_request_steps_where_its_length_or_tier_may_change_its_price() -> None:
    short, over = RequestFacts("m", input_bound_tokens=200_000), RequestFacts("m", input_bound_tokens=200_001)
    assert (steps(card_of("long"), short), steps(card_of("long"), over)) == (False, True)
    assert not steps(card_of("tiered"), short)
    assert steps(card_of("tiered"), RequestFacts("m", service_tier="auto"))
    assert card_of("long").prices_step and card_of("tiered").prices_step and not card_of("plain").prices_step


def test_the_bound_is_the_dearest_that_may_apply() -> None:
    def bound(model: str, **facts: Any) -> int:
        return bound_picousd(card_of(model), RequestFacts("m", **facts), 0)

    assert bound("cached", input_bound_tokens=10) == 10 * 6_000_000, "a cache write of an hour is dearer than input"
    assert bound("long", input_bound_tokens=300_000) == 300_000 * 2_500_000
    assert bound("tiered", input_bound_tokens=10) == 10 * 2_000_000
    assert bound("tiered", input_bound_tokens=10, service_tier="flex") == 10 * 2_000_000
    assert bound("tiered", input_bound_tokens=10, service_tier="priority") == 10 * 3_500_000
    assert bound("tiered", input_bound_tokens=10, service_tier="auto") == 10 * 3_500_000
    assert bound("tiered", input_bound_tokens=10, service_tier="unheard-of") == 10 * 3_500_000
    assert bound("cached", tools=(("web_search", 2),)) == 2 * 10**10
    assert bound("voice", input_bound_tokens=10, input_audio_bound_tokens=4) == 6 * 4_000_000 + 4 * 32_000_000


FIXED_CARDS = [card_of(name) for name in CORPUS.models("acme")]
FIXED_CARDS += [
    card
    for provider in ("openai", "anthropic", "google", "groq", "perplexity")
    for model in BOOK.models(provider)
    if (card := BOOK.card(provider, model, NOVEMBER_S)) is not None
]
_small = st.integers(0, 3_000)


@st.composite
def requests(draw: st.DrawFn) -> tuple[PriceCard, RequestFacts, Usage]:
    """A card, facts, and a usage that the facts bound."""
    card = draw(st.sampled_from(FIXED_CARDS))
    scale = draw(st.sampled_from([1, 200]))
    facts = RequestFacts(
        model="m",
        input_bound_tokens=draw(_small) * scale,
        service_tier=draw(st.sampled_from([None, "auto", "default", "flex", "priority", "other"])),
        tools=draw(st.sampled_from([(), (("web_search", 3),), (("file_search", 1), ("unknown", 2))])),
        images=draw(st.integers(0, 3)),
        characters=draw(st.integers(0, 100)),
        audio_ms_bound=draw(_small),
        audio_output=draw(st.booleans()),
        image_output=draw(st.booleans()),
    )
    total = draw(st.integers(0, facts.input_bound_tokens))
    audio_bound = draw(st.integers(0, facts.input_bound_tokens))
    output = draw(_small)
    tier = {None: None, "default": "default", "other": "priority"}.get(facts.service_tier, facts.service_tier)
    usage = Usage(
        input_tokens=total,
        cached_input_tokens=draw(_small),
        cache_write_tokens=draw(_small),
        cache_write_1h_tokens=draw(_small),
        input_audio_tokens=draw(st.integers(0, audio_bound)),
        cached_input_audio_tokens=0,
        input_image_tokens=draw(_small),
        input_video_tokens=draw(_small),
        output_tokens=output,
        reasoning_tokens=draw(_small),
        output_audio_tokens=draw(_small) if facts.audio_output else 0,
        output_image_tokens=draw(_small) if facts.image_output else 0,
        output_video_tokens=draw(_small) if facts.image_output else 0,
        audio_ms=draw(st.integers(0, facts.audio_ms_bound)),
        characters=draw(st.integers(0, facts.characters)),
        images=draw(st.integers(0, facts.images)),
        tool_calls=tuple((name, draw(st.integers(0, most))) for name, most in facts.tools),
        service_tier=draw(st.sampled_from([None, tier, "weird"])) if tier != "auto" else "priority",
    )
    return card, RequestFacts(**{**_members(facts), "input_audio_bound_tokens": audio_bound}), usage


def _members(facts: RequestFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__struct_fields__}


@settings(max_examples=400, deadline=None)
@given(requests())
def test_no_usage_costs_more_than_its_bound(case: tuple[PriceCard, RequestFacts, Usage]) -> None:
    card, facts, usage = case
    assert cost_picousd(card, usage) <= bound_picousd(card, facts, usage.output_tokens)


@settings(max_examples=200, deadline=None)
@given(requests(), st.integers(0, 10**15))
def test_the_output_that_an_amount_buys_is_the_greatest_whose_bound_is_within_it(
    case: tuple[PriceCard, RequestFacts, Usage], picousd: int
) -> None:
    card, facts, _ = case
    bought = output_tokens_bought(card, facts, picousd)
    if bought >= 0:
        assert bound_picousd(card, facts, bought) <= picousd
    assert bought <= UNBOUNDED_TOKENS
    if bought < UNBOUNDED_TOKENS:
        assert bound_picousd(card, facts, bought + 1) > picousd


# Their key of a price -> their usage and ours. What a model does not price is left out of the usage.
_PARTS = {
    "cache_read_mtok": ("cache_read_tokens", "cached_input_tokens"),
    "cache_write_mtok": ("cache_write_tokens", "cache_write_tokens"),
    "cache_write_1h_mtok": ("cache_write_1h_tokens", "cache_write_1h_tokens"),
    "input_audio_mtok": ("input_audio_tokens", "input_audio_tokens"),
    "cache_audio_read_mtok": ("cache_audio_read_tokens", "cached_input_audio_tokens"),
    "input_image_mtok": ("input_image_tokens", "input_image_tokens"),
    "input_video_mtok": ("input_video_tokens", "input_video_tokens"),
    "output_reasoning_mtok": ("output_reasoning_tokens", "reasoning_tokens"),
    "output_audio_mtok": ("output_audio_tokens", "output_audio_tokens"),
    "output_image_mtok": ("output_image_tokens", "output_image_tokens"),
    "output_video_mtok": ("output_video_tokens", "output_video_tokens"),
}


def _random_usage(priced: set[str], chance: random.Random) -> tuple[dict[str, int], dict[str, int]]:
    """The same usage in their words and in ours: parts that exist in the prices, never more than their totals."""
    parts = {key: chance.randrange(5_000) for key in _PARTS if key in priced}
    parts["cache_write_1h_mtok"] = min(parts.get("cache_write_1h_mtok", 0), parts.get("cache_write_mtok", 0))
    both = min(parts.get("cache_read_mtok", 0), parts.get("input_audio_mtok", 0))
    parts["cache_audio_read_mtok"] = min(parts.get("cache_audio_read_mtok", 0), both)
    input_parts = ("cache_read_mtok", "cache_write_mtok", "input_audio_mtok", "input_image_mtok", "input_video_mtok")
    total_in = sum(parts.get(key, 0) for key in input_parts) + chance.choice([0, 7, 3_000, 190_000, 300_000])
    total_out = sum(parts.get(key, 0) for key in parts if key.startswith("output")) + chance.randrange(5_000)
    known = {key: value for key, value in parts.items() if key in priced}
    theirs = {_PARTS[key][0]: value for key, value in known.items()} | {"input_tokens": total_in}
    ours = {_PARTS[key][1]: value for key, value in known.items()} | {"input_tokens": total_in}
    if "cache_image_read_mtok" in priced:
        theirs["cache_image_read_tokens"] = 0  # ours tells an overlap of images and cache by the total
    if "output_mtok" in priced:
        theirs["output_tokens"] = ours["output_tokens"] = total_out
    return theirs, ours


_UNCOUNTED = frozenset({"audio_hours", "input_audio_hours", "input_mchars", "input_document_kpages",
                        "input_annotated_document_kpages", "input_text_messages_kcount"})  # fmt: skip


def _priced_models() -> Iterator[tuple[genai.Provider, genai.ModelInfo]]:
    for provider in genai_providers:
        for model in provider.models:
            found = provider.find_model(model.id)
            if found is model:
                yield provider, model


@pytest.mark.parametrize("now", [datetime(2026, 11, 22, 3, tzinfo=UTC), datetime(2025, 3, 1, 17, tzinfo=UTC)])
def test_every_model_of_the_book_costs_what_the_book_says_within_a_picousd_a_unit(now: datetime) -> None:
    chance, compared = random.Random(7), 0
    for provider, model in _priced_models():
        price = model.get_prices(now)
        priced = {key for key, value in vars(price).items() if value is not None}
        card = BOOK.card(provider.id, model.id, now.timestamp())
        if not priced:
            assert card is None, (provider.id, model.id)
            continue
        if "input_mtok" not in priced:
            continue
        assert card is not None, (provider.id, model.id)
        for _ in range(2):
            theirs, ours = _random_usage(priced, chance)
            expected = price.calc_price(genai.Usage(**theirs))["total_price"] * 10**12
            cost = cost_picousd(card, Usage(**ours))  # type: ignore[arg-type]  # names of counts only
            assert 0 <= cost - expected <= sum(ours.values()), (provider.id, model.id, theirs)
            compared += 1
    assert compared > 2_000


def test_every_unit_of_the_book_is_one_that_we_know() -> None:
    from gateway.adapters.genai_export import _TOOLS, _UNITS

    known = {*_UNITS, *_TOOLS, *_UNCOUNTED, "output_citation_mtok"}
    for provider in genai_providers:
        for model in provider.models:
            listed = (
                [model.prices] if isinstance(model.prices, genai.ModelPrice) else [each.prices for each in model.prices]
            )
            for price in listed:
                assert set(vars(price)) <= known, (provider.id, model.id)
