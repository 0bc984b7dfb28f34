"""Reads one stream: whole events out, byte for byte; usage as reported, else as counted.

Most reads bring whole events with text and nothing else. They cost a handful of byte searches, go out as they are,
and wait in the gauge to be counted when somebody asks. An event is decoded at once only where a marker of the
grammar stands in it.

Invariants: the pieces joined are the bytes fed (less the usage chunk we asked for ourselves); an event is never
sent in part unless it is longer than the grammar allows; the same bytes give the same usage and count however they
were cut.
"""

from __future__ import annotations

from msgspec.structs import replace

from gateway.core.answers.framing import Framing
from gateway.core.answers.gauge import Gauge
from gateway.core.answers.grammar import Grammar
from gateway.core.answers.plausible import PLAUSIBLE_SLACK_TOKENS, bears
from gateway.core.metering import Piece, TextCounter
from gateway.core.usage import Basis, Usage

# A report is believed without counting up to this many tokens an event (some events hold more than one), and some.
PLAUSIBLE_TOKENS_PER_EVENT = 1.2
_NOTHING = Piece(b"", b"", False)


class EventReader:
    """A `StreamReader` for streams of events."""

    def __init__(
        self, grammar: Grammar, framing: Framing, *, counter: TextCounter, strip_usage: bool, client_asked_usage: bool
    ) -> None:
        self.error = False
        self.ended = False
        self._grammar, self._framing = grammar, framing
        self._markers, self._whole_ends = grammar.markers, framing.whole_ends
        self._strip, self._asked = strip_usage, client_asked_usage
        self._gauge = Gauge(grammar.tally(counter), framing, grammar)
        self._reported: Usage | None = None
        self._final = False
        self._fresh = False  # the newest event carried running usage: it holds for all that was fed
        self._cut = False
        self._model: str | None = None
        self._kept: list[bytes] = []  # an event that has begun
        self._kept_bytes = 0
        self._edge = b""  # the last bytes kept, in case a separator has begun in them
        self._midway = False  # inside an event that is too long to be kept
        self._plain = True  # nothing kept, not midway, not ended
        self._input_bound_tokens = 0

    # Bytes in, events out.

    def feed(self, chunk: bytes) -> Piece:
        """Take what one read brought; give whole events."""
        if self._plain and chunk.endswith(self._whole_ends):
            for marker in self._markers:
                if marker in chunk:
                    return self._read(chunk)
            self._fresh = False
            self._gauge.add(chunk)
            return Piece(chunk, b"", False)
        if self.ended:
            return Piece(b"", chunk, True)
        return self._assemble(chunk)

    def close(self) -> Piece:
        """The upstream has ended: what is kept comes out. A last event may lack its blank line."""
        rest = b"".join(self._kept)
        self._kept, self._kept_bytes, self._edge = [], 0, b""
        piece = self._read(rest) if rest else _NOTHING
        if self._final or (self._grammar.closes_on_eof and self._gauge.fold().finished):
            self.ended = True
        self._plain = not self.ended
        return piece._replace(ended=self.ended)

    def _assemble(self, chunk: bytes) -> Piece:
        """A read that does not begin or end between two events."""
        before = b""
        if self._midway:
            end = self._boundary(chunk, first=True)
            if end < 0:
                self._edge = self._last_bytes(self._edge + chunk)
                return Piece(chunk, b"", False)
            before, chunk = chunk[:end], chunk[end:]
            self._midway, self._edge = False, b""
        whole = self._whole(chunk)
        after = b""
        if self._kept_bytes > self._grammar.most_event_bytes:
            after, self._kept, self._kept_bytes, self._midway = b"".join(self._kept), [], 0, True
        self._plain = not self._kept and not self._midway
        piece = self._read(whole) if whole else _NOTHING
        if piece.ended:
            return Piece(before + piece.forward, piece.tail + after, True)
        return Piece(before + piece.forward + after, b"", False) if before or after else piece

    def _whole(self, chunk: bytes) -> bytes:
        """Add a read to what is kept; take out the events that are whole now."""
        end = self._boundary(chunk, first=False)
        if end < 0:
            self._keep(chunk)
            return b""
        whole = b"".join(self._kept) + chunk[:end]
        self._kept, self._kept_bytes, self._edge = [], 0, b""
        self._keep(chunk[end:])
        return whole

    def _boundary(self, chunk: bytes, *, first: bool) -> int:
        """Where in `chunk` an event ends (0: before it), -1 where none does."""
        window = self._edge + chunk
        end = self._framing.first_boundary(window) if first else self._framing.last_boundary(window)
        return max(end - len(self._edge), 0) if end else -1

    def _keep(self, chunk: bytes) -> None:
        if chunk:
            self._kept.append(chunk)
            self._kept_bytes += len(chunk)
            self._edge = self._last_bytes(self._edge + chunk)

    def _last_bytes(self, data: bytes) -> bytes:
        size = self._framing.overlap_bytes
        return data[-size:] if size else b""

    # Events that may matter.

    def _read(self, whole: bytes) -> Piece:
        """Look into the events that show a marker; the others go out unread."""
        found = [at for marker in self._markers if (at := whole.find(marker)) >= 0]
        start = self._framing.last_boundary(whole[: min(found)]) if found else 0
        if not found or start:
            self._fresh = False
        if not found:
            self._gauge.add(whole)
            return Piece(whole, b"", False)
        out = [whole[:start]]
        events = self._framing.split(whole[start:])
        for number, event in enumerate(events):
            if len(event) > self._grammar.most_event_bytes or not any(marker in event for marker in self._markers):
                self._fresh = False
            else:
                blank = len(event) - len(event.lstrip(b"\r\n"))
                end, strip = self._heed(event)
                if strip:
                    out.append(event[:blank])
                    continue
                if end:
                    out.append(event[:blank])
                    return self._end(b"".join(out), b"".join([event[blank:], *events[number + 1 :]]))
            out.append(event)
        forward = b"".join(out)
        if forward:
            self._gauge.add(forward)
        return Piece(forward, b"", False)

    def _heed(self, event: bytes) -> tuple[bool, bool]:
        """Take what an event says of usage, errors and the end. Gives: is it the end, does it stay here."""
        sign = self._grammar.read(self._framing.payload(event), event, self._reported)
        if sign.usage is not None:
            self._reported = sign.usage
        # A running figure that nothing followed but the end is the last word.
        self._final = self._final or sign.final or (sign.end and self._fresh)
        self._fresh = sign.running
        self._model = self._model or sign.model
        self.error = self.error or sign.error
        return sign.end, sign.strip and self._strip

    def _end(self, forward: bytes, tail: bytes) -> Piece:
        self.ended, self._plain = True, False
        tail += b"".join(self._kept)
        self._kept, self._kept_bytes = [], 0
        if forward:
            self._gauge.add(forward)
        return Piece(forward, tail, True)

    @property
    def between_events(self) -> bool:
        """Whether what was given to forward ends with a whole event."""
        return not self._midway

    # Counts and usage.

    @property
    def reported(self) -> Usage | None:
        """The latest usage that the upstream reported."""
        if self._reported is None and self._grammar.closes_on_eof:
            return self._gauge.fold().running()
        return self._reported

    @property
    def model(self) -> str | None:
        """The model that the upstream says it served."""
        return self._model or self._gauge.fold().model

    def output_bound(self) -> int:
        """A cheap upper bound of the visible output tokens fed so far."""
        return self._gauge.bound()

    def count(self) -> int:
        """The visible output tokens fed so far."""
        return self._gauge.count()

    def count_without(self, forward: bytes) -> int:
        """The visible output tokens fed before `forward`, the newest piece."""
        return self._gauge.count_without(forward)

    def fit(self, forward: bytes, output_tokens: int) -> bytes:
        """The longest run of whole events from the start of `forward` within `output_tokens`. The stream is cut
        there."""
        self._cut = True
        return self._gauge.fit(forward, output_tokens)

    def usage(self, *, input_bound_tokens: int) -> tuple[Usage, Basis]:
        """Final usage: what was reported, else what was counted. A report that came before the end says what the input
        was; for the output it is only believed where nothing was fed after it."""
        self._input_bound_tokens = input_bound_tokens
        reported = self.reported
        if reported is None:
            return Usage(input_tokens=input_bound_tokens, output_tokens=self.count()), Basis.COUNTED
        complete = self._final or self._fresh or (self._grammar.closes_on_eof and not self._cut)
        if complete and not self._cut:
            return reported, Basis.REPORTED
        output = self.count() + reported.reasoning_tokens
        if not self._cut:
            output = max(output, reported.output_tokens)
        return replace(
            reported, input_tokens=reported.input_tokens or input_bound_tokens, output_tokens=output
        ), Basis.COUNTED

    def plausible(self, usage: Usage) -> bool:
        """False where the reported visible output is far above what was seen. Cheap first: most streams bring one
        event a token. Only sound for a model whose vocabulary is known and whose output is all visible."""
        visible = usage.output_tokens - usage.reasoning_tokens
        if visible <= PLAUSIBLE_TOKENS_PER_EVENT * self._gauge.events() + PLAUSIBLE_SLACK_TOKENS:
            return True
        return bears(visible, counted=self.count(), blocks=self._gauge.fold().text.channels)

    def closing(self) -> bytes:
        """Events that end the stream cleanly where it was cut, with its usage (the input as it was last given to
        `usage`, which therefore comes first). Where the dialect leaves it to the client whether usage is told, only
        if it asked."""
        return self._gauge.fold().closing(self._closing_usage())

    def _closing_usage(self) -> Usage | None:
        if self._grammar.usage_on_request and not self._asked:
            return None
        return self.usage(input_bound_tokens=self._input_bound_tokens)[0]
