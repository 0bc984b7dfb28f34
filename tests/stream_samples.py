"""Streams as the upstreams send them, made from pieces of text, one for every dialect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway.core.operations import Operation


class Sample(NamedTuple):
    """One stream: its bytes, the usage that it reports (input, output), and how many bytes at its end are the tail."""

    operation: Operation
    data: bytes
    input_tokens: int
    output_tokens: int
    tail: bytes
    usage_chunk: bytes = b""
    content_type: str = "text/event-stream"


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def event(value: Any, name: str = "", end: str = "\n") -> bytes:
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {compact(value)}{end}{end}".encode()


def chat(
    texts: Sequence[str], *, end: str = "\n", usage: bool = True, choices: int = 1, obfuscation: bool = False
) -> Sample:
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1754432626, "model": "gpt-4o-2024-08-06"}

    def chunk(delta: Any, finish: str | None = None, index: int = 0, number: int = 0) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        value = {**head, "choices": [choice], "usage": None}
        return event({**value, "obfuscation": "x" * (number % 7)} if obfuscation else value, end=end)

    parts = [chunk({"role": "assistant", "content": ""}, index=index) for index in range(choices)]
    for number, text in enumerate(texts):
        parts += [chunk({"content": text}, index=index, number=number) for index in range(choices)]
    parts += [chunk({}, "stop", index) for index in range(choices)]
    counts = {"prompt_tokens": 11, "completion_tokens": 77, "total_tokens": 88}
    usage_chunk = event({**head, "choices": [], "usage": counts}, end=end) if usage else b""
    done = f"data: [DONE]{end}{end}".encode()
    return Sample(Operation.CHAT, b"".join([*parts, usage_chunk, done]), 11, 77, done, usage_chunk)


def messages(texts: Sequence[str], *, end: str = "\n") -> Sample:
    start: dict[str, Any] = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
    }
    start |= {"stop_reason": None, "stop_sequence": None}
    start |= {"usage": {"input_tokens": 8, "cache_read_input_tokens": 100, "output_tokens": 1}}
    parts = [event({"type": "message_start", "message": start}, "message_start", end)]
    parts.append(event({"type": "ping"}, "ping", end))
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    parts.append(event(block, "content_block_start", end))
    for text in texts:
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        parts.append(event(delta, "content_block_delta", end))
    parts.append(event({"type": "content_block_stop", "index": 0}, "content_block_stop", end))
    stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 77}}
    parts.append(event(stop, "message_delta", end))
    tail = event({"type": "message_stop"}, "message_stop", end)
    return Sample(Operation.MESSAGES, b"".join([*parts, tail]), 108, 77, tail)


def responses(texts: Sequence[str], *, end: str = "\n") -> Sample:
    base = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5", "status": "in_progress"}
    base |= {"output": [], "error": None, "usage": None, "max_output_tokens": 50, "tools": [], "tool_choice": "auto"}
    base |= {"parallel_tool_calls": True}
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    said = "".join(texts)
    full = {**item, "status": "completed", "content": [{**part, "text": said}]}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": base},
        {"type": "response.in_progress", "response": base},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
        *({"type": "response.output_text.delta", **place, "delta": text, "logprobs": []} for text in texts),
        {"type": "response.output_text.done", **place, "text": said, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**part, "text": said}},
        {"type": "response.output_item.done", "output_index": 0, "item": full},
    ]
    usage: dict[str, Any] = {"input_tokens": 11, "output_tokens": 77, "total_tokens": 88}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    last = {"type": "response.completed", "response": {**base, "status": "completed", "output": [full], "usage": usage}}
    numbered = [{**value, "sequence_number": number} for number, value in enumerate([*events, last])]
    parts = [event(value, str(value["type"]), end) for value in numbered]
    return Sample(Operation.RESPONSES, b"".join(parts), 11, 77, parts[-1])


def _gemini_chunks(texts: Sequence[str]) -> list[dict[str, Any]]:
    chunks = []
    for number, text in enumerate([*texts, ""], start=1):
        candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if number > len(texts):
            candidate["finishReason"] = "STOP"
        last = 77 if number > len(texts) else number
        usage = {"promptTokenCount": 11, "candidatesTokenCount": last, "totalTokenCount": 11 + last}
        chunks.append({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"})
    return chunks


def gemini(texts: Sequence[str], *, end: str = "\r\n") -> Sample:
    data = b"".join(event(chunk, end=end) for chunk in _gemini_chunks(texts))
    return Sample(Operation.STREAM_GENERATE, data, 11, 77, b"")


def gemini_array(texts: Sequence[str], *, end: str = "\r\n") -> Sample:
    chunks = [json.dumps(chunk, indent=2, ensure_ascii=False) for chunk in _gemini_chunks(texts)]
    data = ("[" + f",{end}".join(chunks) + f"{end}]").encode()
    return Sample(Operation.STREAM_GENERATE, data, 11, 77, b"", content_type="application/json; charset=UTF-8")


def ollama(texts: Sequence[str], *, end: str = "\n") -> Sample:
    head = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00Z"}
    lines = [{**head, "message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    last = {**head, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    last |= {"prompt_eval_count": 11, "eval_count": 77}
    tail = (compact(last) + end).encode()
    data = b"".join((compact(line) + end).encode() for line in lines) + tail
    return Sample(Operation.OLLAMA_CHAT, data, 11, 77, tail, content_type="application/x-ndjson")


def transcript(texts: Sequence[str], *, end: str = "\n") -> Sample:
    parts = [event({"type": "transcript.text.delta", "delta": text}, end=end) for text in texts]
    usage = {"type": "tokens", "input_tokens": 11, "output_tokens": 77, "total_tokens": 88}
    tail = event({"type": "transcript.text.done", "text": "".join(texts), "usage": usage}, end=end)
    return Sample(Operation.TRANSCRIPTIONS, b"".join([*parts, tail]), 11, 77, tail)


def completions(texts: Sequence[str], *, end: str = "\n") -> Sample:
    head = {"id": "cmpl-7", "object": "text_completion", "created": 1, "model": "davinci-002"}

    def chunk(text: str, finish: str | None = None) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        return event({**head, "choices": [choice]}, end=end)

    counts = {"prompt_tokens": 11, "completion_tokens": 77, "total_tokens": 88}
    usage_chunk = event({**head, "choices": [], "usage": counts}, end=end)
    done = f"data: [DONE]{end}{end}".encode()
    parts = [*(chunk(text) for text in texts), chunk("", "stop"), usage_chunk, done]
    return Sample(Operation.COMPLETIONS, b"".join(parts), 11, 77, done, usage_chunk)


MAKERS = {
    "chat": chat,
    "completions": completions,
    "messages": messages,
    "responses": responses,
    "gemini": gemini,
    "gemini array": gemini_array,
    "ollama": ollama,
    "transcript": transcript,
}
