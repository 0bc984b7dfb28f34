"""Identifiers that carry their partition.

A request and its hold share one tail, so that either is found from the other without a look-up; so do an organization
and its account. Texts of strangers become ids here, once, at the edge: below it every id names a partition.
"""

from __future__ import annotations

import re

HOLD_PREFIX = "ho_"
REQUEST_PREFIX = "req_"
QUOTE_PREFIX = "q_"
ORG_PREFIX, ACCOUNT_PREFIX = "org_", "ac_"
_ACCOUNT = re.compile(r"(?:org|ac)_([0-9a-f]{2,64})", re.ASCII)


def hold_of_request(request_id: str) -> str:
    """`req_7f...` -> `ho_7f...`."""
    return HOLD_PREFIX + request_id.removeprefix(REQUEST_PREFIX)


def request_of_hold(hold_id: str) -> str:
    """`ho_7f...` -> `req_7f...`."""
    return REQUEST_PREFIX + hold_id.removeprefix(HOLD_PREFIX)


def quote_of_request(request_id: str) -> str:
    """`req_7f...` -> `q_7f...`: the quote in the headers of a request that nobody was asked about."""
    return QUOTE_PREFIX + request_id.removeprefix(REQUEST_PREFIX)


def is_request_id(text: str) -> bool:
    """Whether this is an id that we could have given: prefix, then 26 to 40 lower-case hex digits."""
    tail = text.removeprefix(REQUEST_PREFIX)
    return tail != text and 26 <= len(tail) <= 40 and all(c in "0123456789abcdef" for c in tail)


def account_id(text: str) -> str | None:
    """The account that a text names by its own id or its organization's: `org_7f...` and `ac_7f...` -> `ac_7f...`. None
    where it is no such id."""
    found = _ACCOUNT.fullmatch(text)
    return f"{ACCOUNT_PREFIX}{found[1]}" if found else None


def org_of_account(account: str) -> str:
    """The organization whose account this would be: `ac_7f...` -> `org_7f...`. A person's own account has none."""
    return ORG_PREFIX + account.removeprefix(ACCOUNT_PREFIX)
