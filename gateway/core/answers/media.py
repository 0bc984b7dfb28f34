"""Transcriptions, images and speech.

A transcription is billed by tokens or by duration, as its usage says. Image streams carry whole pictures in their
events; their usage comes with the finished one. Speech is bytes of sound, or events that end with usage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from gateway.core.answers import openai
from gateway.core.answers.figures import Members, listed, member, milliseconds, string
from gateway.core.answers.grammar import MOST_LARGE_EVENT_BYTES, NOTHING, Grammar, Sign, Tally
from gateway.core.answers.rope import Rope, longer, text_of
from gateway.core.metering import Piece, TextCounter
from gateway.core.usage import Basis, Usage


def transcription_usage(body: Members) -> Usage | None:
    """Usage of a transcription: by duration or by tokens. Verbose answers without usage tell the duration too."""
    reported = member(body, "usage")
    if string(reported, "type") == "duration" or "seconds" in reported:
        duration = milliseconds(reported, "seconds")
        return Usage(audio_ms=duration) if duration is not None else None
    usage = openai.usage_of(body.get("usage"))
    if usage is not None:
        # Mistral tells both.
        return replace(usage, audio_ms=milliseconds(reported, "prompt_audio_seconds") or 0)
    duration = milliseconds(body, "duration")
    return Usage(audio_ms=duration) if duration is not None else None


def transcription_texts(body: Members) -> Iterator[str]:
    """The text."""
    text = string(body, "text")
    if text is not None:
        yield text


def images_usage(body: Members) -> Usage | None:
    """Usage of generated images. Where it does not say otherwise, all output is image."""
    usage = openai.usage_of(body.get("usage"))
    if usage is None:
        return None
    details = member(member(body, "usage"), "output_tokens_details")
    images = len(listed(body, "data"))
    if "image_tokens" in details or "text_tokens" in details:
        return replace(usage, images=images)
    return replace(usage, images=images, output_image_tokens=usage.output_tokens)


def image_texts(_: Members) -> Iterator[str]:
    """Images have no text."""
    return iter(())


class TranscriptTally(Tally):
    """Events of a transcription."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.transcript: Rope | None = None

    def take(self, payload: Members) -> None:
        """More of the transcript."""
        delta = payload.get("delta")
        if payload.get("type") == "transcript.text.delta" and isinstance(delta, str):
            self.text.add(0, delta)
            self.transcript = longer(self.transcript, delta)

    def closing(self, usage: Usage | None) -> bytes:
        """`transcript.text.done` with what was delivered."""
        event: Members = {"type": "transcript.text.done", "text": text_of(self.transcript)}
        if usage is not None:
            event["usage"] = {
                "type": "tokens",
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }
        return b"data: " + msgspec.json.encode(event) + b"\n\n"


class SilentTally(Tally):
    """Events without text; a cut needs no closing event, because none would make the picture or the sound whole."""

    def take(self, payload: Members) -> None:
        """Nothing to count."""

    def closing(self, usage: Usage | None) -> bytes:
        """Nothing."""
        return b""


def _reading(
    done: str, usage_in: Callable[[Members], Usage | None]
) -> Callable[[Members | None, bytes, Usage | None], Sign]:
    """A reader of events of which those whose type ends with `done` carry usage."""

    def read(payload: Members | None, _: bytes, __: Usage | None) -> Sign:
        if payload is None:
            return NOTHING
        kind = string(payload, "type") or ""
        if kind.endswith(done):
            usage = usage_in(payload)
            # Of several images each has its own event, so the first finished one is not the end.
            return Sign(usage=usage, final=usage is not None, end=done != ".completed", model=string(payload, "model"))
        return Sign(error=kind == "error" or payload.get("error") is not None)

    return read


TRANSCRIPTS = Grammar(
    markers=(b"transcript.text.done", b'"error"'),
    read=_reading("transcript.text.done", transcription_usage),
    tally=TranscriptTally,
)
IMAGES = Grammar(
    markers=(b'.completed"', b'"error"'),
    read=_reading(".completed", images_usage),
    tally=SilentTally,
    most_event_bytes=MOST_LARGE_EVENT_BYTES,
)
SPEECH = Grammar(
    markers=(b"speech.audio.done", b'"error"'),
    read=_reading("speech.audio.done", lambda body: openai.usage_of(body.get("usage"))),
    tally=SilentTally,
)


class PassingReader:
    """Bytes that nobody looks into. What they cost stands in the request."""

    error = False
    reported: Usage | None = None
    model: str | None = None

    def __init__(self, basis: Basis) -> None:
        self._basis = basis

    def feed(self, chunk: bytes) -> Piece:
        """As it came."""
        return Piece(chunk, b"", False)

    def close(self) -> Piece:
        """The end of the bytes is the end of the answer."""
        return Piece(b"", b"", True)

    @property
    def between_events(self) -> bool:
        """There are none: nothing may be put in between."""
        return False

    def output_bound(self) -> int:
        """No tokens."""
        return 0

    def count(self) -> int:
        """No tokens."""
        return 0

    def count_without(self, forward: bytes) -> int:
        """No tokens."""
        return 0

    def fit(self, forward: bytes, output_tokens: int) -> bytes:
        """Nothing in it is paid by the token."""
        return forward

    def usage(self, *, input_bound_tokens: int) -> tuple[Usage, Basis]:
        """What the request bounds."""
        return Usage(input_tokens=input_bound_tokens), self._basis

    def plausible(self, usage: Usage) -> bool:
        """Nothing speaks against it."""
        return True

    def closing(self) -> bytes:
        """Nothing."""
        return b""
