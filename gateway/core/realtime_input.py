"""How much a realtime response hears: the conversation as its last report had it, and everything that was said since.

Two figures of everything: a bound, for what must be held, and a count, for what is charged where the upstream reports
nothing. A report replaces all that had been said when its response began, so that neither grows without need.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from gateway.core.answers.figures import Members
from gateway.core.input_text import input_text
from gateway.core.metering import TextCounter
from gateway.core.money import ceil_div
from gateway.core.realtime_events import weight_of
from gateway.core.usage import Usage

# OpenAI hears a token in 100 ms: the bound is twice as many.
HEARD_MS_EACH_TOKEN = 100
BOUND_MS_EACH_TOKEN = 50


class Said(NamedTuple):
    """What the client has said since the session began: tokens of text at most, text as it was counted, and sound."""

    text: int = 0
    counted_text: int = 0
    audio_us: int = 0


class Input:
    """The input of one session. `said` is what was said until now: kept by each response as it begins."""

    def __init__(self, bound_tokens: int, *, image_tokens: int, counter: TextCounter) -> None:
        self.said = Said(text=bound_tokens)
        self._known_text = self._known_audio = 0
        self._known_at = Said()  # what had been said when the reported response began
        self._image_tokens = image_tokens
        self._counter = counter

    def hear(self, value: Members, bytes_each_ms: int) -> None:
        """An item, settings, or what a response is asked for with."""
        if not value:
            return
        weight, said = weight_of(value), self.said
        text = input_text(msgspec.json.encode(value))
        self.said = said._replace(
            text=said.text + weight.text_bytes + weight.images * self._image_tokens,
            counted_text=said.counted_text + (self._counter(text) if text else 0),
        )
        self.hear_audio(weight.audio_bytes, bytes_each_ms)

    def hear_audio(self, audio_bytes: int, bytes_each_ms: int) -> None:
        """Sound."""
        lasting_us = ceil_div(audio_bytes * 1_000, bytes_each_ms)
        self.said = self.said._replace(audio_us=self.said.audio_us + lasting_us)

    def bound(self) -> tuple[int, int, int]:
        """What a response that begins now hears at most: tokens of text, of sound, and how long the new sound lasts."""
        said, since = self.said, self._known_at
        heard_ms = ceil_div(said.audio_us - since.audio_us, 1_000)
        audio = self._known_audio + ceil_div(heard_ms, BOUND_MS_EACH_TOKEN)
        return self._known_text + said.text - since.text, audio, heard_ms

    def counted(self, said: Said) -> tuple[int, int]:
        """What a response that began at `said` has heard, as it would be counted: tokens of text and of sound."""
        since = self._known_at
        audio = max(said.audio_us - since.audio_us, 0) // (HEARD_MS_EACH_TOKEN * 1_000)
        return self._known_text + max(said.counted_text - since.counted_text, 0), self._known_audio + audio

    def report(self, usage: Usage, said: Said | None) -> None:
        """A response is done, begun at `said`: its input and output are the conversation now."""
        total = usage.input_tokens + usage.output_tokens
        self._known_audio = min(usage.input_audio_tokens + usage.output_audio_tokens, total)
        self._known_text = total - self._known_audio
        if said is not None:
            self._known_at = said
