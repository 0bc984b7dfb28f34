"""Prices in force as they are shown: decimal strings of USD, the unit in the name, as in `policies/prices/*.yaml`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gateway.core.money import MARGIN_ONE_PPM
from gateway.core.price_cards import FOREVER_S, Band, PriceCard, TokenPrices
from gateway.core.request_record import rfc3339

_MILLION = 1_000_000
_PICOUSD_PER_USD = 10**12
TOKEN_KINDS = tuple(each.name for each in fields(TokenPrices) if each.init)


def usd_of_picousd(picousd: int) -> str:
    """A decimal string of USD, with no more decimals than it takes: 150_000_000 -> "0.00015"."""
    return _decimal(picousd, _PICOUSD_PER_USD, 12)


def margin_text(margin_ppm: int) -> str:
    """A margin as a decimal string: 1_100_000 -> "1.1"."""
    return _decimal(margin_ppm, MARGIN_ONE_PPM, 6)


def _decimal(amount: int, one: int, decimals: int) -> str:
    whole, rest = divmod(amount, one)
    digits = f"{rest:0{decimals}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def price_members(card: PriceCard) -> dict[str, Any]:
    """A model's prices, before the margin; every kind of token has one, also where the book names none."""
    each = {"second": card.second, "image": card.image, "mchar": card.character and card.character * _MILLION}
    return {
        "provider": card.provider,
        "model": card.model,
        "tokens": _bands(card.bands) if card.has_tokens else [],
        "tiers": {name: _bands(bands) for name, bands in card.tiers.items()},
        "usd_per_call": usd_of_picousd(card.call),
        **{f"usd_per_{unit}": None if price is None else usd_of_picousd(price) for unit, price in each.items()},
        "tools": {name: {"usd_per_call": usd_of_picousd(fee)} for name, fee in sorted(card.tools.items())},
        "margin": margin_text(card.margin_ppm),
        "holds_until": None if card.holds_until_s == FOREVER_S else rfc3339(int(card.holds_until_s * 1_000)),
        "source": card.source or None,
    }


def _bands(bands: tuple[Band, ...]) -> list[dict[str, Any]]:
    """By length of the input; the first band is for every length up to the next."""
    return [
        {"above_input_tokens": max(band.above_input_tokens, 0)}
        | {f"{kind}_usd_per_mtok": usd_of_picousd(getattr(band.prices, kind) * _MILLION) for kind in TOKEN_KINDS}
        for band in bands
    ]
