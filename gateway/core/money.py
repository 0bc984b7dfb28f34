"""Money is integers.

Prices are picousd a token (or second, image, call). The components of a request are summed exactly in picousd, times
the margin, and rounded up once to the account's unit. An agent's credit is converted at the rate recorded with its
challenge.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PICOUSD_PER_NANOUSD = 1_000
NANOUSD_PER_USD = 1_000_000_000
MSAT_PER_SAT = 1_000
MSAT_PER_BTC = 100_000_000_000
MARGIN_ONE_PPM = 1_000_000
# Lua computes exactly up to 2^53-1; every amount, limit and balance stays within it.
GREATEST_AMOUNT = 2**53 - 1
# A credit that would lift `available` above this is refused.
GREATEST_AVAILABLE = 9_000_000_000_000_000


class Unit(StrEnum):
    """What an account counts in: 1e-9 USD for people, millisatoshi for agents."""

    NANOUSD = "nanousd"
    MSAT = "msat"


@dataclass(frozen=True, slots=True)
class Rate:
    """What one bitcoin buys, in microusd. Zero where no conversion is needed (accounts in nanousd)."""

    microusd_per_btc: int


NO_RATE = Rate(0)


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer division that rounds up; both are non-negative."""
    return -(-numerator // denominator)


def amount_ratio(*, margin_ppm: int, unit: Unit, rate: Rate) -> tuple[int, int]:
    """An amount is picousd times the first over the second, rounded up.

    Errors: ValueError when an msat account comes without a rate.
    """
    if unit is Unit.NANOUSD:
        return margin_ppm, PICOUSD_PER_NANOUSD * MARGIN_ONE_PPM
    if rate.microusd_per_btc <= 0:
        message = "an msat account needs a rate"
        raise ValueError(message)
    # 1 BTC = 1e11 msat = rate microusd = rate * 1e6 picousd, and the margin is in 1e-6.
    return margin_ppm * MSAT_PER_BTC, rate.microusd_per_btc * 1_000_000 * MARGIN_ONE_PPM


def amount_of(picousd: int, *, margin_ppm: int, unit: Unit, rate: Rate) -> int:
    """Turn an exact price into an amount of the account's unit: times the margin, rounded up once.

    Errors: ValueError when an msat account comes without a rate.
    """
    times, per = amount_ratio(margin_ppm=margin_ppm, unit=unit, rate=rate)
    return ceil_div(picousd * times, per)


def usd_string(nanousd: int) -> str:
    """A decimal string of USD with no trailing zeros beyond cents: 1_234_000 -> "0.001234", 10**9 -> "1.00"."""
    sign = "-" if nanousd < 0 else ""
    whole, rest = divmod(abs(nanousd), NANOUSD_PER_USD)
    digits = f"{rest:09d}".rstrip("0")
    return f"{sign}{whole}.{digits:0<2}"


def money_object(amount: int, unit: Unit) -> dict[str, Any]:
    """Money in JSON: `{"amount": "0.001234", "currency": "USD"}` or `{"amount_msat": 1234}`."""
    if unit is Unit.MSAT:
        return {"amount_msat": amount}
    return {"amount": usd_string(amount), "currency": "USD"}


def money_header(amount: int, unit: Unit) -> bytes:
    """Money in a header: an RFC 9651 dictionary, money as strings."""
    if unit is Unit.MSAT:
        return b"amount_msat=%d" % amount
    return f'amount="{usd_string(amount)}", currency=USD'.encode()
