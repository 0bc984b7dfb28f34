"""Prices as a book lists them: plain records, read at the edge, in whole picousd a unit.

A model has entries with conditions (always, from an instant on, some hours of each day). Entries are tried from the
last to the first, and the first entry whose condition holds is the price; if none holds there is no price, unless the
model says that its first entry then applies. Nothing here is ever changed: a new price is a new entry with a later
start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from gateway.core.money import MARGIN_ONE_PPM

PICOUSD_PER_USD = 1_000_000_000_000
DAY_S = 86_400


class PriceUnit(StrEnum):
    """What a price is for. Tokens, but for the last four."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    CACHE_WRITE = "cache_write"
    CACHE_WRITE_1H = "cache_write_1h"
    INPUT_AUDIO = "input_audio"
    CACHED_INPUT_AUDIO = "cached_input_audio"
    INPUT_IMAGE = "input_image"
    CACHED_INPUT_IMAGE = "cached_input_image"
    INPUT_VIDEO = "input_video"
    OUTPUT = "output"
    REASONING = "reasoning"
    OUTPUT_AUDIO = "output_audio"
    OUTPUT_IMAGE = "output_image"
    OUTPUT_VIDEO = "output_video"
    CALL = "call"
    SECOND = "second"
    CHARACTER = "character"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Step:
    """The price of a unit when the request's input has more than `above_input_tokens` tokens. It then holds for all."""

    above_input_tokens: int
    picousd: int


# The units that are no tokens.
OTHER_UNITS = frozenset({PriceUnit.CALL, PriceUnit.SECOND, PriceUnit.CHARACTER, PriceUnit.IMAGE})

# Per unit: steps by rising length; the first starts at -1, so it always applies.
Figures = Mapping[PriceUnit, tuple[Step, ...]]


@dataclass(frozen=True, slots=True)
class Always:
    """No condition."""


@dataclass(frozen=True, slots=True)
class From:
    """From an instant on (unix seconds)."""

    start_s: int


@dataclass(frozen=True, slots=True)
class Daily:
    """Some hours of every UTC day, from `start_s` to before `end_s` (seconds of the day); past midnight if end <
    start."""

    start_s: int
    end_s: int


Condition = Always | From | Daily


@dataclass(frozen=True, slots=True)
class TierEntry:
    """Figures that stand in for the standard ones when a request runs in a service tier."""

    tier: str
    when: Condition
    figures: Figures


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """The prices of a model under one condition. `tools`: server tools, picousd a call."""

    when: Condition
    figures: Figures
    tools: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    tiers: tuple[TierEntry, ...] = ()
    source: str = ""
    checked: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of a provider. `matches` says whether a name that a request gives is this model."""

    model: str
    matches: Callable[[str], bool]
    entries: tuple[PriceEntry, ...]
    tiers: tuple[TierEntry, ...] = ()  # tried in order, for all entries
    else_first: bool = False  # the first entry applies when no condition holds
    margin_ppm: int | None = None
    least_audio_ms: int = 0  # shorter audio is billed as so long


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """The models of a provider, in the order in which names are looked up."""

    provider: str
    models: tuple[ModelEntry, ...]
    others: tuple[str, ...] = ()  # providers whose models this one serves at their price
    normalise: Callable[[str], str] | None = None  # another spelling to try when no model matches
    margin_ppm: int | None = None


def picousd_up(usd: Decimal, *, per: int = 1) -> int:
    """A price of `usd` for `per` units, in whole picousd a unit, rounded up. Errors: ValueError when negative."""
    numerator, denominator = usd.as_integer_ratio()
    if numerator < 0:
        message = "a price is never negative"
        raise ValueError(message)
    return -(-numerator * PICOUSD_PER_USD // (denominator * per))


def ppm_up(margin: Decimal) -> int:
    """A factor in millionths, rounded up."""
    numerator, denominator = margin.as_integer_ratio()
    return -(-numerator * MARGIN_ONE_PPM // denominator)


def holds(when: Condition, now_s: float) -> bool:
    """Whether a condition holds at an instant (unix seconds)."""
    if isinstance(when, From):
        return now_s >= when.start_s
    if isinstance(when, Daily):
        second, start_s, end_s = now_s % DAY_S, when.start_s, when.end_s
        return start_s <= second < end_s if start_s <= end_s else second >= start_s or second < end_s
    return True


def next_change_s(conditions: Iterable[Condition], now_s: float) -> float | None:
    """The next instant at which any of the conditions changes; None when none ever will."""
    instants: list[float] = []
    midnight = now_s - now_s % DAY_S
    for when in conditions:
        if isinstance(when, From) and when.start_s > now_s:
            instants.append(when.start_s)
        elif isinstance(when, Daily):
            bounds = (midnight + second for second in (when.start_s, when.end_s))
            instants.extend(instant if instant > now_s else instant + DAY_S for instant in bounds)
    return min(instants, default=None)
