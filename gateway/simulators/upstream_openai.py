"""OpenAI's chat completions and completions, streamed and not, as the simulated upstream speaks them.

`stream_options.include_usage` is honoured exactly: asked for, every chunk carries `"usage": null` and one more chunk
with no choices carries the figures; not asked for, no chunk has the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import json

from gateway.simulators.upstream_orders import Answer, Asked, Order, Piece, order_of
from gateway.simulators.upstream_words import text, words

EVENT_STREAM = b"text/event-stream; charset=utf-8"


def chat(asked: Asked) -> Answer:
    """POST /v1/chat/completions."""
    body = asked.payload
    limits = (body.get("max_tokens"), body.get("max_completion_tokens"))
    order = order_of(asked, limits=limits, choices=_choices(body), tools=body.get("tools"))
    return answer_of(order, _chat_stream(order, wants_usage=_wants_usage(body)) if order.stream else _chat_whole(order))


def completion(asked: Asked) -> Answer:
    """POST /v1/completions (the older one)."""
    body = asked.payload
    order = order_of(asked, limits=(body.get("max_tokens"),), choices=_choices(body))
    return answer_of(order, _text_stream(order, wants_usage=_wants_usage(body)) if order.stream else _text_whole(order))


def answer_of(order: Order, pieces: Iterator[Piece], media_type: bytes = EVENT_STREAM) -> Answer:
    """An answer to a generation: a stream if it asked for one, else JSON."""
    return Answer(
        pieces=pieces,
        whole=not order.stream,
        media_type=media_type if order.stream else b"application/json",
        model=order.model,
        input_tokens=order.input_tokens,
        output_tokens=order.all_output_tokens,
    )


def padded(order: Order, event: bytes) -> bytes:
    """An event's JSON object, filled up to `x-sim-chunk-bytes` as OpenAI does it, with an `obfuscation` member."""
    room = order.wish.chunk_bytes - len(event) - len(b'data: \n\n,"obfuscation":""')
    if room <= 0:
        return event
    return event[:-1] + b',"obfuscation":"' + b"x" * room + b'"}'


def choice_seed(order: Order, index: int) -> bytes:
    """Every choice says something else."""
    return order.seed + bytes([index & 255])


def usage_of(order: Order) -> dict[str, Any]:
    """The usage object of chat and text completions."""
    prompt, output = order.told(order.input_tokens), order.told(order.all_output_tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": order.told(order.cached_tokens), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": order.told(order.reasoning_tokens * order.choices),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choices(body: Any) -> Any:
    count = body.get("n")
    return 1 if count is None else count


def _wants_usage(body: Any) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _finish(order: Order) -> str:
    if order.cut:
        return "length"
    return "tool_calls" if order.tool else "stop"


def _head(order: Order, kind: str, prefix: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{order.identity}",
        "object": kind,
        "created": order.created_s,
        "model": order.model,
    }


def _chat_whole(order: Order) -> Iterator[Piece]:
    choices = []
    for index in range(order.choices):
        said = text(choice_seed(order, index), order.visible_tokens)
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None, "annotations": []}
        if order.tool:
            function = {"name": order.tool, "arguments": json.encode({"text": said}).decode()}
            message["content"] = None
            message["tool_calls"] = [{"id": f"call_{order.identity[:24]}", "type": "function", "function": function}]
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": _finish(order)})
    body = _head(order, "chat.completion", "chatcmpl") | {"choices": choices}
    if order.reports_usage:
        body["usage"] = usage_of(order)
    body |= {"service_tier": "default", "system_fingerprint": "fp_5117fa9eb0"}
    yield json.encode(body), order.visible_tokens * order.choices


def _chat_stream(order: Order, *, wants_usage: bool) -> Iterator[Piece]:
    wants_usage = wants_usage and order.reports_usage
    head = json.encode(
        _head(order, "chat.completion.chunk", "chatcmpl")
        | {"service_tier": "default", "system_fingerprint": "fp_5117fa9eb0"}
    )[:-1]
    tail = b',"usage":null}' if wants_usage else b"}"

    def event(index: int, delta: bytes, finish: bytes = b"null") -> bytes:
        choice = b'{"index":%d,"delta":%s,"logprobs":null,"finish_reason":%s}' % (index, delta, finish)
        return b"data: " + padded(order, head + b',"choices":[' + choice + b"]" + tail) + b"\n\n"

    opening, mark = _opening(order)
    for index in range(order.choices):
        yield event(index, opening), 0
    frames = [event(index, mark).split(b"@@@@") for index in range(order.choices)]
    if order.tool and order.visible_tokens:
        yield event(0, _tool_delta(b'{\\"text\\":\\"')), 0
    # The deltas of several choices come interleaved, as the real ones do.
    spoken = [words(choice_seed(order, index), order.visible_tokens) for index in range(order.choices)]
    for said in zip(*spoken, strict=True):
        for (before, after), word in zip(frames, said, strict=True):
            yield before + word.encode() + after, 1
    if order.tool and order.visible_tokens:
        yield event(0, _tool_delta(b'\\"}')), 0
    for index in range(order.choices):
        yield event(index, b"{}", b'"%s"' % _finish(order).encode()), 0
    if wants_usage:
        yield b"data: " + head + b',"choices":[],"usage":' + json.encode(usage_of(order)) + b"}\n\n", 0
    yield b"data: [DONE]\n\n", 0


def _opening(order: Order) -> tuple[bytes, bytes]:
    """The first delta, and the pattern of the others with `@@@@` where the word goes."""
    if order.tool is None:
        return b'{"role":"assistant","content":"","refusal":null}', b'{"content":"@@@@"}'
    call = {
        "index": 0,
        "id": f"call_{order.identity[:24]}",
        "type": "function",
        "function": {"name": order.tool, "arguments": ""},
    }
    return json.encode({"role": "assistant", "content": None, "tool_calls": [call]}), _tool_delta(b"@@@@")


def _tool_delta(arguments: bytes) -> bytes:
    return b'{"tool_calls":[{"index":0,"function":{"arguments":"%s"}}]}' % arguments


def _text_whole(order: Order) -> Iterator[Piece]:
    choices = [
        {
            "text": text(choice_seed(order, index), order.visible_tokens),
            "index": index,
            "logprobs": None,
            "finish_reason": _finish(order),
        }
        for index in range(order.choices)
    ]
    body = _head(order, "text_completion", "cmpl") | {"choices": choices}
    if order.reports_usage:
        body["usage"] = usage_of(order)
    yield json.encode(body), order.visible_tokens * order.choices


def _text_stream(order: Order, *, wants_usage: bool) -> Iterator[Piece]:
    wants_usage = wants_usage and order.reports_usage
    head = json.encode(_head(order, "text_completion", "cmpl"))[:-1]
    tail = b',"usage":null}' if wants_usage else b"}"

    def event(index: int, said: bytes, finish: bytes) -> bytes:
        choice = b'{"text":"%s","index":%d,"logprobs":null,"finish_reason":%s}' % (said, index, finish)
        return b"data: " + padded(order, head + b',"choices":[' + choice + b"]" + tail) + b"\n\n"

    for index in range(order.choices):
        for word in words(choice_seed(order, index), order.visible_tokens):
            yield event(index, word.encode(), b"null"), 1
        yield event(index, b"", b'"%s"' % _finish(order).encode()), 0
    if wants_usage:
        yield b"data: " + head + b',"choices":[],"usage":' + json.encode(usage_of(order)) + b"}\n\n", 0
    yield b"data: [DONE]\n\n", 0
