"""OpenAI's embeddings, images and audio as the simulated upstream speaks them, and what reads their uploads."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import json

from gateway.simulators.upstream_openai import EVENT_STREAM
from gateway.simulators.upstream_orders import (
    Answer,
    Asked,
    BadOrder,
    Order,
    Piece,
    input_words,
    model_of,
    order_of,
)
from gateway.simulators.upstream_words import text, words

DIMENSIONS = 1_536
AUDIO_BYTES_A_SECOND = 32_000  # 16 kHz, 16 bit, one channel
AUDIO_TOKENS_A_SECOND = 10
IMAGE_TOKENS: Mapping[str, int] = {"low": 272, "medium": 1_056, "high": 4_160}
# A PNG of one transparent pixel, so that what comes back opens.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
SPEECH_BYTES_A_CHARACTER = 64
_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_FIELD_NAME = re.compile(rb'name="([^"]*)"')


def embeddings(asked: Asked) -> Answer:
    """POST /v1/embeddings: floats, or base64 of little-endian float32 as the SDK asks for."""
    body = asked.payload
    given = body.get("input")
    texts = given if isinstance(given, list) and not all(isinstance(item, int) for item in given) else [given]
    size = body.get("dimensions") or DIMENSIONS
    data = []
    for index in range(len(texts)):
        start = asked.seed[index % len(asked.seed)]
        vector: Any = [((start + place * 37) % 255 - 127) / 1_024 for place in range(size)]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    counted = max(1, input_words(given))
    answer: dict[str, Any] = {"object": "list", "data": data, "model": model_of(asked)}
    told = counted * 2 if asked.wish.fault == "usage-x2" else counted
    if asked.wish.fault != "no-usage":
        answer["usage"] = {"prompt_tokens": told, "total_tokens": told}
    return Answer([(json.encode(answer), 0)], model=model_of(asked), input_tokens=counted)


def images(asked: Asked) -> Answer:
    """POST /v1/images/generations and /v1/images/edits (multipart or JSON)."""
    fields = uploaded(asked)
    model = str(fields.get("model") or "dall-e-2")
    count = int(fields.get("n") or 1)
    order = order_of(_with(asked, fields | {"model": model}))
    body: dict[str, Any] = {"created": order.created_s, "data": [{"b64_json": PIXEL} for _ in range(count)]}
    output = 0
    if not model.startswith("dall-e"):
        output = IMAGE_TOKENS.get(str(fields.get("quality")), IMAGE_TOKENS["medium"]) * count
        body |= {"background": "opaque", "output_format": "png", "quality": "medium", "size": "1024x1024"}
        if order.reports_usage:
            said, drawn = order.told(order.input_tokens), order.told(output)
            body["usage"] = {
                "input_tokens": said,
                "input_tokens_details": {"text_tokens": said, "image_tokens": 0},
                "output_tokens": drawn,
                "total_tokens": said + drawn,
            }
    return Answer([(json.encode(body), output)], model=model, input_tokens=order.input_tokens, output_tokens=output)


def transcription(asked: Asked) -> Answer:
    """POST /v1/audio/transcriptions: billed by time for whisper, else by tokens, as the real ones are."""
    fields = uploaded(asked)
    seconds = max(1, -(-fields.get("file_bytes", 0) // AUDIO_BYTES_A_SECOND))
    streams = fields.get("stream") == "true"
    order = order_of(_with(asked, {"model": fields.get("model"), "stream": streams}))
    usage = _heard(order, seconds)
    if streams:
        answer = Answer(_transcript_stream(order, usage), whole=False, media_type=EVENT_STREAM)
    elif fields.get("response_format") == "text":
        answer = Answer([(text(order.seed, order.output_tokens).encode() + b"\n", order.output_tokens)])
        answer.media_type = b"text/plain; charset=utf-8"
    else:
        body: dict[str, Any] = {"text": text(order.seed, order.output_tokens)}
        if order.reports_usage:
            body["usage"] = usage
        answer = Answer([(json.encode(body), order.output_tokens)])
    answer.model = order.model
    answer.input_tokens = seconds * AUDIO_TOKENS_A_SECOND
    answer.output_tokens = order.output_tokens
    return answer


def speech(asked: Asked) -> Answer:
    """POST /v1/audio/speech: so many bytes a character, streamed in chunks; `stream_format: sse` tells usage."""
    said = str(asked.payload.get("input") or "")
    order = order_of(asked)
    audio = (asked.seed * (SPEECH_BYTES_A_CHARACTER // len(asked.seed))) * max(1, len(said))
    sliced = [audio[place : place + 4_096] for place in range(0, len(audio), 4_096)]
    answer = Answer([(part, 0) for part in sliced], whole=False, media_type=b"audio/mpeg", model=order.model)
    answer.input_tokens = order.input_tokens
    if asked.payload.get("stream_format") == "sse":
        seconds = max(1, len(said) // 15)
        answer.output_tokens = seconds * AUDIO_TOKENS_A_SECOND
        answer.pieces = _speech_stream(order, sliced, answer.output_tokens)
        answer.media_type = EVENT_STREAM
    return answer


def uploaded(asked: Asked) -> dict[str, Any]:
    """The fields of a multipart form (`file_bytes`: the size of all files), or the JSON body's."""
    found = _BOUNDARY.search(asked.content_type)
    if found is None:
        return dict(asked.payload)
    fields: dict[str, Any] = {"file_bytes": 0}
    for part in asked.body.split(b"--" + found[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        name = _FIELD_NAME.search(head)
        if b"filename=" in head:
            fields["file_bytes"] += len(content)
        elif name is not None:
            fields[name[1].decode()] = content.decode()
    if "model" not in fields:
        message = "you must provide a model parameter"
        raise BadOrder(message)
    return fields


def _with(asked: Asked, payload: Mapping[str, Any]) -> Asked:
    return Asked(
        path=asked.path,
        model=asked.model,
        query=asked.query,
        content_type=asked.content_type,
        body=asked.body,
        payload=payload,
        wish=asked.wish,
        seed=asked.seed,
    )


def _heard(order: Order, seconds: int) -> dict[str, Any]:
    if order.model.startswith("whisper"):
        return {"type": "duration", "seconds": order.told(seconds)}
    audio, output = order.told(seconds * AUDIO_TOKENS_A_SECOND), order.told(order.output_tokens)
    return {
        "type": "tokens",
        "input_tokens": audio,
        "input_token_details": {"text_tokens": 0, "audio_tokens": audio},
        "output_tokens": output,
        "total_tokens": audio + output,
    }


def _transcript_stream(order: Order, usage: dict[str, Any]) -> Iterator[Piece]:
    for word in words(order.seed, order.output_tokens):
        yield b'data: {"type":"transcript.text.delta","delta":"%s"}\n\n' % word.encode(), 1
    done: dict[str, Any] = {"type": "transcript.text.done", "text": text(order.seed, order.output_tokens)}
    if order.reports_usage:
        done["usage"] = usage
    yield b"data: " + json.encode(done) + b"\n\n", 0


def _speech_stream(order: Order, sliced: list[bytes], output_tokens: int) -> Iterator[Piece]:
    for part in sliced:
        yield b'data: {"type":"speech.audio.delta","audio":"%s"}\n\n' % base64.b64encode(part), 0
    done: dict[str, Any] = {"type": "speech.audio.done"}
    if order.reports_usage:
        said, spoken = order.told(order.input_tokens), order.told(output_tokens)
        done["usage"] = {"input_tokens": said, "output_tokens": spoken, "total_tokens": said + spoken}
    yield b"data: " + json.encode(done) + b"\n\n", output_tokens
