"""OpenAI's Responses API as the simulated upstream speaks it, with `compact` and `input_tokens`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import json

from gateway.simulators.upstream_openai import answer_of, padded
from gateway.simulators.upstream_orders import Answer, Asked, Order, Piece, input_words, order_of
from gateway.simulators.upstream_words import text, words


def responses(asked: Asked) -> Answer:
    """POST /v1/responses."""
    body = asked.payload
    order = order_of(asked, limits=(body.get("max_output_tokens"),), tools=body.get("tools"))
    return answer_of(order, _stream(order, body) if order.stream else _whole(order, body))


def compact(asked: Asked) -> Answer:
    """POST /v1/responses/compact."""
    order = order_of(asked, stream=False)
    body: dict[str, Any] = {
        "id": f"resp_{order.identity}",
        "object": "response.compaction",
        "created_at": order.created_s,
        "output": [
            {
                "id": f"cmp_{order.identity}",
                "type": "compaction",
                "encrypted_content": text(order.seed, order.output_tokens),
            }
        ],
    }
    if order.reports_usage:
        body["usage"] = usage_of(order)
    return answer_of(order, iter([(json.encode(body), order.output_tokens)]))


def input_tokens(asked: Asked) -> Answer:
    """POST /v1/responses/input_tokens."""
    counted = max(1, input_words(asked.payload))
    body = {"object": "response.input_tokens", "input_tokens": counted}
    return Answer([(json.encode(body), 0)], input_tokens=counted)


def usage_of(order: Order) -> dict[str, Any]:
    """The usage object of the Responses API."""
    prompt, output = order.told(order.input_tokens), order.told(order.output_tokens)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": order.told(order.cached_tokens), "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": order.told(order.reasoning_tokens)},
        "total_tokens": prompt + output,
    }


def _item(order: Order, said: str, status: str) -> dict[str, Any]:
    if order.tool:
        return {
            "type": "function_call",
            "id": f"fc_{order.identity}",
            "call_id": f"call_{order.identity[:24]}",
            "name": order.tool,
            "arguments": json.encode({"text": said}).decode() if said else "",
            "status": status,
        }
    content = [_part(said)] if said or status != "in_progress" else []
    return {
        "type": "message",
        "id": f"msg_{order.identity}",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _part(said: str) -> dict[str, Any]:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _status(order: Order) -> str:
    return "incomplete" if order.cut else "completed"


def _response(order: Order, asked_body: Any, status: str, output: list[Any]) -> dict[str, Any]:
    ended = status in {"completed", "incomplete"}
    return {
        "id": f"resp_{order.identity}",
        "object": "response",
        "created_at": order.created_s,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked_body.get("instructions"),
        "max_output_tokens": asked_body.get("max_output_tokens"),
        "model": order.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": asked_body.get("previous_response_id"),
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": asked_body.get("tools") or [],
        "top_p": 1.0,
        "metadata": {},
        "usage": usage_of(order) if ended and order.reports_usage else None,
    }


def _whole(order: Order, asked_body: Any) -> Iterator[Piece]:
    said = text(order.seed, order.visible_tokens)
    response = _response(order, asked_body, _status(order), [_item(order, said, _status(order))])
    yield json.encode(response), order.visible_tokens


class _Events:
    """Numbers the events of one stream."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._number = 0

    def made(self, name: str, members: dict[str, Any]) -> bytes:
        data = json.encode({"type": name, "sequence_number": self._next(), **members})
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

    def delta(self, name: bytes, identity: bytes, said: bytes) -> bytes:
        data = (
            b'{"type":"%s","sequence_number":%d,"item_id":"%s","output_index":0,"content_index":0,'
            b'"delta":"%s","logprobs":[]}' % (name, self._next(), identity, said)
        )
        return b"event: " + name + b"\ndata: " + padded(self._order, data) + b"\n\n"

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


def _stream(order: Order, asked_body: Any) -> Iterator[Piece]:
    events = _Events(order)
    for name in ("response.created", "response.in_progress"):
        yield events.made(name, {"response": _response(order, asked_body, "in_progress", [])}), 0
    item = _item(order, "", "in_progress")
    where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield events.made("response.output_item.added", {"output_index": 0, "item": item}), 0
    said = text(order.seed, order.visible_tokens)
    if order.tool:
        yield from _tool_events(order, events, item["id"], said)
    else:
        yield events.made("response.content_part.added", where | {"part": _part("")}), 0
        identity = str(item["id"]).encode()
        for word in words(order.seed, order.visible_tokens):
            yield events.delta(b"response.output_text.delta", identity, word.encode()), 1
        yield events.made("response.output_text.done", where | {"text": said, "logprobs": []}), 0
        yield events.made("response.content_part.done", where | {"part": _part(said)}), 0
    item = _item(order, said, _status(order))
    yield events.made("response.output_item.done", {"output_index": 0, "item": item}), 0
    end = _response(order, asked_body, _status(order), [item])
    yield events.made(f"response.{_status(order)}", {"response": end}), 0


def _tool_events(order: Order, events: _Events, identity: str, said: str) -> Iterator[Piece]:
    name = b"response.function_call_arguments.delta"
    yield events.delta(name, identity.encode(), b'{\\"text\\":\\"'), 0
    for word in words(order.seed, order.visible_tokens):
        yield events.delta(name, identity.encode(), word.encode()), 1
    yield events.delta(name, identity.encode(), b'\\"}'), 0
    arguments = json.encode({"text": said}).decode()
    done = {"item_id": identity, "output_index": 0, "name": order.tool, "arguments": arguments}
    yield events.made("response.function_call_arguments.done", done), 0
