"""The prices in force, of every model of the configured providers: what a request would be charged at now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from gateway.core.price_cards import PriceCard
from gateway.core.price_table import price_members, usd_of_picousd
from gateway.policies import Policies
from gateway.ports import System


class PriceList:
    """Lists prices. `providers`: those of the configured upstreams."""

    def __init__(self, *, policies: Callable[[], Policies], providers: Sequence[str], system: System) -> None:
        self._policies = policies
        self._providers = tuple(providers)
        self._system = system

    def listed(self, *, provider: str, model: str, after: str, most: int) -> tuple[list[dict[str, Any]], str | None]:
        """Prices in the order of `<provider>/<model>`, above `after`; and what `next` is. `provider` "" is any; `model`
        is a glob, or a name as a request may give it; "" any."""
        found = list(islice(self._cards(provider, model, after), most + 1))
        return [price_members(card) for _, card in found[:most]], found[most - 1][0] if len(found) > most else None

    def _cards(self, provider: str, model: str, after: str) -> Iterator[tuple[str, PriceCard]]:
        book, now_s = self._policies().price_book, self._system.now_s()
        places = {
            f"{each}/{name}": (each, name)
            for each in self._providers
            if provider in ("", each)
            for name in book.models(each)
            if not model or fnmatchcase(name, model) or name == book.canonical(each, model)
        }
        for place in sorted(places):
            if place > after and (card := book.card(*places[place], now_s)) is not None:
                yield place, card

    def fees(self) -> dict[str, Any]:
        """What is not of one model: server tools by provider ("" all of them), and the rules that routes name."""
        book = self._policies().price_book
        return {
            "tools": {
                provider: {name: {"usd_per_call": usd_of_picousd(fee)} for name, fee in sorted(fees.items())}
                for provider, fees in sorted(book.tools.fees.items())
            },
            "rules": {name: {"usd_per_call": usd_of_picousd(card.call)} for name, card in sorted(book.rules.items())},
        }
