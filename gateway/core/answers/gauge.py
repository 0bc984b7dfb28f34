"""How much text a stream has brought: a cheap bound at every piece, the exact count when asked, and the way back.

Pieces wait undecoded until somebody counts, or until there are too many. Before the newest piece is counted the tally is
copied, so that the relay can give back the part of it that the money does not pay for.
"""

from __future__ import annotations

from gateway.core.answers.envelope import Envelope
from gateway.core.answers.framing import Framing
from gateway.core.answers.grammar import Grammar, Tally

# What waits to be counted is counted when it has grown beyond this: it bounds the memory of a stream.
MOST_PENDING_BYTES = 16 * 1024
# How many pieces can be given back after a count: the relay holds one, another may have been under way.
MOST_RETURNABLE_PIECES = 4
# The first events of a stream are not like the others.
_LEARNING_EVENTS = 3


class Gauge:
    """The text of one stream. `text_bytes`: bytes since the last count, less what is surely not text."""

    def __init__(self, tally: Tally, framing: Framing, grammar: Grammar) -> None:
        self.tally = tally
        self._framing = framing
        self._most_event_bytes = grammar.most_event_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._text_bytes = 0
        self._counted = 0
        self._mark: Tally | None = None  # the tally before the pieces in `_since`
        self._since: list[bytes] = []
        self._envelope = Envelope()

    def add(self, piece: bytes) -> None:
        """One more piece of whole events."""
        if self._pending_bytes > MOST_PENDING_BYTES:
            self.fold()
        self._pending.append(piece)
        size = len(piece)
        self._pending_bytes += size
        self._text_bytes += size - self._envelope.bytes_in(piece)
        if self._mark is not None:
            self._since.append(piece)
            if len(self._since) > MOST_RETURNABLE_PIECES:
                self._mark, self._since = None, []

    def bound(self) -> int:
        """Tokens so far are at most this many."""
        return self._counted + self._text_bytes

    def count(self) -> int:
        """Tokens so far."""
        if self._text_bytes:
            self._counted, self._text_bytes = self.fold().text.count(), 0
        return self._counted

    def fold(self) -> Tally:
        """Read what waits, into the tally. The way back is kept for the newest piece at least."""
        if self._pending:
            pieces, self._pending, self._pending_bytes = self._pending, [], 0
            if self._mark is None:
                newest = pieces.pop()
                self._take(self.tally, b"".join(pieces))
                self._mark, self._since = self.tally.copy(), [newest]
                pieces = [newest]
            self._take(self.tally, b"".join(pieces))
        return self.tally

    def events(self) -> int:
        """A cheap count of the events so far, those that wait among them."""
        return self.tally.events + sum(piece.count(end) for piece in self._pending for end in self._framing.whole_ends)

    def fit(self, forward: bytes, output_tokens: int) -> bytes:
        """The longest run of whole events from the start of `forward` within `output_tokens`; the tally goes back to it."""
        if self._mark is not None:
            tally, pieces = self._mark, self._since
        else:
            tally, pieces = self.tally, self._pending
        self._mark, self._since, self._pending, self._pending_bytes = None, [], [], 0
        fed = b"".join(pieces)
        known = fed.endswith(forward)
        self._take(tally, fed[: len(fed) - len(forward)] if known else b"")
        fits = 0
        for event in self._framing.split(forward) if known else ():
            ahead = tally.copy()
            self._take(ahead, event)
            if ahead.text.count() > output_tokens:
                break
            tally, fits = ahead, fits + len(event)
        self.tally = tally
        self._counted, self._text_bytes = tally.text.count(), 0
        return forward[:fits]

    def _take(self, tally: Tally, data: bytes) -> None:
        if not data:
            return
        payload = self._framing.payload
        events = self._framing.split(data)
        for event in events:
            if len(event) > self._most_event_bytes:
                continue
            if tally.take_quickly(event):
                continue
            found = payload(event)
            if found is not None:
                tally.events += 1
                tally.take(found)
        if self._envelope.attempts and len(events) > 1 and tally.events >= _LEARNING_EVENTS:
            self._envelope.learn(events[-2], events[-1])
