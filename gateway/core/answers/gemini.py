"""Gemini: thoughts are not in the candidates, and what tools put into the prompt is not in the prompt; we add both.

In a stream every chunk carries the usage up to there and the last one wins, so no chunk is decoded before somebody
asks: the tally keeps the latest. The answer ends with the upstream's bytes. Without `alt=sse` a stream is one JSON
array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.core.answers.figures import Members, figure, listed, member, part, string
from gateway.core.answers.grammar import MOST_LARGE_EVENT_BYTES, NOTHING, Grammar, Sign, Tally, index_of
from gateway.core.metering import TextCounter
from gateway.core.usage import Usage

_TIERS = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}


def usage_of(reported: Any) -> Usage | None:
    """A `usageMetadata` object, None where it says nothing."""
    if not isinstance(reported, dict):
        return None
    prompt = figure(reported, "promptTokenCount")
    if prompt is None:
        return None
    tools = figure(reported, "toolUsePromptTokenCount") or 0
    inputs = prompt + tools
    thoughts = figure(reported, "thoughtsTokenCount") or 0
    output = (figure(reported, "candidatesTokenCount", "responseTokenCount") or 0) + thoughts
    cached = part(reported, "cachedContentTokenCount", whole=inputs)
    audio = _modality(reported, "promptTokensDetails", "AUDIO", inputs)
    return Usage(
        input_tokens=inputs,
        cached_input_tokens=cached,
        input_audio_tokens=audio,
        cached_input_audio_tokens=_modality(reported, "cacheTokensDetails", "AUDIO", min(cached, audio)),
        input_image_tokens=_modality(reported, "promptTokensDetails", "IMAGE", inputs),
        input_video_tokens=_modality(reported, "promptTokensDetails", "VIDEO", inputs),
        output_tokens=output,
        reasoning_tokens=thoughts,
        output_audio_tokens=_modality(reported, "candidatesTokensDetails", "AUDIO", output),
        output_image_tokens=_modality(reported, "candidatesTokensDetails", "IMAGE", output),
        output_video_tokens=_modality(reported, "candidatesTokensDetails", "VIDEO", output),
        service_tier=string(reported, "serviceTier") or _TIERS.get(string(reported, "trafficType") or ""),
    )


def _modality(reported: Members, name: str, modality: str, whole: int) -> int:
    """Tokens of one modality; 0 where they are more than the whole."""
    found = sum(
        figure(detail, "tokenCount") or 0 for detail in listed(reported, name) if string(detail, "modality") == modality
    )
    return found if found <= whole else 0


# Their searches cost the same however many queries a request made.
_BILLED_BY_REQUEST = ("gemini-1.", "gemini-2.")


def tool_calls_in(body: Members) -> dict[str, int]:
    """Server tools that ran, with their calls: searches by the query (until Gemini 2.5, by the request), others by what
    they left in the answer."""
    found: Counter[str] = Counter()
    for candidate in listed(body, "candidates"):
        if not isinstance(candidate, dict):
            continue
        if "groundingMetadata" in candidate:
            grounding = member(candidate, "groundingMetadata")
            sources = listed(grounding, "groundingChunks")
            found["google_search"] += len(listed(grounding, "webSearchQueries"))
            found["google_maps"] += any(member(source, "maps") for source in sources)
            found["file_search"] += any(member(source, "retrievedContext") for source in sources)
        if "urlContextMetadata" in candidate:
            found["url_context"] += len(listed(member(candidate, "urlContextMetadata"), "urlMetadata"))
        for piece in listed(member(candidate, "content"), "parts"):
            if isinstance(piece, dict) and "executableCode" in piece:
                found["code_execution"] += 1
    if found["google_search"] > 1 and (string(body, "modelVersion") or "").startswith(_BILLED_BY_REQUEST):
        found["google_search"] = 1
    return {name: count for name, count in found.items() if count}


def usage_in(body: Members) -> Usage | None:
    """Usage of an answer."""
    usage = usage_of(body.get("usageMetadata"))
    ran = tool_calls_in(body)
    return replace(usage, tool_calls=tuple(sorted(ran.items()))) if usage is not None and ran else usage


def texts_of(candidate: Any) -> Iterator[tuple[str, str]]:
    """Visible texts of a candidate, each with its channel."""
    for piece in listed(member(candidate, "content"), "parts"):
        if not isinstance(piece, dict):
            continue
        if isinstance(piece.get("text"), str):
            yield ("thought" if piece.get("thought") is True else "text"), piece["text"]
        if "functionCall" in piece:
            call = member(piece, "functionCall")
            yield "call", string(call, "name") or ""
            yield "call", msgspec.json.encode(call.get("args")).decode() if call.get("args") else ""
        if "executableCode" in piece:
            yield "code", string(member(piece, "executableCode"), "code") or ""


def answer_texts(body: Members) -> Iterator[str]:
    """Visible texts of an answer."""
    for candidate in listed(body, "candidates"):
        for _, text in texts_of(candidate):
            yield text


class ChunkTally(Tally):
    """Chunks of a stream."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.head: Members = {}
        self.latest: Members | None = None
        self.ran: dict[str, int] = {}
        self.open: dict[int, bool] = {}

    def take(self, payload: Members) -> None:
        """Text of the candidates, and the usage up to here."""
        if not self.head:
            self.head = {name: payload[name] for name in ("modelVersion", "responseId") if name in payload}
            self.model = string(payload, "modelVersion")
        reported = payload.get("usageMetadata")
        if isinstance(reported, dict):
            self.latest = reported
        ran = tool_calls_in(payload)
        if ran:
            # What the answer rests on may be told again with every chunk.
            self.ran = {name: max(count, self.ran.get(name, 0)) for name, count in {**self.ran, **ran}.items()}
        if string(member(payload, "promptFeedback"), "blockReason") is not None:
            self.finished = True
        for candidate in listed(payload, "candidates"):
            index = index_of(candidate)
            for channel, text in texts_of(candidate):
                self.text.add((index, channel), text)
            still_open = string(candidate, "finishReason") is None
            if self.open.get(index) is not still_open:
                self.open = {**self.open, index: still_open}
                self.finished = self.finished or not any(self.open.values())

    def running(self) -> Usage | None:
        """The usage up to here."""
        usage = usage_of(self.latest)
        return replace(usage, tool_calls=tuple(sorted(self.ran.items()))) if usage is not None and self.ran else usage

    def closing_chunk(self, usage: Usage | None) -> Members:
        """A chunk that ends every open candidate with MAX_TOKENS."""
        candidates = [
            {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": index}
            for index, still_open in sorted((self.open or {0: True}).items())
            if still_open
        ]
        used = {"usageMetadata": usage_members(usage)} if usage is not None else {}
        return {"candidates": candidates, **used, **self.head}

    def closing(self, usage: Usage | None) -> bytes:
        """That chunk as an event."""
        return b"data: " + msgspec.json.encode(self.closing_chunk(usage)) + b"\r\n\r\n"


def usage_members(usage: Usage) -> Members:
    """The `usageMetadata` of a chunk that we make."""
    members = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }
    if usage.cached_input_tokens:
        members["cachedContentTokenCount"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        members["thoughtsTokenCount"] = usage.reasoning_tokens
    return members


def read_chunk(payload: Members | None, _: bytes, __: Usage | None) -> Sign:
    """Only errors are read at once."""
    return Sign(error=True) if payload is not None and payload.get("error") is not None else NOTHING


CHUNKS = Grammar(
    markers=(b'"error"',),
    read=read_chunk,
    tally=ChunkTally,
    most_event_bytes=MOST_LARGE_EVENT_BYTES,
    closes_on_eof=True,
)
