"""Identifiers that carry their partition.

A request and its hold share one tail, so that either is found from the other without a look-up.
"""

from __future__ import annotations

HOLD_PREFIX = "ho_"
REQUEST_PREFIX = "req_"


def hold_of_request(request_id: str) -> str:
    """`req_7f...` -> `ho_7f...`."""
    return HOLD_PREFIX + request_id.removeprefix(REQUEST_PREFIX)


def request_of_hold(hold_id: str) -> str:
    """`ho_7f...` -> `req_7f...`."""
    return REQUEST_PREFIX + hold_id.removeprefix(HOLD_PREFIX)


def is_request_id(text: str) -> bool:
    """Whether this is an id that we could have given: prefix, then 26 to 40 lower-case hex digits."""
    tail = text.removeprefix(REQUEST_PREFIX)
    return tail != text and 26 <= len(tail) <= 40 and all(c in "0123456789abcdef" for c in tail)
