"""Turns the data of genai-prices into Farebox's own records, and as a program writes them to its output.

Run in a process of its own by `genai_book`, because the library's modules take 17 MB that no worker needs afterwards. A
model with a kind of price that we do not know is still listed, with what we know of it; one without any stays without a
price.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import MappingProxyType

from genai_prices import types as genai
from genai_prices.data import providers as genai_providers

from gateway.adapters.genai_book import dashed_date, dotted_version
from gateway.core.name_rules import AllOf, AnyOf, Contains, EndsWith, Equals, Fits, NameRule, Rule, StartsWith
from gateway.core.price_entries import (
    DAY_S,
    Always,
    Condition,
    Daily,
    Figures,
    From,
    ModelEntry,
    PriceEntry,
    PriceUnit,
    ProviderEntry,
    Step,
    TierEntry,
    picousd_up,
)

MILLION = 1_000_000
# Their key -> ours, and how many units the price is for.
_UNITS: Mapping[str, tuple[PriceUnit, int]] = MappingProxyType(
    {
        "input_mtok": (PriceUnit.INPUT, MILLION),
        "cache_read_mtok": (PriceUnit.CACHED_INPUT, MILLION),
        "cache_write_mtok": (PriceUnit.CACHE_WRITE, MILLION),
        "cache_write_1h_mtok": (PriceUnit.CACHE_WRITE_1H, MILLION),
        "input_audio_mtok": (PriceUnit.INPUT_AUDIO, MILLION),
        "cache_audio_read_mtok": (PriceUnit.CACHED_INPUT_AUDIO, MILLION),
        "input_image_mtok": (PriceUnit.INPUT_IMAGE, MILLION),
        "input_video_mtok": (PriceUnit.INPUT_VIDEO, MILLION),
        "cache_image_read_mtok": (PriceUnit.CACHED_INPUT_IMAGE, MILLION),
        "output_mtok": (PriceUnit.OUTPUT, MILLION),
        "output_reasoning_mtok": (PriceUnit.REASONING, MILLION),
        "output_audio_mtok": (PriceUnit.OUTPUT_AUDIO, MILLION),
        "output_image_mtok": (PriceUnit.OUTPUT_IMAGE, MILLION),
        "output_video_mtok": (PriceUnit.OUTPUT_VIDEO, MILLION),
        "requests_kcount": (PriceUnit.CALL, 1_000),
        "audio_hours": (PriceUnit.SECOND, 3_600),
        "input_audio_hours": (PriceUnit.SECOND, 3_600),
        "input_mchars": (PriceUnit.CHARACTER, MILLION),
    }
)
_TOOLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "web_searches_kcount": ("web_search", "google_search"),
        "social_searches_kcount": ("x_search",),
        "storage_searches_kcount": ("file_search",),
        "code_executions_kcount": ("code_execution", "code_interpreter"),
    }
)
# Groq bills at least ten seconds a request; the library knows it by these names and not by its data.
_LEAST_AUDIO_MS: Mapping[tuple[str, str], int] = MappingProxyType(
    {("groq", "whisper-large-v3"): 10_000, ("groq", "whisper-large-v3-turbo"): 10_000}
)
# Contexts that name a service tier; batches and routes of other kinds never pass the relay.
_TIER_CONTEXTS = frozenset({"service_tier", "speed"})


def read_book() -> tuple[ProviderEntry, ...]:
    """Every provider of the library's data."""
    return tuple(_provider(each) for each in genai_providers)


def _provider(provider: genai.Provider) -> ProviderEntry:
    return ProviderEntry(
        provider=provider.id,
        models=tuple(_model(provider.id, each) for each in provider.models),
        others=tuple(provider.fallback_model_providers or ()),
        normalise=dotted_version if provider.id == "openrouter" else dashed_date,
    )


def _model(provider: str, model: genai.ModelInfo) -> ModelEntry:
    if isinstance(model.prices, genai.ModelPrice):
        entries: tuple[PriceEntry, ...] = (_entry(Always(), model.prices),)
    else:
        entries = tuple(_entry(_condition(each.constraint), each.prices) for each in model.prices)
    tiers = [
        TierEntry(next(iter(variant.when.values())).lower(), _condition(variant.constraint), _figures(variant.prices))
        for variant in model.price_variants or ()
        if len(variant.when) == 1 and next(iter(variant.when)) in _TIER_CONTEXTS
    ]
    return ModelEntry(
        model=model.id,
        matches=NameRule(_rule(model.match)),
        entries=entries,
        tiers=tuple(tiers),
        else_first=True,
        least_audio_ms=_LEAST_AUDIO_MS.get((provider, model.id), 0),
    )


def _entry(when: Condition, price: genai.ModelPrice) -> PriceEntry:
    tools = {
        name: picousd_up(value, per=1_000)
        for key, value in vars(price).items()
        if isinstance(value, Decimal)
        for name in _TOOLS.get(key, ())
    }
    return PriceEntry(when, _figures(price), tools, source="genai-prices")


def _figures(price: genai.ModelPrice) -> Figures:
    figures: dict[PriceUnit, tuple[Step, ...]] = {}
    for key, value in vars(price).items():
        if key not in _UNITS or value is None:
            continue
        unit, per = _UNITS[key]
        steps = _steps(value, per)
        known = figures.get(unit)
        # Two of their kinds may be one of ours (hours of audio, in or out): the dearer counts.
        if known is None or known[0].picousd < steps[0].picousd:
            figures[unit] = steps
    return figures


def _steps(value: Decimal | genai.TieredPrices, per: int) -> tuple[Step, ...]:
    if isinstance(value, genai.TieredPrices):
        later = (Step(tier.start, picousd_up(tier.price, per=per)) for tier in value.tiers)
        return (Step(-1, picousd_up(value.base, per=per)), *later)
    return (Step(-1, picousd_up(value, per=per)),)


def _condition(constraint: genai.StartDateConstraint | genai.TimeOfDateConstraint | None) -> Condition:
    if constraint is None:
        return Always()
    if isinstance(constraint, genai.StartDateConstraint):
        start = datetime.combine(constraint.start_date, time(), tzinfo=UTC)
        return From(int(start.timestamp()))
    return Daily(_second_of_day(constraint.start_time), _second_of_day(constraint.end_time))


def _rule(clause: object) -> Rule:
    match clause:
        case genai.ClauseOr(or_=clauses):
            return AnyOf(tuple(_rule(each) for each in clauses))
        case genai.ClauseAnd(and_=clauses):
            return AllOf(tuple(_rule(each) for each in clauses))
        case genai.ClauseStartsWith(starts_with=text):
            return StartsWith(text.lower())
        case genai.ClauseEndsWith(ends_with=text):
            return EndsWith(text.lower())
        case genai.ClauseContains(contains=text):
            return Contains(text.lower())
        case genai.ClauseEquals(equals=text):
            return Equals(text.lower())
        case genai.ClauseRegex(regex=text):
            return Fits(re.compile(text))
    message = f"a kind of name rule that we do not know: {clause!r}"
    raise TypeError(message)


def _second_of_day(moment: time) -> int:
    utc = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(datetime.combine(date(2000, 1, 1), utc).timestamp()) % DAY_S


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(read_book(), protocol=pickle.HIGHEST_PROTOCOL))
