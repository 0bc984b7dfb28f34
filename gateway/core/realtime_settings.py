"""What a realtime session is set to, as far as it decides what a response may cost.

The upstream's own `session.created` and `session.updated` tell what holds. What the client has asked for meanwhile may
hold already, so until it is confirmed the dearer of both counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from gateway.core.answers.figures import Members, member, string

# Bytes of sound a millisecond: 16 bits at 24 kHz, or 8 bits at 8 kHz.
PCM_BYTES_EACH_MS = 48
_BYTES_EACH_MS: Mapping[str, int] = MappingProxyType(
    {"audio/pcm": 48, "pcm16": 48, "audio/pcmu": 8, "audio/pcma": 8, "g711_ulaw": 8, "g711_alaw": 8}
)
_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """`output_limit_tokens` None: no limit is named. `detects_turns`: sound alone may begin a response.
    `answers_silence`: so may its absence."""

    model: str | None = None
    output_limit_tokens: int | None = None
    audio_output: bool = True
    input_bytes_each_ms: int = PCM_BYTES_EACH_MS
    output_bytes_each_ms: int = PCM_BYTES_EACH_MS
    transcription_model: str | None = None
    detects_turns: bool = True
    answers_silence: bool = False

    def dearer(self, other: SessionSettings) -> SessionSettings:
        """The worst of two settings that may hold."""
        limits = (self.output_limit_tokens, other.output_limit_tokens)
        return SessionSettings(
            model=self.model,
            output_limit_tokens=None if None in limits else max(limit for limit in limits if limit is not None),
            audio_output=self.audio_output or other.audio_output,
            input_bytes_each_ms=min(self.input_bytes_each_ms, other.input_bytes_each_ms),
            output_bytes_each_ms=min(self.output_bytes_each_ms, other.output_bytes_each_ms),
            transcription_model=other.transcription_model or self.transcription_model,
            detects_turns=self.detects_turns or other.detects_turns,
            answers_silence=self.answers_silence or other.answers_silence,
        )


def read_settings(session: Members, before: SessionSettings) -> SessionSettings:
    """The settings after `session` was applied to those before; what it does not name stays."""
    heard, spoken = member(member(session, "audio"), "input"), member(member(session, "audio"), "output")
    transcription = _named(session, "input_audio_transcription", heard, "transcription")
    turns = _named(session, "turn_detection", heard, "turn_detection")
    settings = replace(
        before,
        model=string(session, "model") or before.model,
        output_limit_tokens=output_limit(session, before.output_limit_tokens),
        audio_output=speaks_aloud(session, before=before.audio_output),
        input_bytes_each_ms=_rate(session, "input_audio_format", heard, before.input_bytes_each_ms),
        output_bytes_each_ms=_rate(session, "output_audio_format", spoken, before.output_bytes_each_ms),
    )
    if transcription is not _ABSENT:
        settings = replace(settings, transcription_model=string(transcription, "model"))
    if turns is not _ABSENT:
        detects = isinstance(turns, dict) and turns.get("create_response") is not False
        idle = isinstance(turns, dict) and turns.get("idle_timeout_ms") is not None
        settings = replace(settings, detects_turns=detects, answers_silence=idle)
    return settings


def output_limit(asked: Members, before: int | None) -> int | None:
    """The limit that a session or a response names; "inf" is none."""
    for name in ("max_output_tokens", "max_response_output_tokens"):
        if name in asked:
            value = asked[name]
            return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
    return before


def speaks_aloud(asked: Members, *, before: bool) -> bool:
    """Whether the output may be sound."""
    for name in ("output_modalities", "modalities"):
        value = asked.get(name)
        if isinstance(value, list):
            return "audio" in value
    return before


def _named(session: Members, old_name: str, holder: Members, name: str) -> Any:
    """A member of either generation's shape."""
    if old_name in session:
        return session[old_name]
    return holder.get(name, _ABSENT)


def _rate(session: Members, old_name: str, holder: Members, before: int) -> int:
    named = session.get(old_name) or member(holder, "format").get("type")
    return _BYTES_EACH_MS.get(named, before) if isinstance(named, str) else before
