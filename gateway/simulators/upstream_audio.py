"""OpenAI's audio as the simulated upstream speaks it: recordings to text in every form that can be asked for, and text
to sound."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from msgspec import json

from gateway.simulators.upstream_media import said, uploaded
from gateway.simulators.upstream_openai import EVENT_STREAM
from gateway.simulators.upstream_orders import Answer, Asked, Order, Piece, order_of
from gateway.simulators.upstream_words import text, words

AUDIO_BYTES_A_SECOND = 32_000  # 16 kHz, 16 bit, one channel
AUDIO_TOKENS_A_SECOND = 10
SPEECH_BYTES_A_CHARACTER = 64
_PLAIN = b"text/plain; charset=utf-8"


def transcription(asked: Asked) -> Answer:
    """POST /v1/audio/transcriptions: billed by time for whisper, else by tokens, and whisper never streams, as the real
    ones do it."""
    fields = uploaded(asked)
    seconds = max(1, -(-fields.get("file_bytes", 0) // AUDIO_BYTES_A_SECOND))
    order = order_of(asked.with_payload({"model": fields.get("model")}))
    form = fields.get("response_format")
    if said(fields.get("stream")) and not order.model.startswith("whisper"):
        answer = Answer(_transcript_stream(order, seconds), whole=False, media_type=EVENT_STREAM)
    elif form in ("text", "srt", "vtt"):
        answer = Answer([(_subtitles(order, seconds, form).encode(), order.output_tokens)], media_type=_PLAIN)
    else:
        body: dict[str, Any] = {"text": text(order.seed, order.output_tokens), **_heard(order, seconds)}
        if form == "verbose_json":
            segment = {"id": 0, "seek": 0, "start": 0.0, "end": float(seconds), "text": body["text"]}
            body |= {"task": "transcribe", "language": "english", "duration": float(seconds), "segments": [segment]}
        answer = Answer([(json.encode(body), order.output_tokens)])
    answer.model = order.model
    answer.input_tokens = seconds * AUDIO_TOKENS_A_SECOND
    answer.output_tokens = order.output_tokens
    return answer


def speech(asked: Asked) -> Answer:
    """POST /v1/audio/speech: so many bytes a character, streamed in chunks; `stream_format: sse` tells usage."""
    spoken = str(asked.payload.get("input") or "")
    order = order_of(asked)
    audio = (asked.seed * (SPEECH_BYTES_A_CHARACTER // len(asked.seed))) * max(1, len(spoken))
    sliced = [audio[place : place + 4_096] for place in range(0, len(audio), 4_096)]
    answer = Answer([(part, 0) for part in sliced], whole=False, media_type=b"audio/mpeg", model=order.model)
    answer.input_tokens = order.input_tokens
    if asked.payload.get("stream_format") == "sse":
        seconds = max(1, len(spoken) // 15)
        answer.output_tokens = seconds * AUDIO_TOKENS_A_SECOND
        answer.pieces = _speech_stream(order, sliced, answer.output_tokens)
        answer.media_type = EVENT_STREAM
    return answer


def _heard(order: Order, seconds: int) -> dict[str, Any]:
    """The member `usage`, or none where none is told."""
    if not order.reports_usage:
        return {}
    if order.model.startswith("whisper"):
        return {"usage": {"type": "duration", "seconds": order.told(seconds)}}
    audio, output = order.told(seconds * AUDIO_TOKENS_A_SECOND), order.told(order.output_tokens)
    return {
        "usage": {
            "type": "tokens",
            "input_tokens": audio,
            "input_token_details": {"text_tokens": 0, "audio_tokens": audio},
            "output_tokens": output,
            "total_tokens": audio + output,
        }
    }


def _subtitles(order: Order, seconds: int, form: str) -> str:
    """The text alone, or as the one cue of a file of subtitles."""
    line = text(order.seed, order.output_tokens)
    hours, minutes = seconds // 3_600, seconds // 60 % 60
    end = f"{hours:02}:{minutes:02}:{seconds % 60:02}"
    if form == "srt":
        return f"1\n00:00:00,000 --> {end},000\n{line}\n\n\n"
    return f"WEBVTT\n\n00:00:00.000 --> {end}.000\n{line}\n\n" if form == "vtt" else f"{line}\n"


def _transcript_stream(order: Order, seconds: int) -> Iterator[Piece]:
    for word in words(order.seed, order.output_tokens):
        yield b'data: {"type":"transcript.text.delta","delta":"%s"}\n\n' % word.encode(), 1
    done = {"type": "transcript.text.done", "text": text(order.seed, order.output_tokens), **_heard(order, seconds)}
    yield b"data: " + json.encode(done) + b"\n\n", 0


def _speech_stream(order: Order, sliced: list[bytes], output_tokens: int) -> Iterator[Piece]:
    for part in sliced:
        yield b'data: {"type":"speech.audio.delta","audio":"%s"}\n\n' % base64.b64encode(part), 0
    done: dict[str, Any] = {"type": "speech.audio.done"}
    if order.reports_usage:
        heard, spoken = order.told(order.input_tokens), order.told(output_tokens)
        done["usage"] = {"input_tokens": heard, "output_tokens": spoken, "total_tokens": heard + spoken}
    yield b"data: " + json.encode(done) + b"\n\n", output_tokens
