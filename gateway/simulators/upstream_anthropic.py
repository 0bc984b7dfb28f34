"""Anthropic's Messages API as the simulated upstream speaks it: input excludes cache reads, and the usage of
`message_delta` is cumulative and replaces that of `message_start`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import json

from gateway.simulators.upstream_openai import answer_of, padded
from gateway.simulators.upstream_orders import Answer, Asked, Order, Piece, input_words, order_of
from gateway.simulators.upstream_words import text, words


def messages(asked: Asked) -> Answer:
    """POST /v1/messages."""
    order = order_of(asked, limits=(asked.payload.get("max_tokens"),), tools=asked.payload.get("tools"))
    return answer_of(order, _stream(order) if order.stream else _whole(order))


def count_tokens(asked: Asked) -> Answer:
    """POST /v1/messages/count_tokens."""
    counted = max(1, input_words(asked.payload))
    return Answer([(json.encode({"input_tokens": counted}), 0)], input_tokens=counted)


def _usage(order: Order, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": order.told(order.input_tokens - order.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": order.told(order.cached_tokens),
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": order.told(output_tokens),
        "service_tier": "standard",
    }


def _stop_reason(order: Order) -> str:
    if order.cut:
        return "max_tokens"
    return "tool_use" if order.tool else "end_turn"


def _message(order: Order, content: list[Any], stop_reason: str | None, output_tokens: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": f"msg_01{order.identity[:22]}",
        "type": "message",
        "role": "assistant",
        "model": order.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    if order.reports_usage:
        message["usage"] = _usage(order, output_tokens)
    return message


def _block(order: Order, said: str | None) -> dict[str, Any]:
    if order.tool is None:
        return {"type": "text", "text": said or ""}
    arguments = {} if said is None else {"text": said}
    return {"type": "tool_use", "id": f"toolu_01{order.identity[:22]}", "name": order.tool, "input": arguments}


def _whole(order: Order) -> Iterator[Piece]:
    said = text(order.seed, order.visible_tokens)
    message = _message(order, [_block(order, said)], _stop_reason(order), order.output_tokens)
    yield json.encode(message), order.visible_tokens


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


def _stream(order: Order) -> Iterator[Piece]:
    start = {"type": "message_start", "message": _message(order, [], None, min(1, order.output_tokens))}
    yield _event(b"message_start", json.encode(start)), 0
    block = {"type": "content_block_start", "index": 0, "content_block": _block(order, None)}
    yield _event(b"content_block_start", json.encode(block)), 0
    yield _event(b"ping", b'{"type":"ping"}'), 0
    mark = b'{"type":"text_delta","text":"@@@@"}'
    if order.tool:
        mark = b'{"type":"input_json_delta","partial_json":"@@@@"}'
        yield _event(b"content_block_delta", _delta(order, mark.replace(b"@@@@", b'{\\"text\\":\\"'))), 0
    before, after = _event(b"content_block_delta", _delta(order, mark)).split(b"@@@@")
    for word in words(order.seed, order.visible_tokens):
        yield before + word.encode() + after, 1
    if order.tool:
        yield _event(b"content_block_delta", _delta(order, mark.replace(b"@@@@", b'\\"}'))), 0
    yield _event(b"content_block_stop", b'{"type":"content_block_stop","index":0}'), 0
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(order), "stop_sequence": None},
    }
    if order.reports_usage:
        usage = _usage(order, order.output_tokens)
        end["usage"] = {key: usage[key] for key in usage if key not in {"cache_creation", "service_tier"}}
    yield _event(b"message_delta", json.encode(end)), 0
    yield _event(b"message_stop", b'{"type":"message_stop"}'), 0


def _delta(order: Order, delta: bytes) -> bytes:
    # The line `event: content_block_delta` counts to the size of the chunk too; `padded` allows for the data line.
    return padded(order, b'{"type":"content_block_delta","index":0,"delta":%s}' % delta)
