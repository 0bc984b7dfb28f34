"""No body, however odd, makes a reader fail in any way but by naming what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation
from gateway.core.requests import _READERS, read_request
from gateway.core.splice import splice

LIMITS = RequestLimits(priced_tools=frozenset({"web_search", "google_search", "mcp", "code_execution"}))
NAMES = [
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "prompt",
    "tools",
    "service_tier",
    "background",
    "deferred",
    "reasoning",
    "reasoning_effort",
    "thinking",
    "enable_thinking",
    "modalities",
    "prediction",
    "web_search_options",
    "search_parameters",
    "plugins",
    "models",
    "fallbacks",
    "preset",
    "provider",
    "input",
    "max_tool_calls",
    "previous_response_id",
    "conversation",
    "context_management",
    "mcp_servers",
    "container",
    "speed",
    "inference_geo",
    "generationConfig",
    "generation_config",
    "maxOutputTokens",
    "max_output_tokens",
    "candidateCount",
    "thinkingConfig",
    "thinkingBudget",
    "responseModalities",
    "cachedContent",
    "serviceTier",
    "requests",
    "options",
    "num_predict",
    "think",
    "images",
    "messages",
    "content",
    "type",
    "id",
    "source",
    "file_id",
    "image_url",
    "fileData",
    "inlineData",
    "tool",
    "function",
    "name",
    "max_uses",
    "environment",
    "parameters",
    "effort",
    "mode",
    "include_usage",
    "stream_options",
    "speed",
    "partial_images",
]
WORDS = [
    "gpt-4o",
    "gemini-2.5-flash",
    "auto",
    "priority",
    "web_search",
    "web_search_20250305",
    "function",
    "namespace",
    "shell",
    "enabled",
    "disabled",
    "none",
    "pro",
    "item_reference",
    "reasoning",
    "compaction",
    "additional_tools",
    "TEXT",
    "AUDIO",
    "tool_addition",
    "-1",
    "5",
]

scalars = (
    st.none() | st.booleans() | st.integers(-3, 12) | st.sampled_from([2**63, -(2**70), 10**30, 1.5, -1.0, 1e300])
    | st.sampled_from(WORDS) | st.text(max_size=5)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(NAMES), values, max_size=7)


@given(bodies, st.sampled_from(list(_READERS)), st.booleans(), st.booleans(), st.integers(1, 50))
@settings(max_examples=600, deadline=None)
def test_any_json_is_read_or_refused_and_what_was_read_can_be_spliced(
    value: dict[str, Any], operation: Operation, named: bool, ascii_only: bool, limit: int
) -> None:
    if named:
        value = {"model": "gpt-4o", **value}
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
    try:
        facts = read_request(
            operation, body, path_model="m" if operation is Operation.REALTIME else None, limits=LIMITS
        )
    except InvalidRequest as problem:
        assert problem.param
        return
    assert facts.choices >= 1 and facts.input_bound_tokens >= 0
    assert facts.output_limit_tokens is None or 0 <= facts.output_limit_tokens <= LIMITS.greatest_limit
    if operation in (Operation.RAW, Operation.LISTING, Operation.REALTIME):
        return
    assert facts.input_bound_tokens >= len(body) or operation is Operation.INPUT_TOKENS
    _check_spliced(operation, body, facts, limit)


def _check_spliced(operation: Operation, body: bytes, facts: RequestFacts, limit: int) -> None:
    spliced = splice(
        operation, body, facts, include_usage=facts.stream and not facts.asks_usage, output_limit_tokens=limit
    )
    again = read_request(operation, spliced, limits=LIMITS)
    assert again.asks_usage or operation not in (Operation.CHAT, Operation.COMPLETIONS)
    if facts.limit_can_be_spliced:
        assert again.output_limit_tokens is not None and again.output_limit_tokens <= limit
    else:
        assert again.output_limit_tokens == facts.output_limit_tokens


@given(st.binary(max_size=60), st.sampled_from(list(_READERS)))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_read_or_refused(body: bytes, operation: Operation) -> None:
    try:
        read_request(operation, body, limits=LIMITS)
    except InvalidRequest as problem:
        assert problem.param


@pytest.mark.parametrize(
    "number", ["1" * 5_000, "-" + "9" * 4_400, "1e400", "-1e400", "0.1e-400", "1.0", "1E2", "9007199254740993"]
)
@pytest.mark.parametrize("spoiled", ["", ',"n":1,"x":{"n":1}', ',"\\u0061":1'])
def test_numbers_beyond_any_range_are_refused_by_name(number: str, spoiled: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_request(Operation.CHAT, f'{{"model":"m","max_tokens":{number}{spoiled}}}'.encode(), limits=LIMITS)
    assert caught.value.param in ("max_tokens", "body")


def test_a_number_that_no_parser_takes_is_refused_where_the_body_is_read_strictly() -> None:
    body = b'{"model":"m","seed":' + b"1" * 5_000 + b',"x":{"model":1}}'
    with pytest.raises(InvalidRequest):
        read_request(Operation.CHAT, body, limits=LIMITS)
