"""Gemini's API as the simulated upstream speaks it.

Streams come as server-sent events with CRLF (`alt=sse`) or as one JSON array; usage is on every chunk and cumulative,
the last one counts; thoughts are not among the candidates' tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import json

from gateway.simulators.upstream_openai import answer_of, choice_seed
from gateway.simulators.upstream_orders import Answer, Asked, Order, Piece, input_words, model_of, order_of
from gateway.simulators.upstream_words import text, words

DIMENSIONS = 768


def generate(asked: Asked) -> Answer:
    """POST models/{model}:generateContent."""
    order = _order(asked, stream=False)
    usage = _usage(order, order.visible_tokens * order.choices)
    candidates = [
        _candidate(order, index, text(choice_seed(order, index), order.visible_tokens), last=True)
        for index in range(order.choices)
    ]
    body = json.encode(_response(order, candidates, usage))
    return answer_of(order, iter([(body, order.visible_tokens * order.choices)]))


def stream_generate(asked: Asked) -> Answer:
    """POST models/{model}:streamGenerateContent."""
    order = _order(asked, stream=True)
    if "alt=sse" in asked.query.split("&"):
        return answer_of(order, _events(order), b"text/event-stream")
    return answer_of(order, _array(order), b"application/json; charset=UTF-8")


def count_tokens(asked: Asked) -> Answer:
    """POST models/{model}:countTokens."""
    counted = max(1, input_words(asked.payload))
    return Answer([(json.encode({"totalTokens": counted}), 0)], model=asked.model, input_tokens=counted)


def embed(asked: Asked) -> Answer:
    """POST models/{model}:embedContent."""
    counted = max(1, input_words(asked.payload))
    body = {"embedding": {"values": _vector(asked, 0)}, "usageMetadata": {"promptTokenCount": counted}}
    return Answer([(json.encode(body), 0)], model=model_of(asked), input_tokens=counted)


def embed_batch(asked: Asked) -> Answer:
    """POST models/{model}:batchEmbedContents."""
    requests = asked.payload.get("requests")
    count = len(requests) if isinstance(requests, list) else 0
    counted = max(1, input_words(asked.payload))
    body: dict[str, Any] = {"embeddings": [{"values": _vector(asked, index)} for index in range(count)]}
    body["usageMetadata"] = {"promptTokenCount": counted}
    return Answer([(json.encode(body), 0)], model=model_of(asked), input_tokens=counted)


def _vector(asked: Asked, index: int) -> list[float]:
    size = asked.payload.get("outputDimensionality") or DIMENSIONS
    start = asked.seed[index % len(asked.seed)]
    return [((start + place * 37) % 255 - 127) / 1_024 for place in range(size)]


def _order(asked: Asked, *, stream: bool) -> Order:
    config = asked.payload.get("generationConfig") or asked.payload.get("generation_config") or {}
    limits = (config.get("maxOutputTokens"), config.get("max_output_tokens"))
    choices = config.get("candidateCount") or config.get("candidate_count") or 1
    return order_of(asked, limits=limits, choices=choices, stream=stream, tools=asked.payload.get("tools"))


def _usage(order: Order, shown_tokens: int) -> dict[str, Any] | None:
    if not order.reports_usage:
        return None
    prompt, shown = order.told(order.input_tokens), order.told(shown_tokens)
    thoughts = order.told(order.reasoning_tokens * order.choices)
    usage: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": shown,
        "totalTokenCount": prompt + shown + thoughts,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    if order.cached_tokens:
        usage["cachedContentTokenCount"] = order.told(order.cached_tokens)
    return usage


def _candidate(order: Order, index: int, said: str, *, last: bool) -> dict[str, Any]:
    part: dict[str, Any] = {"text": said}
    if order.tool:
        part = {"functionCall": {"name": order.tool, "args": {"text": said}}}
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}}
    if last:
        candidate["finishReason"] = "MAX_TOKENS" if order.cut else "STOP"
    return candidate | {"index": index}


def _response(order: Order, candidates: list[Any], usage: dict[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = {"candidates": candidates}
    if usage is not None:
        body["usageMetadata"] = usage
    return body | {"modelVersion": order.model, "responseId": order.identity[:22]}


def _chunks(order: Order) -> Iterator[Piece]:
    """One JSON object a token; the last one carries the reason of the end too. A tool call comes as one chunk."""
    if order.tool or not order.visible_tokens:
        said = text(choice_seed(order, 0), order.visible_tokens)
        usage = _usage(order, order.visible_tokens)
        yield json.encode(_response(order, [_candidate(order, 0, said, last=True)], usage)), order.visible_tokens
        return
    shown = 0
    for index in range(order.choices):
        for place, word in enumerate(words(choice_seed(order, index), order.visible_tokens), start=1):
            shown += 1
            candidate = _candidate(order, index, word, last=place == order.visible_tokens)
            yield _filled(order, json.encode(_response(order, [candidate], _usage(order, shown)))), 1


def _filled(order: Order, chunk: bytes) -> bytes:
    """Filled up to `x-sim-chunk-bytes` with a longer `responseId`, which is the last member."""
    room = order.wish.chunk_bytes - len(chunk) - len(b"data: \r\n\r\n")
    return chunk if room <= 0 else chunk[:-2] + b"A" * room + b'"}'


def _events(order: Order) -> Iterator[Piece]:
    for chunk, tokens in _chunks(order):
        yield b"data: " + chunk + b"\r\n\r\n", tokens


def _array(order: Order) -> Iterator[Piece]:
    before = b"["
    for chunk, tokens in _chunks(order):
        yield before + chunk, tokens
        before = b"\n,\r\n"
    yield b"\n]", 0
