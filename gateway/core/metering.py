"""What the relay needs of a dialect's stream reader.

Chunks of any size go in; whole events come out, byte for byte as they came. Reading is lazy: a chunk that can carry
neither usage nor the end costs a byte search, and text is counted only when somebody asks (near the end of a hold, at a
checkpoint, at a cut), or when what is pending grows beyond a limit.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from gateway.core.usage import Basis, Usage


class Piece(NamedTuple):
    """What one `feed` gives: `forward` goes out now, in one write. `tail` is held until the request is settled (the
    event that ends the answer: `data: [DONE]`, `event: message_stop`, `response.completed`, Ollama's last line); it is
    empty until the stream has ended. `ended` is true once the last event was seen."""

    forward: bytes
    tail: bytes
    ended: bool


class TextCounter(Protocol):
    """Counts tokens of text for one model; synchronous and pure."""

    def __call__(self, text: str) -> int: ...


class StreamReader(Protocol):
    """Reads one stream. All counts are of what was fed so far and are never less after another feed."""

    error: bool  # the stream carried an error object

    @property
    def between_events(self) -> bool:
        """Whether what was given to forward ends with a whole event."""
        ...

    @property
    def reported(self) -> Usage | None:
        """The latest usage the upstream reported (cumulative), None before."""
        ...

    @property
    def model(self) -> str | None:
        """The model that the upstream says it served, None where it does not say."""
        ...

    def feed(self, chunk: bytes) -> Piece:
        """Take what one read of the upstream returned; give whole events (an incomplete last one is kept)."""
        ...

    def close(self) -> Piece:
        """The upstream has ended: whatever is still kept comes out."""
        ...

    def output_bound(self) -> int:
        """A cheap upper bound of the output tokens fed so far (bytes since the last count, plus the count)."""
        ...

    def count(self) -> int:
        """Exact count of the visible output tokens fed so far, by the model's vocabulary; lowers `output_bound`."""
        ...

    def count_without(self, forward: bytes) -> int:
        """The count without `forward`, the last piece fed and not yet sent: what was delivered. Changes nothing."""
        ...

    def fit(self, forward: bytes, output_tokens: int) -> bytes:
        """Of `forward`, the last piece fed and not yet sent: the longest run of whole events from its start with which
        the stream's count stays within `output_tokens`. The count goes back to what then was delivered."""
        ...

    def usage(self, *, input_bound_tokens: int) -> tuple[Usage, Basis]:
        """Final usage: what was reported, else what was counted (input from `input_bound_tokens`)."""
        ...

    def plausible(self, usage: Usage) -> bool:
        """False where the reported visible output (output less reasoning) is far above what was seen. Only sound where
        the vocabulary is exact and every output token shows."""
        ...

    def closing(self) -> bytes:
        """Events that end the stream cleanly where it was cut, in the dialect (finish_reason length / max_tokens /
        ...), with usage if the client asked for it: call `usage` before, it tells the input."""
        ...
