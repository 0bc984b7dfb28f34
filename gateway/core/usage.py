"""What a request used, in one shape for all dialects.

Totals include their parts, as OpenAI counts: `input_tokens` includes cached, cache-write, audio and image input;
`output_tokens` includes reasoning, audio and image output. Dialects that count otherwise (Anthropic's input excludes
the cache, Gemini's candidates exclude thoughts) are brought into this shape where they are read.

`Usage` is a structure of msgspec because one is made for every request: a tenth of a microsecond, where a frozen
dataclass of so many fields takes four.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from msgspec import Struct, json
from msgspec.structs import astuple, replace


class Basis(StrEnum):
    """Where a usage comes from: the upstream's own report, our count of what was delivered, or a bound."""

    REPORTED = "reported"
    COUNTED = "counted"
    ESTIMATED = "estimated"


class Usage(Struct, frozen=True, gc=False):
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
        if self._is_plain():
            return members
        for name in _OCCASIONAL:
            value = getattr(self, name)
            if value:
                members[name] = dict(value) if name == "tool_calls" else value
        return members

    def as_json(self) -> bytes:
        """The same members as JSON."""
        if not self._is_plain():
            return json.encode(self.as_members())
        return _PLAIN % (
            self.input_tokens, self.cached_input_tokens, self.cache_write_tokens, self.output_tokens,
            self.reasoning_tokens,
        )  # fmt: skip

    def _is_plain(self) -> bool:
        """Whether the principal figures say it all."""
        values = astuple(self)
        return not (any(values[3:7]) or any(values[9:]))


NO_USAGE = Usage()
_ALWAYS = frozenset({"input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"})
_OCCASIONAL = tuple(name for name in Usage.__struct_fields__ if name not in _ALWAYS)
_PLAIN = (
    b'{"input_tokens":%d,"cached_input_tokens":%d,"cache_write_tokens":%d,"output_tokens":%d,"reasoning_tokens":%d}'
)


def added(one: Usage, other: Usage) -> Usage:
    """Two usages of one piece of work together. The tier is the latest that was told."""
    sums = {name: getattr(one, name) + getattr(other, name) for name in _COUNTS}
    calls = Counter(dict(one.tool_calls))
    calls.update(dict(other.tool_calls))
    reported = (one.reported_cost_picousd, other.reported_cost_picousd)
    return Usage(
        **sums,
        tool_calls=tuple(sorted(calls.items())),
        service_tier=other.service_tier or one.service_tier,
        reported_cost_picousd=None if reported == (None, None) else sum(each or 0 for each in reported),
    )


_COUNTS = tuple(
    name for name in Usage.__struct_fields__ if name not in {"tool_calls", "service_tier", "reported_cost_picousd"}
)
