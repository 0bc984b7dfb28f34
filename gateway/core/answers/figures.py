"""Figures as upstreams report them, made safe.

An upstream may leave a figure out, send null, a string, a negative or an absurd number. All of these count as
missing: no figure that is charged ever comes from them. A part larger than its whole is a contradiction and counts
as missing too.
"""

from __future__ import annotations

import json
from decimal import Decimal
from math import ceil
from typing import Any

import msgspec

# Ten times the largest context window on offer; no request has more tokens.
MOST_TOKENS = 100_000_000
# A day, the longest recording that makes sense.
MOST_MS = 86_400_000
# 10,000 USD for one request.
MOST_COST_PICOUSD = 10_000 * 10**12

Members = dict[str, Any]


def decoded(data: bytes) -> Members | None:
    """The JSON object in `data`, None when it is none. What the strict decoder refuses gets a second, lenient reading:
    servers split surrogate pairs over two events, and write NaN."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def member(owner: Any, name: str) -> Members:
    """The object under `name`; an empty one where there is none."""
    value = owner.get(name) if isinstance(owner, dict) else None
    return value if isinstance(value, dict) else {}


def listed(owner: Any, name: str) -> list[Any]:
    """The list under `name`; an empty one where there is none."""
    value = owner.get(name) if isinstance(owner, dict) else None
    return value if isinstance(value, list) else []


def string(owner: Any, name: str) -> str | None:
    """The non-empty string under `name`."""
    value = owner.get(name) if isinstance(owner, dict) else None
    return value if isinstance(value, str) and value else None


def figure(owner: Members, *names: str, most: int = MOST_TOKENS) -> int | None:
    """The first of the named members that is a sane count. Servers written in JavaScript may send 12.0 for 12."""
    for name in names:
        value = owner.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
    return None


def part(owner: Members, *names: str, whole: int) -> int:
    """A figure that is included in `whole`; 0 when it is missing or larger."""
    value = figure(owner, *names)
    return value if value is not None and value <= whole else 0


def milliseconds(owner: Members, name: str) -> int | None:
    """Seconds under `name`, as milliseconds rounded up."""
    value = owner.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_MS / 1000:
        return None
    return ceil(Decimal(str(value)) * 1000)


def picousd(owner: Members, name: str) -> int | None:
    """A cost in USD under `name`, as picousd rounded up. `str` of a float is its shortest form, so 0.1 stays 0.1."""
    value = owner.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_COST_PICOUSD / 1e12:
        return None
    return ceil(Decimal(str(value)) * 10**12)


def calls(owner: Members, *, suffix: str) -> tuple[tuple[str, int], ...]:
    """Members named `<tool><suffix>` with a count above zero: the server tools that ran."""
    found = [(name, figure(owner, name)) for name in owner if name.endswith(suffix)]
    return tuple(sorted((name.removesuffix(suffix), count) for name, count in found if count))
