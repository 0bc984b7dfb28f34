"""What the upstream reads is what we priced: hostile spellings of a request are refused or change nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestLimits
from gateway.core.operations import Operation
from gateway.core.requests import read_request

LIMITS = RequestLimits()
JSON_OPERATIONS = (
    Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.RESPONSES_COMPACT, Operation.INPUT_TOKENS,
    Operation.EMBEDDINGS, Operation.IMAGES_GENERATIONS, Operation.IMAGES_EDITS, Operation.SPEECH, Operation.MESSAGES,
    Operation.GENERATE, Operation.STREAM_GENERATE, Operation.EMBED, Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE,
)  # fmt: skip


def read(body: bytes, operation: Operation = Operation.CHAT) -> Any:
    return read_request(operation, body, limits=LIMITS)


def refused(body: bytes, operation: Operation = Operation.CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(body, operation)
    return caught.value


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b'{"model":}', b'{"model":"m"} x', b"\xff\xfe{\x00}\x00", b'{"model":NaN}', b'{"a":\x01}',
     b'{"model":"m",}', b"{'model':'m'}", b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_what_is_not_json_is_refused_as_the_body(operation: Operation, body: bytes) -> None:
    problem = refused(body, operation)
    assert (problem.status, problem.param) == (422, "body")
    assert "not valid JSON" in problem.detail


@pytest.mark.parametrize("operation", JSON_OPERATIONS)
@pytest.mark.parametrize("body", [b"[]", b'"model"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_refused(operation: Operation, body: bytes) -> None:
    assert refused(body, operation).param == "body"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_without_end_is_refused_not_followed(opening: bytes) -> None:
    assert refused(b'{"model":"m","metadata":' + opening * 200_000).param == "body"
    deep = b'{"model":"m","metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert refused(deep).param == "body"


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        (Operation.CHAT, b'{"model":"cheap","model":"dear"}', "model"),
        (Operation.CHAT, b'{"model":"cheap","mod\\u0065l":"dear"}', "model"),
        (Operation.CHAT, b'{"m\\u006Fdel":"cheap","model":"dear","messages":[]}', "model"),
        (Operation.CHAT, b'{"model":"m","max_tokens":1,"max_tokens":900000}', "max_tokens"),
        (Operation.CHAT, b'{"model":"m","max_tokens":1,"max\\u005ftokens":900000}', "max_tokens"),
        (Operation.CHAT, b'{"model":"m","Max_Tokens":900000}', "Max_Tokens"),
        (Operation.CHAT, b'{"model":"m","MODEL":"dear"}', "MODEL"),
        (Operation.CHAT, b'{"model" : "m","n":1, "n" :90}', "n"),
        (Operation.CHAT, '{"model":"m","max_to\u212aens":9}'.encode(), "max_to\u212aens"),
        (Operation.CHAT, b'{"model":"m","\\u017ftream":true}', "\u017ftream"),
        (Operation.OLLAMA_CHAT, b'{"model":"m","Model":"dear"}', "Model"),
        (Operation.OLLAMA_CHAT, b'{"model":"m","options":{"num_predict":1,"num_predict":9}}', "num_predict"),
        (Operation.OLLAMA_CHAT, b'{"model":"m","Options":{"num_predict":9}}', "Options"),
        (Operation.GENERATE, b'{"model":"m","generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}',
         "maxOutputTokens"),
        (Operation.MESSAGES, b'{"model":"m","max_tokens":1,"messages":[],"max_tokens":9}', "max_tokens"),
        (Operation.EMBEDDINGS, b'{"model":"m","input":"a","model":"n"}', "model"),
    ],
)  # fmt: skip
def test_a_name_given_twice_or_in_another_spelling_is_refused(operation: Operation, body: bytes, param: str) -> None:
    assert refused(body, operation).param == param


def test_text_that_looks_like_members_is_only_text() -> None:
    text = '{"model":"dear","max_tokens":5} \\u0041 "n":3'
    schema = {"properties": {"model": {}, "n": {"type": "integer"}, "stream": {}, "Model": {}}}
    body = json.dumps({
        "model": "gpt-4o", "messages": [{"role": "user", "content": text}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
    }).encode()  # fmt: skip
    facts = read(body)
    assert (facts.model, facts.output_limit_tokens, facts.choices, facts.stream) == ("gpt-4o", None, 1, False)


def test_escapes_in_text_change_nothing() -> None:
    facts = read(b'{"model":"gpt\\u002d4o","messages":[{"content":"\\u0041\\u00e9"}],"max_tokens":7,"n":2}')
    assert (facts.model, facts.output_limit_tokens, facts.choices) == ("gpt-4o", 7, 2)


def test_an_escaped_name_of_something_priced_is_still_seen() -> None:
    plain = read(b'{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"http://a/b"}}]}]}')
    hidden = read(
        b'{"model":"m","messages":[{"content":[{"type":"image_url","image\\u005furl":{"url":"http://a/b"}}]}]}'
    )
    assert hidden.input_bound_tokens >= plain.input_bound_tokens > LIMITS.media_tokens


spellings = st.sampled_from(
    ['"model"', '"mod\\u0065l"', '"MODEL"', '"Model"', '"max_tokens"', '"max\\u005ftokens"', '"Max_tokens"', '"n"', '"N"',
     '"stream"', '"messages"', '"a"', '"metadata"', '"user"', '"\\u006e"', '"max_completion_tokens"', '"service_tier"']
)  # fmt: skip
contents = st.sampled_from(
    [
        '"m"',
        '"gpt-4o"',
        "1",
        "2",
        "77",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        '{"model":"x","n":5}',
        '"\\"n\\":5"',
        '[{"n":1}]',
    ]
)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _any_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.casefold(): value for name, value in pairs}


@given(st.lists(st.tuples(spellings, contents), max_size=7), st.sampled_from([":", " : ", ":\n"]))
@settings(max_examples=600, deadline=None)
def test_every_parser_sees_the_request_that_was_priced(pairs: list[tuple[str, str]], colon: str) -> None:
    text = '{"model":"gpt-4o",' + ",".join(name + colon + value for name, value in pairs) + "}"
    body = text.replace(",}", "}").encode()
    try:
        facts = read(body)
    except InvalidRequest:
        return
    for hook in (None, _first_wins, _any_case):
        seen = json.loads(body, object_pairs_hook=hook)
        limits = [seen[name] for name in ("max_tokens", "max_completion_tokens") if seen.get(name) is not None]
        assert seen["model"] == facts.model
        assert max(limits, default=None) == facts.output_limit_tokens
        assert (seen.get("n") or 1) == facts.choices
        assert bool(seen.get("stream")) == facts.stream
