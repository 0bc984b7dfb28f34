"""Anthropic messages. The input excludes what was read from and written to the cache; we add it, so that totals include
their parts in every dialect.

A stream reports its input with `message_start` and ends with `message_delta`, whose usage is cumulative and
replaces the start, and `message_stop`. What `message_start` says of the output is a beginning, never the charge.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from gateway.core.answers.figures import Members, calls, figure, listed, member, string
from gateway.core.answers.grammar import NOTHING, Grammar, Sign, Tally, index_of
from gateway.core.metering import TextCounter
from gateway.core.usage import Usage

_NO_USAGE = Usage()


def usage_of(reported: Any, so_far: Usage | None = None) -> Usage | None:
    """A usage object; members that it leaves out stay as they were in `so_far`."""
    if not isinstance(reported, dict):
        return None
    before = so_far if so_far is not None else _NO_USAGE
    fresh = figure(reported, "input_tokens")
    output = figure(reported, "output_tokens")
    if so_far is None and (fresh is None or output is None):
        return None
    if fresh is None:
        fresh = before.input_tokens - before.cached_input_tokens - before.cache_write_tokens
    read = figure(reported, "cache_read_input_tokens")
    read = before.cached_input_tokens if read is None else read
    lifetimes = member(reported, "cache_creation")
    hour = figure(lifetimes, "ephemeral_1h_input_tokens")
    written = figure(reported, "cache_creation_input_tokens")
    if written is None:
        short = figure(lifetimes, "ephemeral_5m_input_tokens")
        written = before.cache_write_tokens if short is None and hour is None else (short or 0) + (hour or 0)
    output = before.output_tokens if output is None else output
    thinking = figure(member(reported, "output_tokens_details"), "thinking_tokens")
    compacted_in, compacted_out = _compaction(reported)
    return Usage(
        input_tokens=fresh + read + written + compacted_in,
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(before.cache_write_1h_tokens if hour is None else hour, written),
        output_tokens=output + compacted_out,
        reasoning_tokens=min(before.reasoning_tokens if thinking is None else thinking, output),
        tool_calls=calls(member(reported, "server_tool_use"), suffix="_requests") or before.tool_calls,
        service_tier=string(reported, "service_tier") or before.service_tier,
    )


def _compaction(reported: Members) -> tuple[int, int]:
    """Input and output of the steps in which the upstream shortened the conversation: billed, but not in the totals."""
    steps = [step for step in listed(reported, "iterations") if string(step, "type") == "compaction"]
    return (
        sum(figure(step, "input_tokens") or 0 for step in steps),
        sum(figure(step, "output_tokens") or 0 for step in steps),
    )


def usage_in(body: Members) -> Usage | None:
    """Usage of an unstreamed answer."""
    return usage_of(body.get("usage"))


def answer_texts(body: Members) -> Iterator[str]:
    """Visible texts of an unstreamed answer: text, thinking, calls of tools."""
    for block in listed(body, "content"):
        if not isinstance(block, dict):
            continue
        for name in ("text", "thinking", "name"):
            if isinstance(block.get(name), str):
                yield block[name]
        if isinstance(block.get("input"), dict) and block["input"]:
            yield msgspec.json.encode(block["input"]).decode()


class MessageTally(Tally):
    """Events of a message."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.started = False
        self.open: frozenset[int] = frozenset()

    def take(self, payload: Members) -> None:
        """Text of the blocks, and which of them are open."""
        kind = payload.get("type")
        if kind == "content_block_delta":
            index = index_of(payload)
            delta = member(payload, "delta")
            for name in ("text", "thinking", "partial_json"):
                if isinstance(delta.get(name), str):
                    self.text.add(index, delta[name])
        elif kind == "content_block_start":
            index = index_of(payload)
            self.open |= {index}
            for text in answer_texts({"content": [payload.get("content_block")]}):
                self.text.add(index, text)
        elif kind == "content_block_stop":
            index = index_of(payload)
            self.open -= {index}
            self.text.end(index)
        elif kind == "message_start":
            self.started = True
            self.model = string(member(payload, "message"), "model")
        elif kind == "message_delta":
            self.finished = True

    def plain_text(self, payload: Members) -> tuple[Hashable, str] | None:
        """A delta of one text."""
        delta = member(payload, "delta")
        texts = [delta[name] for name in ("text", "thinking", "partial_json") if isinstance(delta.get(name), str)]
        return (
            (index_of(payload), texts[0]) if len(texts) == 1 and payload.get("type") == "content_block_delta" else None
        )

    def closing(self, usage: Usage | None) -> bytes:
        """Open blocks stopped, `message_delta` with `max_tokens` and usage, `message_stop`."""
        used = usage_members(usage if usage is not None else _NO_USAGE)
        events: list[Members] = []
        if not self.started:
            message: Members = {"id": "msg_cut", "type": "message", "role": "assistant", "content": []}
            message |= {"model": self.model or "", "stop_reason": None, "stop_sequence": None, "usage": used}
            events.append({"type": "message_start", "message": message})
        events += [{"type": "content_block_stop", "index": index} for index in sorted(self.open)]
        if not self.finished:
            stop = {"stop_reason": "max_tokens", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": stop, "usage": used})
        events.append({"type": "message_stop"})
        return b"".join(
            b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events
        )


def usage_members(usage: Usage) -> Members:
    """The usage object of an event that we make."""
    return {
        "input_tokens": max(usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def read_event(payload: Members | None, _: bytes, so_far: Usage | None) -> Sign:
    """What an event says: the beginning, the totals, the end, an error."""
    match payload.get("type") if payload is not None else None:
        case "message_start":
            message = member(payload, "message")
            return Sign(usage=usage_of(message.get("usage")), model=string(message, "model"))
        case "message_delta":
            reported = member(payload, "usage")
            usage = usage_of(reported, so_far if so_far is not None else _NO_USAGE)
            if figure(reported, "output_tokens") is None:
                return NOTHING
            return Sign(usage=usage, final=True)
        case "message_stop":
            return Sign(end=True)
        case "error":
            return Sign(error=True)
        case _:
            return NOTHING


MESSAGES = Grammar(markers=(b'"message_', b'"error"'), read=read_event, tally=MessageTally)
