"""Reads `policies/prices/*.yaml`: the operator's own prices, which add to the default book or stand before it.

A price has the day from which it holds, where it was read, the day it was checked, and its unit in the key. An entry is
never overwritten: a new price is a new entry with a later day, and two entries of one model for one day are refused.
Money is written quoted (`"0.15"`): a YAML float has already lost what was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fnmatch import translate
from types import MappingProxyType

from gateway.config_reader import FieldProblem
from gateway.core.price_book import ToolPrices
from gateway.core.price_cards import PriceCard, flat_card
from gateway.core.price_entries import (
    OTHER_UNITS,
    Always,
    Figures,
    From,
    ModelEntry,
    PriceEntry,
    PriceUnit,
    ProviderEntry,
    Step,
    TierEntry,
    picousd_up,
    ppm_up,
)

_MILLION = 1_000_000
# A price above this is a slip of the unit: no token, second or call costs so much.
_GREATEST_USD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureKeys:
    """The keys that carry a price; the unit stands in each."""

    input_usd_per_mtok: Decimal | None = None
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    cache_write_1h_usd_per_mtok: Decimal | None = None
    input_audio_usd_per_mtok: Decimal | None = None
    cached_input_audio_usd_per_mtok: Decimal | None = None
    input_image_usd_per_mtok: Decimal | None = None
    cached_input_image_usd_per_mtok: Decimal | None = None
    input_video_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    reasoning_usd_per_mtok: Decimal | None = None
    output_audio_usd_per_mtok: Decimal | None = None
    output_image_usd_per_mtok: Decimal | None = None
    output_video_usd_per_mtok: Decimal | None = None
    usd_per_call: Decimal | None = None
    usd_per_second: Decimal | None = None
    usd_per_mchar: Decimal | None = None
    usd_per_image: Decimal | None = None

    def __post_init__(self) -> None:
        for key in UNIT_OF_KEY:
            _money(key, getattr(self, key))


UNIT_OF_KEY: Mapping[str, tuple[PriceUnit, int]] = MappingProxyType(
    {
        **{f"{unit}_usd_per_mtok": (unit, _MILLION) for unit in PriceUnit if unit not in OTHER_UNITS},
        "usd_per_call": (PriceUnit.CALL, 1),
        "usd_per_second": (PriceUnit.SECOND, 1),
        "usd_per_mchar": (PriceUnit.CHARACTER, _MILLION),
        "usd_per_image": (PriceUnit.IMAGE, 1),
    }
)


def _money(key: str, value: Decimal | None) -> None:
    if value is not None and not 0 <= value <= _GREATEST_USD:
        raise FieldProblem(key, f"must be from 0 to {_GREATEST_USD}")


def _margin(value: Decimal | None) -> None:
    if value is not None and not Decimal("0.01") <= value <= 100:
        raise FieldProblem("margin", 'must be from "0.01" to "100"; "1.1" adds ten per cent')


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKeys(FigureKeys):
    """Prices of a request with more input than `above_input_tokens`; they hold for all its tokens."""

    above_input_tokens: int

    def __post_init__(self) -> None:
        FigureKeys.__post_init__(self)
        if self.above_input_tokens < 0:
            raise FieldProblem("above_input_tokens", "must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierKeys(FigureKeys):
    """Prices of a service tier; what is left out costs as in the standard tier."""

    steps: tuple[StepKeys, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceKeys(FigureKeys):
    """One dated price of a model."""

    from_date: date
    source: str
    checked: date
    tools: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    steps: tuple[StepKeys, ...] = ()
    service_tiers: Mapping[str, TierKeys] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        FigureKeys.__post_init__(self)
        if all(getattr(self, key) is None for key in UNIT_OF_KEY):
            raise FieldProblem("from_date", f"an entry needs a price: {', '.join(UNIT_OF_KEY)}")
        for name, usd in self.tools.items():
            _money(f"tools.{name}", usd)
        for index, step in enumerate(self.steps):
            if index and step.above_input_tokens <= self.steps[index - 1].above_input_tokens:
                raise FieldProblem(f"steps[{index}].above_input_tokens", "must rise from step to step")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKeys:
    """A model: its name as the upstream knows it, other names as globs, its prices by day."""

    model: str
    prices: tuple[PriceKeys, ...]
    aliases: tuple[str, ...] = ()
    margin: Decimal | None = None

    def __post_init__(self) -> None:
        _margin(self.margin)
        days = [price.from_date for price in self.prices]
        if len(set(days)) != len(days):
            raise FieldProblem("prices", "two entries begin on the same day; entries are never overwritten")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeKeys:
    """A price a call: of a server tool, or of a rule that `raw` routes name."""

    usd_per_call: Decimal
    source: str = ""
    checked: date | None = None

    def __post_init__(self) -> None:
        _money("usd_per_call", self.usd_per_call)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFile:
    """One file. `margin` is for all of the provider's models; tools without a provider are for all providers."""

    provider: str = ""
    margin: Decimal | None = None
    models: tuple[ModelKeys, ...] = ()
    tools: Mapping[str, FeeKeys] = field(default_factory=lambda: MappingProxyType({}))
    rules: Mapping[str, FeeKeys] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _margin(self.margin)
        if not self.provider and (self.models or self.margin is not None):
            raise FieldProblem("provider", "missing; models and margin belong to a provider")


def own_providers(files: Mapping[str, PriceFile], problems: list[str]) -> tuple[ProviderEntry, ...]:
    """The operator's models, per provider, over all files; entries of one model may stand in several."""
    models: dict[tuple[str, str], list[tuple[str, ModelKeys]]] = {}
    margins: dict[str, int | None] = {}
    for name, file in files.items():
        if file.provider:
            known = margins.get(file.provider)
            if file.margin is not None and known is not None:
                problems.append(f"{name}: margin: {file.provider} already has one in another file")
            margins[file.provider] = known if file.margin is None else ppm_up(file.margin)
        for model in file.models:
            models.setdefault((file.provider, model.model.lower()), []).append((name, model))
    entries: dict[str, list[ModelEntry]] = {provider: [] for provider in margins}
    for (provider, model_name), found in models.items():
        entries[provider].append(_model_entry(model_name, found, problems))
    return tuple(
        # Exact names before globs, whatever file they stand in.
        ProviderEntry(provider, (*map(_exact, found), *found), margin_ppm=margins[provider])
        for provider, found in entries.items()
    )


def tool_prices(files: Iterable[PriceFile]) -> ToolPrices:
    """Fees of server tools over all files."""
    fees: dict[str, dict[str, int]] = {}
    for file in files:
        for name, fee in file.tools.items():
            fees.setdefault(file.provider, {})[name] = picousd_up(fee.usd_per_call)
    return ToolPrices(MappingProxyType(fees))


def rule_cards(files: Mapping[str, PriceFile], problems: list[str]) -> Mapping[str, PriceCard]:
    """Named flat prices over all files: the operator's own, so no margin is put on them."""
    cards: dict[str, PriceCard] = {}
    for source, file in files.items():
        for name, fee in file.rules.items():
            if name in cards:
                problems.append(f"{source}: rules.{name}: given twice; keep one")
            cards[name] = flat_card(picousd_up(fee.usd_per_call), name=name)
    return MappingProxyType(cards)


def _model_entry(name: str, found: list[tuple[str, ModelKeys]], problems: list[str]) -> ModelEntry:
    days: dict[date, str] = {}
    for source, model in found:
        for price in model.prices:
            if price.from_date in days:
                problems.append(
                    f"{source}: {model.model}: {price.from_date} already has a price in {days[price.from_date]};"
                    " entries are never overwritten, give a later day"
                )
            days[price.from_date] = source
    margins = {model.margin for _, model in found if model.margin is not None}
    if len(margins) > 1:
        problems.append(f"{found[-1][0]}: {found[-1][1].model}: margin: another file has another")
    prices = sorted((price for _, model in found for price in model.prices), key=lambda price: price.from_date)
    return ModelEntry(
        model=found[0][1].model,
        matches=_matcher(name, [alias for _, model in found for alias in model.aliases]),
        entries=tuple(_price_entry(price) for price in prices),
        margin_ppm=ppm_up(min(margins)) if margins else None,
    )


def _exact(entry: ModelEntry) -> ModelEntry:
    name = entry.model.lower()
    return ModelEntry(entry.model, lambda asked: asked.lower() == name, entry.entries, margin_ppm=entry.margin_ppm)


def _matcher(name: str, aliases: Iterable[str]) -> Callable[[str], bool]:
    pattern = re.compile("|".join([re.escape(name) + r"\Z", *(translate(alias.lower()) for alias in aliases)]))
    return lambda asked: pattern.match(asked.lower()) is not None


def _price_entry(price: PriceKeys) -> PriceEntry:
    start = int(datetime.combine(price.from_date, time(), tzinfo=UTC).timestamp())
    return PriceEntry(
        when=From(start),
        figures=_figures(price, price.steps),
        tools=MappingProxyType({name: picousd_up(usd) for name, usd in price.tools.items()}),
        tiers=tuple(
            TierEntry(name.lower(), Always(), _figures(tier, tier.steps)) for name, tier in price.service_tiers.items()
        ),
        source=price.source,
        checked=price.checked.isoformat(),
    )


def _figures(base: FigureKeys, steps: Iterable[StepKeys]) -> Figures:
    figures: dict[PriceUnit, list[Step]] = {}
    for above, keys in ((-1, base), *((step.above_input_tokens, step) for step in steps)):
        for key, (unit, per) in UNIT_OF_KEY.items():
            usd = getattr(keys, key)
            if usd is not None:
                figures.setdefault(unit, []).append(Step(above, picousd_up(usd, per=per)))
    return MappingProxyType({unit: tuple(listed) for unit, listed in figures.items()})
