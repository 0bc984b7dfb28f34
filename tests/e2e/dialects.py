"""Each dialect as a caller speaks it: where to ask, how to limit, how to read what came."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SAID = "What is a toll booth for?"


@dataclass(frozen=True)
class Speech:
    """One dialect. `read`: the text and the reason of the end, of a stream's or a whole body's bytes. Prices in msat a
    token."""

    name: str
    path: str
    stream_path: str
    members: dict[str, Any]
    limit: Callable[[int], dict[str, Any]]
    stream: Mapping[str, Any]
    read_stream: Callable[[list[dict[str, Any]]], tuple[str, Any]]
    read_whole: Callable[[dict[str, Any]], tuple[str, Any]]
    cut_reason: str
    output_msat: float
    headers: Mapping[str, str] = field(default_factory=dict)
    end: bytes = b""

    def body(self, *, limit: int | None = None, stream: bool = False) -> bytes:
        """A request."""
        members = self.members | (self.limit(limit) if limit is not None else {})
        return json.dumps(members | (dict(self.stream) if stream else {})).encode()

    def words(self, content: bytes, *, stream: bool) -> tuple[int, Any]:
        """How many words were delivered (the upstream writes one a token), and why it ended."""
        text, reason = self.read_stream(events(content)) if stream else self.read_whole(json.loads(content))
        return len(text.split()), reason


def events(content: bytes) -> list[dict[str, Any]]:
    """The JSON objects of a stream: of `data:` lines, or of lines."""
    lines = [line.removeprefix(b"data: ") for line in content.split(b"\n")]
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def _chat_stream(found: list[dict[str, Any]]) -> tuple[str, Any]:
    choices = [event["choices"][0] for event in found if event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices), choices[-1]["finish_reason"]


def _chat_whole(answer: dict[str, Any]) -> tuple[str, Any]:
    return answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]


def _responses_stream(found: list[dict[str, Any]]) -> tuple[str, Any]:
    text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    return text, (found[-1]["response"].get("incomplete_details") or {}).get("reason")


def _responses_whole(answer: dict[str, Any]) -> tuple[str, Any]:
    said = "".join(part["text"] for item in answer["output"] for part in item.get("content", ()))
    return said, (answer.get("incomplete_details") or {}).get("reason")


def _messages_stream(found: list[dict[str, Any]]) -> tuple[str, Any]:
    text = "".join(event["delta"].get("text", "") for event in found if event["type"] == "content_block_delta")
    reasons = [event["delta"]["stop_reason"] for event in found if event["type"] == "message_delta"]
    return text, reasons[-1]


def _messages_whole(answer: dict[str, Any]) -> tuple[str, Any]:
    return answer["content"][0]["text"], answer["stop_reason"]


def _gemini_stream(found: list[dict[str, Any]]) -> tuple[str, Any]:
    candidates = [event["candidates"][0] for event in found if event.get("candidates")]
    text = "".join(part.get("text", "") for one in candidates for part in one.get("content", {}).get("parts", ()))
    return text, candidates[-1].get("finishReason")


def _gemini_whole(answer: dict[str, Any]) -> tuple[str, Any]:
    return _gemini_stream([answer])


def _ollama_stream(found: list[dict[str, Any]]) -> tuple[str, Any]:
    return "".join(event["message"]["content"] for event in found), found[-1].get("done_reason")


def _ollama_whole(answer: dict[str, Any]) -> tuple[str, Any]:
    return _ollama_stream([answer])


_MESSAGES = {"messages": [{"role": "user", "content": SAID}]}
STREAM = {"stream": True}

SPEECHES = [
    Speech(
        "openai", "/v1/chat/completions", "/v1/chat/completions", {"model": "gpt-4o", **_MESSAGES},
        lambda most: {"max_tokens": most}, STREAM, _chat_stream, _chat_whole, "length", 10, end=b"data: [DONE]\n\n",
    ),
    Speech(
        "responses", "/v1/responses", "/v1/responses", {"model": "gpt-4o", "input": SAID},
        lambda most: {"max_output_tokens": most}, STREAM, _responses_stream, _responses_whole, "max_output_tokens", 10,
    ),
    Speech(
        "anthropic", "/v1/messages", "/v1/messages", {"model": "claude-haiku-4-5", **_MESSAGES},
        lambda most: {"max_tokens": most}, STREAM, _messages_stream, _messages_whole, "max_tokens", 5,
        {"anthropic-version": "2023-06-01"},
    ),
    Speech(
        "gemini", "/v1beta/models/gemini-2.0-flash:generateContent",
        "/v1beta/models/gemini-2.0-flash:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": SAID}]}]},
        lambda most: {"generationConfig": {"maxOutputTokens": most}}, {}, _gemini_stream, _gemini_whole, "MAX_TOKENS",
        0.4, {"x-goog-api-key": "none"},
    ),
    Speech(
        "ollama", "/api/chat", "/api/chat", {"model": "llama3.2", **_MESSAGES, "stream": False},
        lambda most: {"options": {"num_predict": most}}, STREAM, _ollama_stream, _ollama_whole, "length", 100,
    ),
]  # fmt: skip
