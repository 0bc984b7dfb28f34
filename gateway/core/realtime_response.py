"""One realtime response: what it was bounded by when it was let through, and what it has shown since."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.metering import TextCounter
from gateway.core.realtime_events import RealtimeEvent
from gateway.core.realtime_input import Said

# OpenAI speaks a token in 50 ms.
SPOKEN_MS_EACH_TOKEN = 50


@dataclass(slots=True)
class Response:
    """A response that was asked for or runs. `bound` is in picousd times the margin."""

    bound: int
    limit_tokens: int
    named_limit_tokens: int | None
    said: Said
    in_conversation: bool = True
    event_id: str | None = None
    texts: list[str] = field(default_factory=list)
    text_bound: int = 0  # tokens of `texts` at most
    audio_bytes: int = 0
    bytes_each_ms: int = 1

    @property
    def shows(self) -> bool:
        """Whether anything of it was seen."""
        return bool(self.texts or self.audio_bytes)

    @property
    def audio_tokens(self) -> int:
        """Tokens of the sound so far."""
        return self.audio_bytes // (self.bytes_each_ms * SPOKEN_MS_EACH_TOKEN)

    def show(self, event: RealtimeEvent) -> None:
        """More of it."""
        if event.adds_audio:
            self.audio_bytes += event.audio_bytes
        else:
            text = event.delta_text
            self.texts.append(text)
            self.text_bound += len(text.encode(errors="replace"))

    def take_back(self, event: RealtimeEvent) -> None:
        """What was shown last was not passed on."""
        if event.adds_audio:
            self.audio_bytes -= event.audio_bytes
        elif event.adds_text:
            self.texts.pop()

    def text_tokens(self, counter: TextCounter) -> int:
        """The text so far, counted."""
        return counter("".join(self.texts))

    def exceeds(self, counter: TextCounter) -> bool:
        """Whether it has brought more than it was bounded by. Counted only where the bytes do not say."""
        if self.text_bound + self.audio_tokens <= self.limit_tokens:
            return False
        self.text_bound = self.text_tokens(counter)
        return self.text_bound + self.audio_tokens > self.limit_tokens
