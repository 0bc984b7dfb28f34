"""A model's prices at one instant, resolved once into integers that the hot path only multiplies and adds.

A card has no gaps: a kind of token that the book gives no price is billed at the dearest kind it could be, never at
nothing:
* cached input without a price is fresh input; a cache write is at least as given, else fresh input; an hour's write is
  a write;
* audio input is the dearest fresh input of the card, image input is input, video input is image input;
* cached audio is cached input, unless audio has a price of its own: then it is audio;
* reasoning is output; audio, image or video output is the dearest output of the card; output without a price is input;
* seconds, images and characters without a price are turned into the most tokens they can be (`prices.py`).
Bands by input length are sorted; a band's prices hold for all tokens of the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from gateway.core.money import MARGIN_ONE_PPM
from gateway.core.price_entries import Figures, PriceUnit, Step

FOREVER_S = float("inf")
# Any of these asks for what the standard prices are for. "auto" is not among them: it leaves the choice to the
# upstream.
STANDARD_TIERS = frozenset({"", "default", "standard", "standard_only", "on_demand"})
AUTO_TIER = "auto"


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Picousd a token, every kind filled in."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    cached_input_audio: int = 0
    input_image: int = 0
    cached_input_image: int = 0
    input_video: int = 0
    output: int = 0
    reasoning: int = 0
    output_audio: int = 0
    output_image: int = 0
    output_video: int = 0
    dearest_input: int = field(init=False, repr=False, compare=False)  # of all that is not sound

    def __post_init__(self) -> None:
        dearest = max(self.input, self.cached_input, self.cache_write, self.cache_write_1h,
                      self.input_image, self.cached_input_image, self.input_video)  # fmt: skip
        object.__setattr__(self, "dearest_input", dearest)

    def dearest(self, other: TokenPrices) -> TokenPrices:
        """Kind by kind the dearer of the two."""
        return TokenPrices(*(max(getattr(self, name), getattr(other, name)) for name in _KINDS))


_KINDS = tuple(each.name for each in fields(TokenPrices) if each.init)


@dataclass(frozen=True, slots=True)
class Band:
    """Prices of a request whose input has more than `above_input_tokens` tokens."""

    above_input_tokens: int
    prices: TokenPrices


@dataclass(frozen=True, slots=True)
class PriceCard:
    """What a model costs until `holds_until_s` (unix seconds, exclusive). Other units in picousd each; None: no
    price."""

    provider: str
    model: str
    bands: tuple[Band, ...]
    tiers: Mapping[str, tuple[Band, ...]] = field(default_factory=lambda: MappingProxyType({}))
    bounds: Mapping[str, tuple[Band, ...]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    has_tokens: bool = True
    call: int = 0
    second: int | None = None
    character: int | None = None
    image: int | None = None
    tools: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    least_audio_ms: int = 0
    margin_ppm: int = MARGIN_ONE_PPM
    holds_until_s: float = FOREVER_S
    source: str = ""
    flat: bool = False  # a price a call, whatever was used

    @property
    def prices_step(self) -> bool:
        """Whether a token's price may change with the input's length or the service tier."""
        return len(self.bands) > 1 or bool(self.tiers)

    def served(self, tier: str | None) -> tuple[Band, ...]:
        """The bands that bill a request which the upstream says it served in `tier`."""
        return self.tiers.get(tier.lower(), self.bands) if tier and self.tiers else self.bands

    def bounding(self, tier: str | None) -> tuple[Band, ...]:
        """Bands never below those of any tier that may serve a request which asks for `tier`."""
        name = (tier or "").lower()
        if not self.tiers or name in STANDARD_TIERS:
            return self.bounds[""]
        return self.bounds.get(name) or self.bounds[AUTO_TIER]


def prices_at(bands: tuple[Band, ...], input_tokens: int) -> TokenPrices:
    """The prices of a request with so much input. The first band starts at -1, so the search always ends."""
    index = len(bands) - 1
    while input_tokens <= bands[index].above_input_tokens:
        index -= 1
    return bands[index].prices


def flat_card(picousd_per_call: int, *, name: str) -> PriceCard:
    """A card that takes one price a call: the operator's own, so no margin is put on it."""
    bands = (Band(-1, TokenPrices()),)
    return PriceCard(
        provider="", model=name, bands=bands, bounds=MappingProxyType({"": bands}), has_tokens=False,
        call=picousd_per_call, flat=True,
    )  # fmt: skip


def bands_of(figures: Figures) -> tuple[Band, ...]:
    """Fill in every kind of token for every length at which any price steps."""
    starts = sorted({step.above_input_tokens for unit in _TOKEN_UNITS for step in figures.get(unit, ())} | {-1})
    return tuple(Band(start, _filled(figures, start)) for start in starts)


def bounds_of(standard: tuple[Band, ...], tiers: Mapping[str, tuple[Band, ...]]) -> dict[str, tuple[Band, ...]]:
    """Per tier that may be asked for, bands that bound what it may cost; a longer band is never cheaper than a
    shorter."""
    bounds = {"": _worst([standard]), AUTO_TIER: _worst([standard, *tiers.values()])}
    for name, bands in tiers.items():
        bounds[name] = _worst([standard, bands])
    return bounds


def figure(figures: Figures, unit: PriceUnit) -> int | None:
    """The price of a unit that does not step; the dearest step if it does."""
    steps = figures.get(unit)
    return max(step.picousd for step in steps) if steps else None


_TOKEN_UNITS = frozenset(PriceUnit(name) for name in _KINDS)


def has_token_prices(figures: Figures) -> bool:
    """Whether the model bills tokens at all."""
    return any(unit in _TOKEN_UNITS for unit in figures)


def _worst(schedules: Iterable[tuple[Band, ...]]) -> tuple[Band, ...]:
    all_bands = sorted((band for bands in schedules for band in bands), key=lambda band: band.above_input_tokens)
    worst: dict[int, TokenPrices] = {}
    dearest = TokenPrices()
    for band in all_bands:
        dearest = dearest.dearest(band.prices)
        worst[band.above_input_tokens] = dearest
    return tuple(Band(above, prices) for above, prices in worst.items())


def _at(steps: tuple[Step, ...], start: int) -> int:
    return next(step.picousd for step in reversed(steps) if step.above_input_tokens <= start)


def _filled(figures: Figures, start: int) -> TokenPrices:
    given = {unit: _at(steps, start) for unit, steps in figures.items() if unit in _TOKEN_UNITS}
    unit = PriceUnit
    inputs = [
        given[each] for each in (unit.INPUT, unit.INPUT_AUDIO, unit.INPUT_IMAGE, unit.INPUT_VIDEO) if each in given
    ]
    dearest_input = max(inputs, default=0)
    fresh = given.get(unit.INPUT, dearest_input)
    cached = given.get(unit.CACHED_INPUT, fresh)
    outputs = [
        given[each]
        for each in (unit.OUTPUT, unit.OUTPUT_AUDIO, unit.OUTPUT_IMAGE, unit.OUTPUT_VIDEO, unit.REASONING)
        if each in given
    ]
    dearest_output = max(outputs, default=dearest_input)
    output = given.get(unit.OUTPUT, dearest_output)
    write = given.get(unit.CACHE_WRITE, fresh)
    image = given.get(unit.INPUT_IMAGE, fresh)
    cached_audio = given.get(unit.INPUT_AUDIO, cached)
    return TokenPrices(
        input=fresh,
        cached_input=cached,
        cache_write=write,
        cache_write_1h=given.get(unit.CACHE_WRITE_1H, write),
        input_audio=given.get(unit.INPUT_AUDIO, dearest_input),
        cached_input_audio=given.get(unit.CACHED_INPUT_AUDIO, cached_audio),
        input_image=image,
        cached_input_image=given.get(unit.CACHED_INPUT_IMAGE, cached),
        input_video=given.get(unit.INPUT_VIDEO, image),
        output=output,
        reasoning=given.get(unit.REASONING, output),
        output_audio=given.get(unit.OUTPUT_AUDIO, dearest_output),
        output_image=given.get(unit.OUTPUT_IMAGE, dearest_output),
        output_video=given.get(unit.OUTPUT_VIDEO, dearest_output),
    )
