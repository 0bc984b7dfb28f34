"""Money as people write it: `{"amount": "50.00", "currency": "USD"}` or a decimal string. Never a float."""

from __future__ import annotations

import re
from datetime import datetime

from gateway.core.accounts import GREATEST_ARGUMENT
from gateway.core.errors import InvalidRequest
from gateway.core.money import NANOUSD_PER_USD, usd_string

_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,9}))?")


def parse_money(value: object, param: str) -> int:
    """Nanousd. Errors: InvalidRequest naming the member."""
    amount = value
    if isinstance(value, dict):
        for name in value:
            if name not in ("amount", "currency"):
                raise InvalidRequest("money has amount and currency, no other member", param=f"{param}.{name}"[:100])
        if value.get("currency") != "USD":
            raise InvalidRequest('must be "USD"', param=f"{param}.currency")
        amount, param = value.get("amount"), f"{param}.amount"
    found = _DECIMAL.fullmatch(amount) if isinstance(amount, str) else None
    if found is None:
        raise InvalidRequest('must be a decimal string of USD with at most 9 decimals, e.g. "50.00"', param=param)
    nanousd = int(found[1]) * NANOUSD_PER_USD + int((found[2] or "").ljust(9, "0"))
    if nanousd > GREATEST_ARGUMENT:
        raise InvalidRequest(f"must be at most {usd_string(GREATEST_ARGUMENT)} USD", param=param)
    return nanousd


def parse_instant(value: object, param: str) -> int:
    """An RFC 3339 instant, in ms. Errors: InvalidRequest naming the member."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or not 2000 <= instant.year <= 2200:
        raise InvalidRequest("must be an RFC 3339 instant, e.g. 2026-12-31T18:00:00Z", param=param)
    return int(instant.timestamp()) * 1_000 + instant.microsecond // 1_000
