"""How many bytes of a piece are surely not text.

A token has at least one byte of text, so the bytes of a piece bound its tokens; but of the 250 bytes of an event five may be
text, and a bound fifty times too high would make the relay count all the time. The events of a stream share their beginning
(`data: {"id":"chatcmpl-...` up to the text) and what follows the text. Both hold quotation marks that no JSON string can
hold unescaped, so wherever these very bytes stand they are structure. Learned from two events; the bound stays sound.
"""

from __future__ import annotations

# Below this a search costs more than it saves.
_LEAST_BYTES = 24


class Envelope:
    """Learned once a stream. `attempts`: how often it is still worth trying."""

    __slots__ = ("_head", "_middle", "attempts")

    def __init__(self) -> None:
        self.attempts = 8
        self._head = b""
        self._middle = b""

    def learn(self, one: bytes, other: bytes) -> None:
        """From two events of text that follow one another."""
        self.attempts -= 1
        head = one[: _shared(one, other)]
        # Up to the last opening quotation mark of a value: behind it text may begin.
        head = head[: head.rfind(b':"') + 2]
        if len(head) < _LEAST_BYTES or b'{"' not in head:
            return
        self.attempts, self._head = 0, head
        self._middle = _after_text(one[len(head) :], other[len(head) :])

    def bytes_in(self, piece: bytes) -> int:
        """Bytes of the piece that are envelope."""
        if not self._head:
            return 0
        found = piece.count(self._head) * len(self._head)
        return found + piece.count(self._middle) * len(self._middle) if self._middle else found


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two events begin with in common."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


def _after_text(one: bytes, other: bytes) -> bytes:
    """What follows the text in both events: from the bracket behind its closing quotation mark to the next value that may
    differ, or to the end. A string cannot hold `},"` followed by a name, so this is structure wherever it stands."""
    begin, other_begin = one.find(b'"},"') + 1, other.find(b'"},"') + 1
    if not begin or not other_begin:
        return b""
    shared = one[begin : begin + _shared(one[begin:], other[other_begin:])]
    if begin + len(shared) < len(one):
        shared = shared[: shared.rfind(b':"') + 2]
    return shared if len(shared) >= _LEAST_BYTES else b""
