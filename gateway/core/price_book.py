"""All prices, looked up by provider and model, each resolved once and kept until the instant at which it changes.

Order: the operator's own entries by the name that was asked, then the default book's model of that name, whose
canonical name is tried again among the operator's entries. A model without a price has no card: the caller refuses it;
nothing is ever free by omission.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.core.money import MARGIN_ONE_PPM
from gateway.core.price_cards import FOREVER_S, Band, PriceCard, bands_of, bounds_of, figure, has_token_prices
from gateway.core.price_entries import (
    Condition,
    ModelEntry,
    PriceEntry,
    PriceUnit,
    ProviderEntry,
    TierEntry,
    holds,
    next_change_s,
)

# Names come from strangers: what is remembered of them is bounded, and simply forgotten when full.
REMEMBERED_MOST = 4_096
_NAME_MOST_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class ToolPrices:
    """Fees of server tools, picousd a call, where the model's own card names none; by provider, "" for all."""

    fees: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def names(self) -> frozenset[str]:
        """Every tool that has a price under any provider."""
        return frozenset(name for fees in self.fees.values() for name in fees)

    def of(self, provider: str) -> dict[str, int]:
        """The fees under a provider: its own before the general ones."""
        return {**self.fees.get("", {}), **self.fees.get(provider, {})}


class PriceBook:
    """The price book. Immutable but for what it remembers; `own` stands before `default`."""

    def __init__(
        self,
        default: Iterable[ProviderEntry],
        own: Iterable[ProviderEntry] = (),
        *,
        rules: Mapping[str, PriceCard] = MappingProxyType({}),
        tools: ToolPrices | None = None,
        margin_ppm: int = MARGIN_ONE_PPM,
    ) -> None:
        self.default = tuple(default)
        self._default = {each.provider: each for each in self.default}
        self._own = {each.provider: each for each in own}
        self.tools = tools or ToolPrices()
        self._margin_ppm = margin_ppm
        self._cards: dict[tuple[str, str], tuple[PriceCard | None, float, float]] = {}
        self.rules = rules

    @property
    def providers(self) -> tuple[str, ...]:
        """All providers that have prices."""
        return tuple(sorted({*self._default, *self._own}))

    def models(self, provider: str) -> tuple[str, ...]:
        """The canonical names of a provider's models, whether or not they have a price now."""
        books = [book[provider] for book in (self._own, self._default) if provider in book]
        return tuple(dict.fromkeys(entry.model for book in books for entry in book.models))

    def card(self, provider: str, model: str, now_s: float) -> PriceCard | None:
        """The prices of a model at an instant (unix seconds); None when it has none."""
        key = (provider, model)
        known = self._cards.get(key)
        # A clock that was set back asks for an earlier price: what was resolved later says nothing of it.
        if known is not None and known[1] <= now_s < known[2]:
            return known[0]
        if len(model) > _NAME_MOST_CHARACTERS:
            return None
        card, until_s = self._resolve(provider, model, now_s)
        if len(self._cards) >= REMEMBERED_MOST:
            self._cards.clear()
        self._cards[key] = (card, now_s, until_s)
        return card

    def rule(self, name: str) -> PriceCard | None:
        """A named flat price for `raw` routes."""
        return self.rules.get(name)

    def canonical(self, provider: str, model: str) -> str | None:
        """The book's name for a model that a request names; None when it is unknown."""
        entries = self._candidates(provider, model)
        return entries[-1].model if entries else None

    def _candidates(self, provider: str, model: str) -> list[ModelEntry]:
        """Entries that may price the model, the operator's first."""
        own = _found(self._own.get(provider), model)
        default = self._found_in_default(provider, model)
        if own is None and default is not None:
            own = _found(self._own.get(provider), default.model)
        return [entry for entry in (own, default) if entry is not None]

    def _found_in_default(self, provider: str, model: str) -> ModelEntry | None:
        book = self._default.get(provider)
        if book is None:
            return None
        names = [model.lower()]
        if book.normalise is not None and (other := book.normalise(names[0])) != names[0]:
            names.append(other)
        books = [book, *(self._default[name] for name in book.others if name in self._default)]
        for name in names:
            for each in books:
                if (entry := _found(each, name)) is not None:
                    return entry
        # The book's own name of a model, where its rules know only longer ones (`accounts/.../models/<name>`).
        return next((entry for entry in book.models if entry.model.lower() == names[0]), None)

    def _resolve(self, provider: str, model: str, now_s: float) -> tuple[PriceCard | None, float]:
        until_s = FOREVER_S
        for entry in self._candidates(provider, model):
            changes_s = next_change_s(_conditions(entry), now_s)
            until_s = min(until_s, FOREVER_S if changes_s is None else changes_s)
            price = _in_force(entry, now_s)
            if price is not None and price.figures:
                return self._card(provider, entry, price, now_s, until_s), until_s
        return None, until_s

    def _card(self, provider: str, entry: ModelEntry, price: PriceEntry, now_s: float, until_s: float) -> PriceCard:
        standard = bands_of(price.figures)
        tiers = _tier_bands(entry, price, now_s)
        return PriceCard(
            provider=provider,
            model=entry.model,
            bands=standard,
            tiers=MappingProxyType(tiers),
            bounds=MappingProxyType(bounds_of(standard, tiers)),
            has_tokens=has_token_prices(price.figures),
            call=figure(price.figures, PriceUnit.CALL) or 0,
            second=figure(price.figures, PriceUnit.SECOND),
            character=figure(price.figures, PriceUnit.CHARACTER),
            image=figure(price.figures, PriceUnit.IMAGE),
            tools=MappingProxyType({**self.tools.of(provider), **price.tools}),
            least_audio_ms=entry.least_audio_ms,
            margin_ppm=self._margin(provider, entry),
            holds_until_s=until_s,
            source=price.source,
        )

    def _margin(self, provider: str, entry: ModelEntry) -> int:
        own = self._own.get(provider)
        of_model = _found(own, entry.model) if entry.margin_ppm is None else entry
        if of_model is not None and of_model.margin_ppm is not None:
            return of_model.margin_ppm
        return self._margin_ppm if own is None or own.margin_ppm is None else own.margin_ppm


def _found(book: ProviderEntry | None, model: str) -> ModelEntry | None:
    if book is None:
        return None
    return next((entry for entry in book.models if entry.matches(model)), None)


def _in_force(entry: ModelEntry, now_s: float) -> PriceEntry | None:
    for price in reversed(entry.entries):
        if holds(price.when, now_s):
            return price
    return entry.entries[0] if entry.else_first and entry.entries else None


def _conditions(entry: ModelEntry) -> list[Condition]:
    tiers = [tier for price in entry.entries for tier in price.tiers]
    return [price.when for price in entry.entries] + [tier.when for tier in (*entry.tiers, *tiers)]


def _tier_bands(entry: ModelEntry, price: PriceEntry, now_s: float) -> dict[str, tuple[Band, ...]]:
    """Per service tier: the standard figures with those of the tier in their place, the first that holds first."""
    tiers: dict[str, list[TierEntry]] = {}
    for tier in (*price.tiers, *entry.tiers):
        if holds(tier.when, now_s) and tier.figures:
            tiers.setdefault(tier.tier, []).append(tier)
    bands: dict[str, tuple[Band, ...]] = {}
    for name, found in tiers.items():
        figures = dict(price.figures)
        for each in reversed(found):
            figures.update(each.figures)
        bands[name] = bands_of(figures)
    return bands
