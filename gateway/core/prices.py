"""What a usage costs, what a request can cost at most, and how much output an amount buys: exact sums of integers.

Invariants, for every card and every usage that the facts bound, with n output tokens over all choices:
`cost_picousd(card, usage) <= bound_picousd(card, facts, n)`, and `output_tokens_bought` is the greatest n whose bound
is within an amount. A bound is a fixed part plus n times the dearest output token, so the inverse is one division.

Units without a price are turned into tokens, at the most they can be: billing them at nothing would make them free.
"""

from __future__ import annotations

from gateway.core.facts import RequestFacts
from gateway.core.money import ceil_div
from gateway.core.price_book import PriceBook
from gateway.core.price_cards import PriceCard, TokenPrices, flat_card, prices_at
from gateway.core.usage import Usage

__all__ = [
    "PriceBook", "PriceCard", "bills", "bound_picousd", "cost_picousd", "flat_card", "output_tokens_bought", "steps",
]  # fmt: skip

# The most tokens that a second of audio is billed as (Gemini: 32; OpenAI: 10 in, 21 out).
AUDIO_TOKENS_PER_SECOND = 32
# The most output tokens of one image (6,240 for a large one of high quality), with room for partial ones.
IMAGE_TOKENS_EACH = 8_192
# A spoken character: its own token, and at most two of audio (15 characters a second are 1.4).
SPOKEN_TOKENS_PER_CHARACTER = 2
# Where output costs nothing, any amount buys this many tokens: above every limit, and within exact arithmetic.
UNBOUNDED_TOKENS = 10**12


def cost_picousd(card: PriceCard, usage: Usage) -> int:
    """The exact price of a usage, before margin."""
    if card.flat:
        return card.call
    prices = prices_at(card.served(usage.service_tier), usage.input_tokens)
    cost = card.call + _input_picousd(prices, usage) + _output_picousd(prices, usage)
    if usage.audio_ms or usage.characters or usage.images:
        cost += _other_units_picousd(card, prices, usage)
    if usage.tool_calls:
        dearest = max(card.tools.values(), default=0)
        cost += sum(count * card.tools.get(name, dearest) for name, count in usage.tool_calls)
    return cost


def bound_parts_picousd(card: PriceCard, facts: RequestFacts) -> tuple[int, int]:
    """What bounds the price of a request, before margin: a fixed part, and what each output token adds at most."""
    prices = prices_at(card.bounding(facts.service_tier), facts.input_bound_tokens)
    return _fixed_bound_picousd(card, prices, facts), 0 if card.flat else _dearest_output(prices, facts)


def bound_picousd(card: PriceCard, facts: RequestFacts, output_tokens: int) -> int:
    """The most that a request can cost, before margin, with so many output tokens over all choices."""
    fixed, each = bound_parts_picousd(card, facts)
    return fixed + output_tokens * each


def output_tokens_bought(card: PriceCard, facts: RequestFacts, picousd: int) -> int:
    """The greatest number of output tokens whose bound is within `picousd`; -1 when not even none is."""
    return tokens_within(bound_parts_picousd(card, facts), picousd)


def tokens_within(parts: tuple[int, int], picousd: int) -> int:
    """The same, of a bound's parts."""
    fixed, each = parts
    left = picousd - fixed
    if left < 0:
        return -1
    return min(left // each, UNBOUNDED_TOKENS) if each else UNBOUNDED_TOKENS


def bills(card: PriceCard, facts: RequestFacts) -> bool:
    """Whether the card has a price for anything that the request will be billed by. False: refuse it, it would be
    free."""
    return (
        card.flat
        or card.has_tokens
        or card.call > 0
        or (card.second is not None and facts.audio_ms_bound > 0)
        or (card.character is not None and facts.characters > 0)
        or (card.image is not None and facts.images > 0)
    )


def steps(card: PriceCard, facts: RequestFacts) -> bool:
    """Whether a token of this request may have one price or another: by the input's length, or by the tier that
    serves."""
    if card.tiers and (facts.service_tier or "").lower() == "auto":
        return True
    return any(0 <= band.above_input_tokens < facts.input_bound_tokens for band in card.bands)


def _input_picousd(prices: TokenPrices, usage: Usage) -> int:
    """Each input token once, as the kind that it is. Parts that exceed the total overlap: images in the cache."""
    total = usage.input_tokens
    cached = min(usage.cached_input_tokens, total)
    written = min(usage.cache_write_tokens, total - cached)
    if not (usage.input_audio_tokens or usage.input_image_tokens or usage.input_video_tokens or written):
        return (total - cached) * prices.input + cached * prices.cached_input
    written_1h = min(usage.cache_write_1h_tokens, written)
    cached_audio = min(usage.cached_input_audio_tokens, cached)
    left = total - cached - written
    audio = min(max(usage.input_audio_tokens - cached_audio, 0), left)
    image = min(usage.input_image_tokens, left - audio)
    video = min(usage.input_video_tokens, left - audio - image)
    cached_image = min(usage.input_image_tokens - image, cached - cached_audio)
    return (
        (left - audio - image - video) * prices.input
        + (cached - cached_audio - cached_image) * prices.cached_input
        + cached_audio * prices.cached_input_audio
        + cached_image * prices.cached_input_image
        + (written - written_1h) * prices.cache_write
        + written_1h * prices.cache_write_1h
        + audio * prices.input_audio
        + image * prices.input_image
        + video * prices.input_video
    )


def _output_picousd(prices: TokenPrices, usage: Usage) -> int:
    total = usage.output_tokens
    if not (usage.output_audio_tokens or usage.output_image_tokens or usage.output_video_tokens):
        reasoning = min(usage.reasoning_tokens, total)
        return (total - reasoning) * prices.output + reasoning * prices.reasoning
    audio = min(usage.output_audio_tokens, total)
    image = min(usage.output_image_tokens, total - audio)
    video = min(usage.output_video_tokens, total - audio - image)
    reasoning = min(usage.reasoning_tokens, total - audio - image - video)
    return (
        (total - audio - image - video - reasoning) * prices.output
        + reasoning * prices.reasoning
        + audio * prices.output_audio
        + image * prices.output_image
        + video * prices.output_video
    )


def _other_units_picousd(card: PriceCard, prices: TokenPrices, usage: Usage) -> int:
    cost = 0
    audio_ms = max(usage.audio_ms, card.least_audio_ms) if usage.audio_ms else 0
    if card.second is not None:
        cost += ceil_div(audio_ms * card.second, 1_000)
    elif not usage.input_tokens:  # with tokens reported, they are the bill, and the time only describes it
        cost += _audio_as_tokens(audio_ms) * prices.input_audio
    if card.character is not None:
        cost += usage.characters * card.character
    elif not usage.output_tokens:
        cost += usage.characters * _spoken(prices)
    if card.image is not None:
        cost += usage.images * card.image
    elif not usage.output_tokens:
        cost += usage.images * IMAGE_TOKENS_EACH * prices.output_image
    return cost


def _fixed_bound_picousd(card: PriceCard, prices: TokenPrices, facts: RequestFacts) -> int:
    """The most that the request costs but for its output tokens."""
    if card.flat:
        return card.call
    dearest = prices.dearest_input
    bound = card.call + facts.input_bound_tokens * dearest
    if facts.input_audio_bound_tokens:
        audio = min(facts.input_audio_bound_tokens, facts.input_bound_tokens)
        bound += audio * (max(dearest, prices.input_audio, prices.cached_input_audio) - dearest)
    if facts.audio_ms_bound:
        audio_ms = max(facts.audio_ms_bound, card.least_audio_ms)
        if card.second is not None:
            bound += ceil_div(audio_ms * card.second, 1_000)
        else:
            bound += _audio_as_tokens(audio_ms) * max(dearest, prices.input_audio)
    if facts.characters:
        bound += facts.characters * (_spoken(prices) if card.character is None else card.character)
    if facts.images:
        bound += facts.images * (IMAGE_TOKENS_EACH * prices.output_image if card.image is None else card.image)
    if facts.tools:
        dearest_tool = max(card.tools.values(), default=0)
        bound += sum(most * card.tools.get(name, dearest_tool) for name, most in facts.tools)
    return bound


def _dearest_output(prices: TokenPrices, facts: RequestFacts) -> int:
    dearest = max(prices.output, prices.reasoning)
    if facts.audio_output or facts.characters:
        dearest = max(dearest, prices.output_audio)
    if facts.image_output or facts.images:
        dearest = max(dearest, prices.output_image, prices.output_video)
    return dearest


def _audio_as_tokens(audio_ms: int) -> int:
    return ceil_div(audio_ms * AUDIO_TOKENS_PER_SECOND, 1_000)


def _spoken(prices: TokenPrices) -> int:
    return prices.input + SPOKEN_TOKENS_PER_CHARACTER * prices.output_audio
