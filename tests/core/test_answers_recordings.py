"""All recorded answers and streams of the real services, against an independent reading of their usage.

The recordings are not part of the project: set FAREBOX_RECORDINGS to their folder to run this over them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from genai_prices import extract_usage
from recordings import by_hand, provider_of, recordings

from gateway.core.answers.registry import reader_for, served_model, usage_of_answer
from gateway.core.operations import Operation
from gateway.core.usage import Basis, Usage

ENDINGS = {
    "chat/completions": Operation.CHAT,
    "/responses": Operation.RESPONSES,
    "/responses/compact": Operation.RESPONSES_COMPACT,
    "/v1/messages": Operation.MESSAGES,
    "/embeddings": Operation.EMBEDDINGS,
    ":generateContent": Operation.GENERATE,
    ":streamGenerateContent": Operation.STREAM_GENERATE,
    ":embedContent": Operation.EMBED,
    ":batchEmbedContents": Operation.EMBED,
}
# Members that genai-prices does not read, and why we do.
UNREAD = {"num_cached_tokens": "Mistral's older name for cached tokens, which are not billed as fresh ones"}


def answered(streams: bool) -> Iterator[tuple[dict[str, Any], Operation]]:
    """Successful answers that cost something."""
    for exchange in recordings():
        operation = next((op for ending, op in ENDINGS.items() if exchange["path"].endswith(ending)), None)
        is_stream = "event-stream" in (exchange["content_type"] or "")
        if operation is not None and exchange["status"] == 200 and is_stream == streams:
            yield exchange, operation


def figures(usage: Usage) -> tuple[int, ...]:
    return (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.input_audio_tokens,
        usage.cached_input_audio_tokens,
        usage.output_audio_tokens,
    )


def by_the_price_book(exchange: dict[str, Any], operation: Operation) -> tuple[int, ...] | None:
    """genai-prices' reading; None where it does not know the provider, its API or the model."""
    flavor = {"responses": "responses", "responses_compact": "responses", "embeddings": "embeddings"}.get(
        operation, "chat"
    )
    provider = provider_of(exchange["host"], exchange["path"]) or "openai"
    for name in (flavor, "default"):
        try:
            found = extract_usage(json.loads(exchange["response"]), provider_id=provider, api_flavor=name).usage
        except (ValueError, LookupError):
            continue
        return tuple(
            int(value or 0)
            for value in (
                found.input_tokens,
                found.cache_read_tokens,
                found.cache_write_tokens,
                found.output_tokens,
                found.input_audio_tokens,
                found.cache_audio_read_tokens,
                found.output_audio_tokens,
            )
        )
    return None


def last_usage(stream: str) -> dict[str, Any]:
    """The last usage object of a stream; Anthropic's later ones replace members of the first."""
    found: dict[str, Any] = {}
    for line in stream.splitlines():
        if not line.startswith("data: {"):
            continue
        value = json.loads(line[6:])
        for owner in (value, value.get("message") or {}, value.get("response") or {}):
            reported = owner.get("usage") or owner.get("usageMetadata")
            if reported:
                found = {**found, **reported} if value.get("type") == "message_delta" else reported
    return found


def test_recorded_answers_have_the_usage_that_an_independent_reader_finds(capsys: pytest.CaptureFixture[str]) -> None:
    read: Counter[str] = Counter()
    reasons: list[str] = []
    for exchange, operation in answered(streams=False):
        body = exchange["response"].encode()
        answer = json.loads(body)
        usage = usage_of_answer(operation, body)
        reported = answer.get("usage") or answer.get("usageMetadata")
        if usage is None:
            assert not reported, exchange["id"]
            reasons.append(f"{exchange['id']}: no usage in the answer, it is counted")
            continue
        assert figures(usage) == by_hand(reported), exchange["id"]
        assert served_model(operation, body) == (answer.get("model") or answer.get("modelVersion"))
        book = by_the_price_book(exchange, operation)
        if book is None:
            read["read by hand, because genai-prices does not know the model"] += 1
        elif book != figures(usage):
            (name,) = [name for name in UNREAD if reported.get(name)]
            reasons.append(f"{exchange['id']}: {name}={reported[name]}: {UNREAD[name]}")
        else:
            read["as genai-prices reads them"] += 1
    with capsys.disabled():
        if read:
            print("\nrecorded answers:", ", ".join(f"{count} {how}" for how, count in read.items()))
            print("\n".join(reasons))


@pytest.mark.parametrize("read_bytes", [17, 1500, 1 << 20])
def test_recorded_streams_come_out_as_they_came_with_their_last_usage(read_bytes: int) -> None:
    pick = random.Random(read_bytes)
    for exchange, operation in answered(streams=True):
        data = exchange["response"].encode()
        reader = reader_for(
            operation,
            counter=lambda text: len(text.split()),
            strip_usage=False,
            client_asked_usage=True,
            content_type=exchange["content_type"],
        )
        out, at = b"", 0
        while at < len(data):
            size = pick.randint(1, 2 * read_bytes)
            piece = reader.feed(data[at : at + size])
            out, at = out + piece.forward + piece.tail, at + size
        piece = reader.close()
        assert out + piece.forward + piece.tail == data
        assert piece.ended
        usage, basis = reader.usage(input_bound_tokens=1)
        assert basis is Basis.REPORTED, exchange["id"]
        assert figures(usage) == by_hand(last_usage(exchange["response"])), exchange["id"]
        assert reader.model is not None
