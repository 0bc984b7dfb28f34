"""How much text a stream has brought: a cheap bound at every piece, the exact count when asked, and the way back.

Pieces wait until somebody counts, or until they are many; then their texts are taken out, those of the usual form
in one step. Before the newest piece is counted the tally is copied, so that the relay can give back the part of it
that the money does not pay for.
"""

from __future__ import annotations

from collections.abc import Hashable

from gateway.core.answers.envelope import Envelope, strings
from gateway.core.answers.figures import decoded
from gateway.core.answers.framing import Framing
from gateway.core.answers.grammar import Grammar, Tally

# Its texts are taken out of what waits when that has grown beyond this: it bounds the memory of a stream.
MOST_PENDING_BYTES = 16 * 1024
# How many pieces can be given back after a count: the relay holds one, another may have been under way.
MOST_RETURNABLE_PIECES = 4


class Gauge:
    """The text of one stream, of which nothing is counted twice and nothing is lost."""

    def __init__(self, tally: Tally, framing: Framing, grammar: Grammar) -> None:
        self.tally = tally
        self._framing = framing
        self._most_event_bytes = grammar.most_event_bytes
        self._envelope = Envelope()
        self._previous = b""  # the last event of another form, to learn from with the next
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._text_bytes = 0  # bytes since the last count that may be text
        self._counted = 0
        self._mark: Tally | None = None  # the tally before the pieces in `_since`
        self._since: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """One more piece of whole events."""
        if self._pending_bytes > MOST_PENDING_BYTES:
            self.fold()
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        self._text_bytes += self._envelope.text_bytes(piece)
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

    def count_without(self, forward: bytes) -> int:
        """Tokens before `forward`, the newest piece; 0 where that can no longer be told. Nothing changes."""
        if self._mark is not None:
            tally, pieces = self._mark, self._since
        else:
            tally, pieces = self.tally, self._pending
        fed = b"".join(pieces)
        if not fed.endswith(forward):
            return 0
        before = tally.copy()
        self._take(before, fed[: len(fed) - len(forward)])
        return before.text.count()

    def fit(self, forward: bytes, output_tokens: int) -> bytes:
        """The longest run of whole events from the start of `forward` within `output_tokens`; the tally goes back
        to it."""
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
        """Read events into a tally, runs of the usual form in one step."""
        envelope = self._envelope
        run: list[bytes] = []
        for event in self._framing.split(data):
            content = envelope.content(event)
            if content is not None and (run or tally.text.has(envelope.channel)):
                run.append(content)
                continue
            if run:
                self._take_run(tally, run)
                run = []
            if len(event) > self._most_event_bytes:
                continue
            payload = self._framing.payload(event)
            if payload is None:
                continue
            tally.events += 1
            tally.take(payload)
            if envelope.attempts:
                self._learn(event, tally.plain_text(payload))
        if run:
            self._take_run(tally, run)

    def _learn(self, event: bytes, plain: tuple[Hashable, str] | None) -> None:
        if plain is not None and self._previous:
            self._envelope.learn(self._previous, event, *plain)
        self._previous = event if plain is not None else b""

    def _take_run(self, tally: Tally, contents: list[bytes]) -> None:
        """Texts of events of the usual form."""
        tally.events += len(contents)
        texts = strings(contents)
        if texts is not None:
            tally.text.add(self._envelope.channel, "".join(texts))
            return
        for content in contents:  # one of them is half of a surrogate pair, or broken
            text = decoded(b'{"":"' + content + b"}")
            if text is not None:
                tally.text.add(self._envelope.channel, text[""])
