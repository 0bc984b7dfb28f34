"""Reads requests of OpenAI's embeddings, images and audio, JSON bodies and the fields of uploads.

None of these has an output limit to lower, so the bounds of their output are ours: a picture's tokens, a spoken text's,
the words in a recording of so many bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Struct

from gateway.core.dialects import reading
from gateway.core.dialects.reading import count_of, flag, given, refuse
from gateway.core.facts import RequestFacts, RequestLimits

# The largest picture of gpt-image-1 is billed 6,240 tokens; later models draw up to four times the pixels.
IMAGE_OUTPUT_TOKENS = 16_384
PARTIAL_IMAGE_TOKENS = 100  # each picture shown half-drawn
GREATEST_PARTIAL_IMAGES = 16
# 20 tokens a second, and nobody speaks fewer than four characters in one.
SPEECH_TOKENS_EACH_CHARACTER = 5
GREATEST_SPEECH_CHARACTERS = 1_000_000
LEAST_SPEED = 0.25
# Speech codecs go down to 6 kbit/s: 750 bytes a second, 4/3 ms a byte.
_MS_EACH_BYTE = (4, 3)
_MS_EACH_AUDIO_TOKEN = 100  # OpenAI bills ten tokens a second of speech heard
_WORD_TOKENS_EACH_SECOND = 8  # the fastest speakers, in languages with short tokens


class _Embeddings(Struct):
    model: object = UNSET


class _Images(Struct):
    model: object = UNSET
    n: object = UNSET
    stream: object = UNSET
    partial_images: object = UNSET


class _Speech(Struct):
    model: object = UNSET
    input: object = UNSET
    instructions: object = UNSET
    speed: object = UNSET
    stream_format: object = UNSET


_EMBEDDINGS_DECODER = msgspec.json.Decoder(_Embeddings)
_IMAGES_DECODER = msgspec.json.Decoder(_Images)
_SPEECH_DECODER = msgspec.json.Decoder(_Speech)
_scan_embeddings = reading.NameScan({"model": "model"}, ("image_url", "image"))
_scan_images = reading.NameScan({name: name for name in _Images.__struct_fields__}, ("image_url", "file_id", "image"))
_scan_speech = reading.NameScan({name: name for name in ("model", "input", "speed")})


def read_embeddings(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of an embeddings request: input only."""
    request = reading.decode(_EMBEDDINGS_DECODER, body)
    found = _scan_embeddings(body, request)
    model = reading.model_name(request.model, path_model)
    media = (found.get(b"image_url", 0) + found.get(b"image", 0)) * limits.media_tokens
    bound = len(body) + limits.overhead_tokens + media
    return RequestFacts(model, False, 0, 1, bound, limit_can_be_spliced=False)


def read_images(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of an images request with a JSON body (generations, and edits of pictures that it names)."""
    request = reading.decode(_IMAGES_DECODER, body)
    found = _scan_images(body, request)
    model = reading.model_name(request.model, path_model)
    count = count_of(request.n, "n")
    partial = 0
    if given(request.partial_images) and request.partial_images != 0:
        partial = count_of(request.partial_images, "partial_images", greatest=GREATEST_PARTIAL_IMAGES)
    named = sum(found.get(name, 0) for name in (b"image_url", b"file_id", b"image"))
    return _image_facts(model, count, partial, flag(request.stream, "stream"), len(body), named, limits)


def _image_facts(
    model: str, count: int, partial: int, stream: bool, text_bytes: int, pictures: int, limits: RequestLimits
) -> RequestFacts:
    return RequestFacts(
        model, stream, IMAGE_OUTPUT_TOKENS + partial * PARTIAL_IMAGE_TOKENS, count,
        text_bytes + limits.overhead_tokens + pictures * limits.media_tokens,
        images=count, image_output=True, limit_can_be_spliced=False,
    )  # fmt: skip


def read_speech(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of a speech request: billed by the character, or by tokens of text in and of audio out."""
    request = reading.decode(_SPEECH_DECODER, body)
    _scan_speech(body, request)
    model = reading.model_name(request.model, path_model)
    if type(request.input) is not str or not request.input:
        refuse("input: a non-empty string is needed", "input")
    characters = len(request.input)
    if characters > GREATEST_SPEECH_CHARACTERS:
        refuse(f"input: at most {GREATEST_SPEECH_CHARACTERS} characters", "input")
    if given(request.speed) and (
        isinstance(request.speed, bool) or not isinstance(request.speed, (int, float)) or request.speed < LEAST_SPEED
    ):
        refuse(f"speed: a number, at least {LEAST_SPEED}", "speed")
    slowest = 4 if given(request.speed) else 1
    output = characters * SPEECH_TOKENS_EACH_CHARACTER * slowest + 256
    return RequestFacts(
        model, request.stream_format == "sse", output, 1, len(body) + limits.overhead_tokens,
        characters=characters, audio_output=True, limit_can_be_spliced=False,
    )  # fmt: skip


def upload_facts(
    fields: Mapping[str, str], *, content_length_bytes: int, path_model: str | None, limits: RequestLimits, audio: bool
) -> RequestFacts:
    """Facts of an upload from the small fields of its form; `content_length_bytes` bounds what the files hold."""
    model = reading.model_name(fields.get("model", UNSET), path_model)
    stream = fields.get("stream", "false").strip().lower() in ("true", "1", "on", "yes")
    text_bytes = sum(len(value) for value in fields.values()) * 4
    if not audio:
        count = _form_integer(fields, "n", 1, reading.GREATEST_CHOICES)
        partial = _form_integer(fields, "partial_images", 0, GREATEST_PARTIAL_IMAGES)
        return _image_facts(model, count, partial, stream, text_bytes, reading.GREATEST_CHOICES // 8, limits)
    duration_ms = content_length_bytes * _MS_EACH_BYTE[0] // _MS_EACH_BYTE[1] + 1
    heard = duration_ms // _MS_EACH_AUDIO_TOKEN + 1
    return RequestFacts(
        model, stream, duration_ms * _WORD_TOKENS_EACH_SECOND // 1_000 + 256, 1,
        heard + text_bytes + limits.overhead_tokens,
        input_audio_bound_tokens=heard, audio_ms_bound=duration_ms, limit_can_be_spliced=False,
    )  # fmt: skip


def _form_integer(fields: Mapping[str, str], name: str, least: int, greatest: int) -> int:
    value = fields.get(name, "").strip()
    if not value:
        return least
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not least <= int(value) <= greatest:
        refuse(f"{name}: an integer from {least} to {greatest}", name)
    return int(value)
