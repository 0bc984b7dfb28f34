"""What a request cost, as a comment in its own stream: `: farebox {...}`, one line directly before the last event.

A comment line with its line end and nothing more: a blank line behind it would be an empty event, which some
parsers hand on. Taking the line out gives the upstream's bytes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core import sse

_LEAD = b": farebox "


def sse_comment(
    *,
    request_id: str,
    cost: Mapping[str, Any],
    balance: Mapping[str, Any] | None,
    usage: Mapping[str, Any],
    final: bool,
    cut: str | None,
) -> bytes:
    """The comment line. `cost` and `balance` are money objects (None: it is not theirs to see); `final` is False where
    the posting is not acknowledged yet."""
    members = {
        "request_id": request_id,
        "cost": cost,
        "balance": balance,
        "usage": usage,
        "final": final,
        "cut": cut,
    }
    return _LEAD + msgspec.json.encode(members) + b"\n"


def place_comment(comment: bytes, tail: bytes) -> bytes:
    """`tail`, the events that end a stream, with the comment directly before the last of them (`data: [DONE]`,
    `event: message_stop`, `response.completed`); alone where there is no tail."""
    events = sse.split(tail)
    last = len(events) - 1
    while last > 0 and sse.data_of(events[last]) is None:
        last -= 1
    before = b"".join(events[:last])
    rest = b"".join(events[last:])
    blank = sse.blank_prefix(rest)
    return before + rest[:blank] + comment + rest[blank:]


def without_comments(stream: bytes) -> bytes:
    """The upstream's bytes again: every comment line of ours taken out."""
    lines = stream.splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(_LEAD))
