"""Reads the frames of OpenAI's realtime socket, as far as they can bear cost: once, and never changing a byte of them.

Frames are JSON events. Most carry sound or a few letters, so only the members that matter are looked at, and those that
hold objects stay bytes until somebody asks. A frame that cannot be read is an event of no type: the upstream answers it
with an error of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.core.answers.figures import Members, decoded, listed, string

# The names of both generations of the interface.
_TEXT_DELTAS = frozenset(
    {
        "response.output_text.delta",
        "response.text.delta",
        "response.output_audio_transcript.delta",
        "response.audio_transcript.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
    }
)
_AUDIO_DELTAS = frozenset({"response.output_audio.delta", "response.audio.delta"})
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
_NOTHING = msgspec.Raw(b"null")


class RealtimeEvent(msgspec.Struct):
    """One event of either side. Whatever is not of the expected kind reads as missing."""

    type: Any = ""
    event_id: Any = None
    response_id: Any = None
    audio: msgspec.Raw = _NOTHING
    delta: msgspec.Raw = _NOTHING
    item: msgspec.Raw = _NOTHING
    session: msgspec.Raw = _NOTHING
    response: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING
    usage: msgspec.Raw = _NOTHING
    transcript: Any = None

    @property
    def adds_text(self) -> bool:
        """Whether `delta` is text that the model wrote."""
        return self.type in _TEXT_DELTAS

    @property
    def adds_audio(self) -> bool:
        """Whether `delta` is sound that the model spoke."""
        return self.type in _AUDIO_DELTAS

    @property
    def delta_text(self) -> str:
        """The text of a delta."""
        try:
            return msgspec.json.decode(self.delta, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""

    @property
    def transcript_text(self) -> str:
        """What was written down of the client's sound."""
        return self.transcript if isinstance(self.transcript, str) else ""

    @property
    def audio_bytes(self) -> int:
        """How many bytes of sound the event carries, at most; base64 has four letters for three bytes."""
        return max(len(bytes(self.delta if self.adds_audio else self.audio)) - 2, 0) * 3 // 4


_EVENTS = msgspec.json.Decoder(RealtimeEvent)
NO_EVENT = RealtimeEvent()


def read_event(frame: str | bytes) -> RealtimeEvent:
    """The event of a frame."""
    try:
        event = _EVENTS.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_EVENT
    if not isinstance(event.type, str):
        return NO_EVENT
    return event


def members_of(raw: msgspec.Raw) -> Members:
    """The object that an event carries; an empty one where it is none."""
    return decoded(bytes(raw)) or {}


class Weight(msgspec.Struct, frozen=True):
    """What something that a client says adds to the input, at most: bytes of text, bytes of sound, pictures."""

    text_bytes: int = 0
    audio_bytes: int = 0
    images: int = 0


def weight_of(value: Members) -> Weight:
    """Weigh an item, a response that is asked for, or the settings of a session: text by its bytes, sound and pictures
    apart."""
    text = len(msgspec.json.encode(value))
    audio = images = 0
    for part in _parts(value):
        sound = string(part, "audio")
        if sound is not None:
            text -= len(sound)
            audio += len(sound) * 3 // 4
        picture = part.get("image_url")
        if picture is not None or part.get("type") == "input_image":
            images += 1
            text -= len(picture) if isinstance(picture, str) else 0
    return Weight(max(text, 0), audio, images)


def _parts(value: Members) -> Iterator[Members]:
    """The parts of an item's content, or of all items that a response is asked for with."""
    for holder in (value, *(each for each in listed(value, "input") if isinstance(each, dict))):
        yield from (part for part in listed(holder, "content") if isinstance(part, dict))


def error_event(
    *, message: str, code: str, kind: str, event_id: str, cause: str | None, param: str | None = None
) -> str:
    """An error in the interface's own shape. `cause`: the id of the client's event that brought it about."""
    error = {"type": kind, "code": code, "message": message, "param": param, "event_id": cause}
    return msgspec.json.encode({"type": "error", "event_id": event_id, "error": error}).decode()


def event_id_of(event: RealtimeEvent) -> str | None:
    """The id that the client gave its event."""
    return event.event_id if isinstance(event.event_id, str) else None


def failed_event_id(event: RealtimeEvent) -> str | None:
    """The id of the client's event that an error speaks of."""
    return string(members_of(event.error), "event_id")


def conversation_of(response: Members) -> bool:
    """Whether a response, as asked for or as reported, belongs to the conversation."""
    if "conversation_id" in response:
        return response["conversation_id"] is not None
    return response.get("conversation") != "none"
