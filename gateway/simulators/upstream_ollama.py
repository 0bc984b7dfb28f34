"""Ollama's API as the simulated upstream speaks it: NDJSON, streaming unless told otherwise, counts on the last
line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from msgspec import json

from gateway.simulators.upstream_openai import answer_of
from gateway.simulators.upstream_orders import Answer, Asked, Order, Piece, order_of
from gateway.simulators.upstream_words import text, words

Field = Callable[[Order, str], dict[str, Any]]


def chat(asked: Asked) -> Answer:
    """POST /api/chat."""
    return _answer(asked, _chat_field)


def generate(asked: Asked) -> Answer:
    """POST /api/generate."""
    return _answer(asked, lambda _order, said: {"response": said})


def _answer(asked: Asked, field: Field) -> Answer:
    options = asked.payload.get("options") or {}
    limit = options.get("num_predict")
    limits = () if isinstance(limit, int) and limit < 0 else (limit,)  # -1 and -2 mean: no limit
    stream = asked.payload.get("stream", True) is not False
    order = order_of(asked, limits=limits, stream=stream, tools=asked.payload.get("tools"))
    pieces = _stream(order, field) if stream else _whole(order, field)
    return answer_of(order, pieces, b"application/x-ndjson")


def _chat_field(order: Order, said: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if order.tool and said:
        call = {"function": {"name": order.tool, "arguments": {"text": said}}}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"message": message}


def _head(order: Order) -> dict[str, Any]:
    created = datetime.fromtimestamp(order.created_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    return {"model": order.model, "created_at": created}


def _end(order: Order) -> dict[str, Any]:
    end: dict[str, Any] = {"done": True, "done_reason": "length" if order.cut else "stop"}
    if order.reports_usage:
        end |= {
            "total_duration": 1_000_000 * order.output_tokens,
            "load_duration": 1_000_000,
            "prompt_eval_count": order.told(order.input_tokens),
            "prompt_eval_duration": 1_000_000,
            "eval_count": order.told(order.output_tokens),
            "eval_duration": 1_000_000 * order.output_tokens,
        }
    return end


def _whole(order: Order, field: Field) -> Iterator[Piece]:
    said = text(order.seed, order.visible_tokens)
    yield json.encode(_head(order) | field(order, said) | _end(order)), order.visible_tokens


def _stream(order: Order, field: Field) -> Iterator[Piece]:
    head = _head(order)
    if order.tool:
        said = text(order.seed, order.visible_tokens)
        yield json.encode(head | field(order, said) | {"done": False}) + b"\n", order.visible_tokens
    else:
        for word in words(order.seed, order.visible_tokens):
            yield json.encode(head | field(order, word) | {"done": False}) + b"\n", 1
    yield json.encode(head | field(order, "") | _end(order)) + b"\n", 0
