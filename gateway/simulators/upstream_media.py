"""OpenAI's embeddings and images as the simulated upstream speaks them, and what reads uploads."""

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

DIMENSIONS = 1_536
IMAGE_TOKENS: Mapping[str, int] = {"low": 272, "medium": 1_056, "high": 4_160}
PARTIAL_IMAGE_TOKENS = 100  # a picture shown half-drawn costs so many more
# A PNG of one transparent pixel, so that what comes back opens.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
_DRAWN: Mapping[str, str] = {
    "background": "opaque", "output_format": "png", "quality": "medium", "size": "1024x1024",
}  # fmt: skip
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
    """POST /v1/images/generations and /v1/images/edits (multipart or JSON); whole, or as events of which the finished
    picture's tells the usage."""
    fields = uploaded(asked)
    model = str(fields.get("model") or "dall-e-2")
    count = int(fields.get("n") or 1)
    order = order_of(asked.with_payload(fields | {"model": model}))
    if is_dall_e := model.startswith("dall-e"):
        output = 0
    else:
        output = IMAGE_TOKENS.get(str(fields.get("quality")), IMAGE_TOKENS["medium"])
    if said(fields.get("stream")) and not is_dall_e:
        partial = int(fields.get("partial_images") or 0)
        event = "image_edit" if asked.path.endswith("/edits") else "image_generation"
        answer = Answer(_image_stream(order, event, count, partial, output), whole=False, media_type=EVENT_STREAM)
        answer.output_tokens = count * (output + partial * PARTIAL_IMAGE_TOKENS)
    else:
        body: dict[str, Any] = {"created": order.created_s, "data": [{"b64_json": PIXEL} for _ in range(count)]}
        if not is_dall_e:
            body |= {**_DRAWN, **_image_usage(order, output * count)}
        answer = Answer([(json.encode(body), output * count)], output_tokens=output * count)
    answer.model, answer.input_tokens = model, order.input_tokens
    return answer


def _image_usage(order: Order, output_tokens: int) -> dict[str, Any]:
    """The member `usage`, or none where none is told."""
    if not order.reports_usage:
        return {}
    heard, drawn = order.told(order.input_tokens), order.told(output_tokens)
    return {
        "usage": {
            "input_tokens": heard,
            "input_tokens_details": {"text_tokens": heard, "image_tokens": 0},
            "output_tokens": drawn,
            "total_tokens": heard + drawn,
        }
    }


def _image_stream(order: Order, event: str, count: int, partial: int, output_tokens: int) -> Iterator[Piece]:
    """Each picture half-drawn as often as asked for, then finished, with what was used so far."""
    drawn = 0
    for _ in range(count):
        for index in range(partial):
            drawn += PARTIAL_IMAGE_TOKENS
            yield _image_event(order, f"{event}.partial_image", {"partial_image_index": index}), PARTIAL_IMAGE_TOKENS
        drawn += output_tokens
        yield _image_event(order, f"{event}.completed", _image_usage(order, drawn)), output_tokens


def _image_event(order: Order, kind: str, more: Mapping[str, Any]) -> bytes:
    payload = {"type": kind, "b64_json": PIXEL, "created_at": order.created_s, **_DRAWN, **more}
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.encode(payload))


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


def said(value: Any) -> bool:
    """A flag, as JSON or a form says it."""
    return value is True or str(value).lower() in {"true", "1"}
