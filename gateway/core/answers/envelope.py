"""What the events of a stream have in common, so that most of them need not be decoded one by one.

The events of a text share their beginning (`data: {"id":"chatcmpl-...` up to the text) and what follows the text.
Both are learned from two events that follow one another. An event that has exactly this beginning and this end
differs from those in one JSON string alone, so its text is that string: many such strings are decoded in one step.
It also makes the cheap bound of a piece a tight one: of its 250 bytes perhaps five are text. Both parts hold
quotation marks that no JSON string can hold unescaped, so wherever these bytes stand they are structure, and the
bound is sound.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

# Below this a shared part saves less than the search for it costs.
_LEAST_BYTES = 16
# How often a stream may change its form (reasoning, text, tool calls) before learning is given up.
_ATTEMPTS = 12
# What may stand behind the shared end: a value that differs from event to event, as OpenAI's `obfuscation`.
_MOST_REST_BYTES = 64
# No event begins with it.
_NEVER = b"\x00"
_STRINGS = msgspec.json.Decoder(list[str])


class Envelope:
    """Learned from two events, learned anew when the stream changes its form."""

    __slots__ = ("_after", "_head", "_head_bytes", "_to_the_end", "attempts", "channel")

    def __init__(self) -> None:
        self.attempts = _ATTEMPTS
        self.channel: Hashable = None
        self._head = _NEVER
        self._head_bytes = 1
        self._after = b""
        self._to_the_end = False

    def learn(self, one: bytes, other: bytes, channel: Hashable, text: str) -> None:
        """From two events that follow one another; `text` is all that `other` says, and belongs to `channel`."""
        self.attempts -= 1
        head = one[: _shared(one, other)]
        # Up to the last opening quotation mark of a value: behind it the texts may begin alike.
        head = head[: head.rfind(b':"') + 2]
        begin, other_begin = one.find(b'"}', len(head)) + 1, other.find(b'"}', len(head)) + 1
        if len(head) < _LEAST_BYTES or not begin or not other_begin:
            return
        after = one[begin : begin + _shared(one[begin:], other[other_begin:])]
        to_the_end = begin + len(after) == len(one) and other_begin + len(after) == len(other)
        if not to_the_end:
            after = after[: after.rfind(b':"') + 2]
        if len(after) < 2 or strings([other[len(head) : other_begin]]) != [text]:
            return
        self.channel, self._head, self._head_bytes = channel, head, len(head)
        self._after, self._to_the_end = after, to_the_end

    def content(self, event: bytes) -> bytes | None:
        """The text of an event of the learned form: its JSON string without the opening quotation mark."""
        if not event.startswith(self._head):
            return None
        if self._to_the_end:
            return event[self._head_bytes : -len(self._after)] if event.endswith(self._after) else None
        at = event.find(self._after, self._head_bytes)
        rest = event[at + len(self._after) :] if at >= 0 else b""
        if not rest or len(rest) > _MOST_REST_BYTES or rest.count(b'"') != 1 or b"\\" in rest:
            return None
        return event[self._head_bytes : at]

    def text_bytes(self, piece: bytes) -> int:
        """At most so many bytes of the piece are text."""
        if not piece.startswith(self._head):
            return len(piece)
        if len(piece) < 2 * self._head_bytes:
            content = self.content(piece)
            if content is not None:
                return len(content) - 1
        envelope = piece.count(self._head) * self._head_bytes
        if len(self._after) >= _LEAST_BYTES:
            envelope += piece.count(self._after) * len(self._after)
        return len(piece) - envelope


def strings(contents: list[bytes]) -> list[str] | None:
    """The texts of `contents`, decoded in one step; None where one of them is not exactly one string."""
    try:
        decoded = _STRINGS.decode(b'["' + b',"'.join(contents) + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return decoded if len(decoded) == len(contents) else None


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two events begin with in common."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
