"""Ollama's own API: one JSON object a line, usage in the last one (`done: true`).

Ollama leaves `prompt_eval_count` out where it had the whole prompt in its cache; a usage without it is none, and is
counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.core.answers.figures import Members, figure, listed, member, string
from gateway.core.answers.grammar import Grammar, Sign, Tally
from gateway.core.metering import TextCounter
from gateway.core.usage import Usage


def usage_in(body: Members) -> Usage | None:
    """Usage of an answer or of the last line."""
    inputs, output = figure(body, "prompt_eval_count"), figure(body, "eval_count")
    if inputs is None or output is None:
        return None
    return Usage(input_tokens=inputs, output_tokens=output)


def texts_of(body: Members) -> Iterator[tuple[str, str]]:
    """Visible texts of an answer or a line, each with its channel."""
    message = member(body, "message")
    for owner, name in ((message, "content"), (message, "thinking"), (body, "response"), (body, "thinking")):
        text = string(owner, name)
        if text is not None:
            yield name, text
    for call in listed(message, "tool_calls"):
        function: Any = member(call, "function")
        yield "call", string(function, "name") or ""
        if function.get("arguments"):
            yield "call", msgspec.json.encode(function["arguments"]).decode()


def answer_texts(body: Members) -> Iterator[str]:
    """Visible texts of an answer."""
    for _, text in texts_of(body):
        yield text


class LineTally(Tally):
    """Lines of chat or generate."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.head: Members = {}
        self.speaks_response = False

    def take(self, payload: Members) -> None:
        """Text of the line."""
        self.head = {name: payload[name] for name in ("model", "created_at") if name in payload}
        self.model = self.model or string(payload, "model")
        self.speaks_response = self.speaks_response or "response" in payload
        for channel, text in texts_of(payload):
            self.text.add(channel, text)

    def closing(self, usage: Usage | None) -> bytes:
        """A last line with `done_reason: length` and the counts."""
        used = usage if usage is not None else Usage()
        said: Members = {"response": ""} if self.speaks_response else {"message": {"role": "assistant", "content": ""}}
        line: Members = {"model": "", "created_at": "1970-01-01T00:00:00Z", **self.head, **said}
        line |= {"done": True, "done_reason": "length", "total_duration": 0, "load_duration": 0}
        line |= {"prompt_eval_count": used.input_tokens, "prompt_eval_duration": 0}
        line |= {"eval_count": used.output_tokens, "eval_duration": 0}
        return msgspec.json.encode(line) + b"\n"


class GenerateTally(LineTally):
    """Lines of generate, so that a stream cut before its first line is closed in its own form."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.speaks_response = True


def read_line(payload: Members | None, _: bytes, __: Usage | None) -> Sign:
    """What a line says: the end with its usage, or an error."""
    if payload is None:
        return Sign()
    usage = usage_in(payload) if payload.get("done") is True else None
    return Sign(
        usage=usage,
        final=usage is not None,
        end=payload.get("done") is True,
        error=payload.get("error") is not None,
        model=string(payload, "model"),
    )


_MARKERS = (b'"done":true', b'"done": true', b'"done_reason"', b'"error"')
CHAT_LINES = Grammar(markers=_MARKERS, read=read_line, tally=LineTally)
GENERATE_LINES = Grammar(markers=_MARKERS, read=read_line, tally=GenerateTally)
