"""Recorded requests to the real services can be read, and their input is never billed above its bound.

The recordings are not part of the project: set FAREBOX_RECORDINGS to their folder to run this over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from recordings import recordings

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation
from gateway.core.requests import read_request

# Every server tool priced but the one that calls another model at that model's price.
LIMITS = RequestLimits(
    priced_tools=frozenset(
        [
            "web_search",
            "web_fetch",
            "file_search",
            "code_interpreter",
            "code_execution",
            "image_generation",
            "mcp",
            "shell",
            "google_search",
            "google_maps",
            "url_context",
        ]
    )
)
ENDINGS = {
    "chat/completions": Operation.CHAT,
    "/responses": Operation.RESPONSES,
    "/responses/compact": Operation.RESPONSES_COMPACT,
    "/input_tokens": Operation.INPUT_TOKENS,
    "/count_tokens": Operation.INPUT_TOKENS,
    "/messages": Operation.MESSAGES,
    "/embeddings": Operation.EMBEDDINGS,
    ":generateContent": Operation.GENERATE,
    ":streamGenerateContent": Operation.STREAM_GENERATE,
    ":embedContent": Operation.EMBED,
    ":batchEmbedContents": Operation.EMBED,
    ":countTokens": Operation.INPUT_TOKENS,
}
# What is refused, and why it must be.
EXPECTED = {
    "background": "an answer fetched later cannot be metered or cut",
    "tools[0].type": "the advisor tool calls another model, at that model's price",
}
UNROUTED = ("/fileSearchStores", "/conversations", "/vector_stores", "/cachedContents", "/client_secrets", "/files")


def routed(exchanges: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Operation, str | None]]:
    for exchange in exchanges:
        path = exchange["path"]
        for ending, operation in ENDINGS.items():
            if path.endswith(ending):
                model = path.rsplit("/", 1)[1].split(":")[0] if ending.startswith(":") else None
                yield exchange, operation, model
                break
        else:
            assert path.endswith(UNROUTED), path


def billed_input_tokens(exchange: dict[str, Any]) -> int:
    """As the answer reports it; 0 for streams and errors."""
    try:
        answer = json.loads(exchange["response"])
    except ValueError:
        return 0
    usage = answer.get("usage") or answer.get("usageMetadata") or {}
    named = (
        "prompt_tokens",
        "input_tokens",
        "promptTokenCount",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
    )
    return sum(usage.get(name) or 0 for name in (*named, "toolUsePromptTokenCount"))


def test_recorded_requests_are_read_and_their_input_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    exchanges = recordings()
    refused: list[tuple[str, str]] = []
    for exchange, operation, model in routed(exchanges):
        body = json.dumps(exchange["request"], ensure_ascii=False).encode()
        try:
            facts: RequestFacts = read_request(operation, body, path_model=model, limits=LIMITS)
        except InvalidRequest as problem:
            refused.append((exchange["id"], problem.param or ""))
            continue
        assert facts.model == (model or exchange["request"]["model"])
        if operation is not Operation.INPUT_TOKENS:
            assert billed_input_tokens(exchange) <= facts.input_bound_tokens, exchange["id"]
    for identifier, param in refused:
        assert param in EXPECTED, (identifier, param)
    if exchanges:
        listed = ", ".join(f"{name} ({EXPECTED[name]})" for _, name in refused)
        with capsys.disabled():
            print(f"\n{len(exchanges)} recorded requests, refused: {listed}")
