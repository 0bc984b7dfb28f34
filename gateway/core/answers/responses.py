"""OpenAI's Responses API. Usage stands inside the event that ends the stream: `response.completed`, `.incomplete`,
`.failed`.

Every event that carries a whole response object has a member `response`, and no other has: that is the marker. A
stream that we cut ends as OpenAI ends one that reached `max_output_tokens`: open items done and incomplete, then
`response.incomplete` with everything that was delivered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.answers import openai
from gateway.core.answers.figures import Members, listed, member, string
from gateway.core.answers.grammar import MOST_LARGE_EVENT_BYTES, NOTHING, Grammar, Sign, Tally
from gateway.core.answers.rope import Rope, longer, text_of
from gateway.core.metering import TextCounter
from gateway.core.usage import Usage

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
# Server tools that can have a fee, by the type of their output item.
_BILLED_CALLS = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "mcp_call": "mcp",
    "shell_call": "shell",
}


def usage_in(response: Members) -> Usage | None:
    """Usage of a response object, with the calls of server tools in its output."""
    usage = openai.usage_of(response.get("usage"), service_tier=string(response, "service_tier"))
    if usage is None:
        return None
    ran = Counter(
        _BILLED_CALLS[kind]
        for item in listed(response, "output")
        if (kind := string(item, "type")) in _BILLED_CALLS and _is_billed(item)
    )
    return replace(usage, tool_calls=tuple(sorted(ran.items()))) if ran else usage


def _is_billed(item: Members) -> bool:
    """Of web searches only the searching is billed, not the opening of a page that was found."""
    return string(member(item, "action"), "type") in (None, "search")


def answer_texts(body: Members) -> Iterator[str]:
    """Visible texts of a response object."""
    for item in listed(body, "output"):
        for name in ("name", "arguments", "input", "code"):
            text = string(item, name)
            if text is not None:
                yield text
        for part in (*listed(item, "content"), *listed(item, "summary")):
            for name in ("text", "refusal", "transcript"):
                text = string(part, name)
                if text is not None:
                    yield text


class ResponseTally(Tally):
    """Events of a response. `items` by output index: as they were added, or as they were done."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.response: Members = {}
        self.sequence: int | None = None
        self.items: dict[int, Members] = {}
        self.open: frozenset[int] = frozenset()
        self.texts: dict[tuple[int, int, str], Rope] = {}

    def take(self, payload: Members) -> None:
        """Text of the items, and which of them are open."""
        kind = payload.get("type")
        number = payload.get("sequence_number")
        if isinstance(number, int):
            self.sequence = number
        if not isinstance(kind, str):
            return
        at = _number(payload, "output_index")
        delta = payload.get("delta")
        if kind.endswith(".delta"):
            if isinstance(delta, str) and not kind.endswith("audio.delta"):
                key = (at, _number(payload, "content_index"), kind.removesuffix(".delta"))
                self.text.add(key, delta)
                self.texts = {**self.texts, key: longer(self.texts.get(key), delta)}
        elif kind == "response.output_item.added":
            item = member(payload, "item")
            self.items = {**self.items, at: item}
            self.open |= {at}
            self.text.add((at, "name"), string(item, "name") or "")
        elif kind == "response.output_item.done":
            self.items = {**self.items, at: member(payload, "item")}
            self.open -= {at}
            self.texts = {key: rope for key, rope in self.texts.items() if key[0] != at}
        elif isinstance(payload.get("response"), dict):
            self.response = payload["response"]
            self.model = string(self.response, "model") or self.model

    def closing(self, usage: Usage | None) -> bytes:
        """Open items done and incomplete, then `response.incomplete`."""
        events: list[Members] = []
        items = dict(self.items)
        for at in sorted(self.open):
            item, done = self._cut_item(at)
            items[at] = item
            events += done
            events.append({"type": "response.output_item.done", "output_index": at, "item": item})
        response: Members = {"id": "resp_cut", "object": "response", "created_at": 0, "model": self.model or ""}
        response |= {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, **self.response}
        response |= {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [items[at] for at in sorted(items)],
            "usage": usage_members(usage) if usage is not None else None,
        }
        events.append({"type": "response.incomplete", "response": response})
        number = -1 if self.sequence is None else self.sequence
        encoded = []
        for step, event in enumerate(events, start=1):
            data = msgspec.json.encode({**event, "sequence_number": number + step})
            encoded.append(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), data))
        return b"".join(encoded)

    def _cut_item(self, at: int) -> tuple[Members, list[Members]]:
        """An item that was still open: as far as it came, and the events that end its parts."""
        item = {**self.items[at], "status": "incomplete"}
        parts: list[Members] = []
        events: list[Members] = []
        for key in sorted(self.texts):
            index, content_index, kind = key
            if index != at:
                continue
            text = text_of(self.texts[key])
            place = {"item_id": item.get("id"), "output_index": at, "content_index": content_index}
            if kind == "response.output_text":
                part: Members = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
                parts.append(part)
                events.append({"type": "response.output_text.done", **place, "text": text, "logprobs": []})
                events.append({"type": "response.content_part.done", **place, "part": part})
            elif kind == "response.refusal":
                part = {"type": "refusal", "refusal": text}
                parts.append(part)
                events.append({"type": "response.refusal.done", **place, "refusal": text})
                events.append({"type": "response.content_part.done", **place, "part": part})
            elif kind == "response.function_call_arguments":
                item["arguments"] = text
        if item.get("type") == "message":
            item["content"] = parts
        return item, events


def _number(owner: Members, name: str) -> int:
    value: Any = owner.get(name)
    return value if isinstance(value, int) else 0


def usage_members(usage: Usage) -> Members:
    """The usage object of a response that we make."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def read_event(payload: Members | None, _: bytes, __: Usage | None) -> Sign:
    """What an event says: the end with its usage, an error, or only the model."""
    kind = payload.get("type") if payload is not None else None
    if payload is None or not isinstance(kind, str):
        return Sign(error=payload is not None and payload.get("error") is not None)
    response = member(payload, "response")
    if kind in _ENDS:
        usage = usage_in(response)
        failed = kind == "response.failed"
        return Sign(usage=usage, final=usage is not None, end=True, error=failed, model=string(response, "model"))
    if kind == "error":
        return Sign(error=True)
    return Sign(model=string(response, "model")) if response else NOTHING


EVENTS = Grammar(
    markers=(b'"response"', b'"error"'),
    read=read_event,
    tally=ResponseTally,
    most_event_bytes=MOST_LARGE_EVENT_BYTES,
)
