"""What a request used, in one shape for all dialects.

Totals include their parts, as OpenAI counts: `input_tokens` includes cached, cache-write, audio and image input;
`output_tokens` includes reasoning, audio and image output. Dialects that count otherwise (Anthropic's input excludes
the cache, Gemini's candidates exclude thoughts) are brought into this shape where they are read.

`Usage` is never changed once made, but not frozen: one is made for every request, and a frozen one takes 4 us.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum


class Basis(StrEnum):
    """Where a usage comes from: the upstream's own report, our count of what was delivered, or a bound."""

    REPORTED = "reported"
    COUNTED = "counted"
    ESTIMATED = "estimated"


@dataclass(slots=True, unsafe_hash=True)
class Usage:
    """Tokens (and seconds, images, characters, calls) of one request; every field a non-negative integer."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0  # the part of cache_write_tokens that is kept for an hour (Anthropic)
    input_audio_tokens: int = 0
    cached_input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    audio_ms: int = 0  # transcription billed by duration
    characters: int = 0  # speech billed by the character
    images: int = 0  # images billed by the piece
    tool_calls: tuple[tuple[str, int], ...] = ()  # server tools with a fee: (name, count)
    service_tier: str | None = None
    input_video_tokens: int = 0
    output_video_tokens: int = 0
    reported_cost_picousd: int | None = None  # a cost the upstream reports of itself: recorded, not charged

    def with_output(self, output_tokens: int) -> Usage:
        """The same usage with another number of output tokens."""
        return replace(self, output_tokens=output_tokens)

    def as_members(self) -> dict[str, object]:
        """JSON members: the four principal figures always, the others where they are not zero."""
        members: dict[str, object] = {
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
        }
        for name in _OCCASIONAL:
            value = getattr(self, name)
            if value:
                members[name] = dict(value) if name == "tool_calls" else value
        return members


_ALWAYS = frozenset({"input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"})
_OCCASIONAL = tuple(field.name for field in fields(Usage) if field.name not in _ALWAYS)
