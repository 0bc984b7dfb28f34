"""Splicing changes the one thing it is asked to, and not a byte besides."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.json_spans import NotAnObject, members
from gateway.core.operations import Operation
from gateway.core.requests import read_request
from gateway.core.splice import splice

LIMITS = RequestLimits()
FACTS = RequestFacts("m")

texts = st.text(max_size=12) | st.sampled_from(
    ['"max_tokens":5', '"stream_options":{"include_usage":false}', "\\", '\\"', "}{][", '{"a":', "é€😀", "\u2028"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " :\r\n ")])


def written(value: Any, layout: tuple[str, str], *, ascii_only: bool = False) -> bytes:
    return json.dumps(value, separators=layout, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def kept_bytes(before: bytes, after: bytes) -> int:
    """How many bytes of `before` stand in `after` at its beginning and end."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return start + end


@given(st.dictionaries(texts, values, max_size=6), layouts, st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_spans_of_members_are_those_that_a_parser_finds(
    value: dict[str, Any], layout: Any, ascii_only: bool
) -> None:
    body = written(value, layout, ascii_only=ascii_only)
    found = members(body)
    assert {member.name: json.loads(body[member.value_start : member.value_end]) for member in found} == value
    assert [member.name for member in found] == list(value)


@given(
    st.dictionaries(texts.filter(lambda name: "max_" not in name), values, max_size=4),
    st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens"]), st.none() | st.integers(1, 5000)),
    st.sampled_from(["absent", None, {}, {"include_usage": False}, {"include_usage": None}, {"other": [1], "a": "}"}]),
    st.integers(1, 6000),
    layouts,
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_spliced_chat_is_the_same_chat_with_just_that_change(
    rest: dict[str, Any], named: dict[str, Any], options: Any, limit: int, layout: Any, ascii_only: bool
) -> None:
    value = {**rest, **named, **({} if options == "absent" else {"stream_options": options})}
    body = written(value, layout, ascii_only=ascii_only)
    after = json.loads(splice(Operation.CHAT, body, FACTS, include_usage=True, output_limit_tokens=limit))
    given_limits = [number for number in named.values() if number is not None]
    expected = dict(value)
    expected["stream_options"] = {**((options if options != "absent" else None) or {}), "include_usage": True}
    for name in ("max_tokens", "max_completion_tokens"):
        assert after.get(name) is None or after[name] <= limit or after[name] == named.get(name)
        if named.get(name) is not None:
            expected[name] = min(named[name], limit)
    if not given_limits:
        assert [after.get("max_tokens"), after.get("max_completion_tokens")].count(limit) == 1
        after.pop("max_tokens", None), after.pop("max_completion_tokens", None)
        expected.pop("max_tokens", None), expected.pop("max_completion_tokens", None)
    assert after == expected


@given(
    st.dictionaries(texts | st.just("max_tokens_"), values | st.just({"max_tokens": 9}), max_size=4),
    st.integers(1, 60),
    st.integers(1, 60),
    layouts,
    st.sampled_from(["first", "last"]),
)
@settings(max_examples=200, deadline=None)
def test_a_limit_that_was_read_is_lowered_in_its_place_however_often_its_name_stands_elsewhere(
    rest: dict[str, Any], named: int, limit: int, layout: Any, where: str
) -> None:
    pair = {"model": "m", "max_tokens": named}
    value = {**pair, **rest} if where == "first" else {**rest, **pair}
    value |= pair
    body = written(value, layout)
    facts = RequestFacts("m", output_limit_tokens=named)
    after = splice(Operation.MESSAGES, body, facts, include_usage=False, output_limit_tokens=limit)
    assert json.loads(after) == {**value, "max_tokens": min(named, limit)}


def test_a_name_that_stands_once_but_as_a_value_is_not_taken_for_the_limit() -> None:
    body = b'{"model":"gpt-4o","max_completion_tokens":90,"user":"max_tokens"}'
    facts = read_request(Operation.CHAT, body, limits=LIMITS)
    after = splice(Operation.CHAT, body, facts, include_usage=False, output_limit_tokens=7)
    assert after == b'{"model":"gpt-4o","max_completion_tokens":7,"user":"max_tokens"}'
    foreign = splice(Operation.CHAT, b'{"user":"max_tokens"}', RequestFacts("m", output_limit_tokens=1),
                     include_usage=False, output_limit_tokens=7)  # fmt: skip
    assert json.loads(foreign) == {"max_tokens": 7, "user": "max_tokens"}


def test_what_is_no_json_passes_where_there_is_no_limit_to_set() -> None:
    assert splice(Operation.RAW, b"\x00\xff", FACTS, include_usage=True, output_limit_tokens=5) == b"\x00\xff"


@given(st.dictionaries(texts, values, max_size=6), st.integers(1, 10**7), layouts)
@settings(max_examples=150, deadline=None)
def test_only_the_limit_is_inserted_and_every_other_byte_stays(value: dict[str, Any], limit: int, layout: Any) -> None:
    assume("max_tokens" not in value)
    body = written({"model": "m", **value}, layout)
    after = splice(Operation.MESSAGES, body, FACTS, include_usage=False, output_limit_tokens=limit)
    assert kept_bytes(body, after) == len(body)
    assert json.loads(after) == {"max_tokens": limit, **json.loads(body)}


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        (Operation.GENERATE, b'{"contents":[]}', b'{"generationConfig":{"maxOutputTokens":7},"contents":[]}'),
        (Operation.GENERATE, b'{"generationConfig":null}', b'{"generationConfig":{"maxOutputTokens":7}}'),
        (Operation.GENERATE, b'{"generationConfig":{ }}', b'{"generationConfig":{"maxOutputTokens":7 }}'),
        (Operation.STREAM_GENERATE, b'{"generation_config":{"max_output_tokens": 9}}',
         b'{"generation_config":{"max_output_tokens": 7}}'),
        (Operation.GENERATE, b'{"generationConfig":{"maxOutputTokens":5,"topK":1}}',
         b'{"generationConfig":{"maxOutputTokens":5,"topK":1}}'),
        (Operation.OLLAMA_CHAT, b'{"options":{"num_predict":-1}}', b'{"options":{"num_predict":7}}'),
        (Operation.OLLAMA_GENERATE, b'{"model":"m"}', b'{"options":{"num_predict":7},"model":"m"}'),
        (Operation.OLLAMA_GENERATE, b'{"options":{"num_predict":4}}', b'{"options":{"num_predict":4}}'),
        (Operation.RESPONSES, b'{"max_output_tokens":800}', b'{"max_output_tokens":7}'),
        (Operation.RESPONSES, b" {}", b' {"max_output_tokens":7}'),
        (Operation.MESSAGES, b'{"max_tokens":100,"a":"\\"max_tokens\\":100"}',
         b'{"max_tokens":7,"a":"\\"max_tokens\\":100"}'),
        (Operation.CHAT, b'{"max_tokens":100,"max_completion_tokens":5}', b'{"max_tokens":7,"max_completion_tokens":5}'),
        (Operation.CHAT, b'{"max_tokens":null}', b'{"max_tokens":7}'),
        (Operation.CHAT, b'{"max\\u005ftokens":100}', b'{"max\\u005ftokens":7}'),
        (Operation.COMPLETIONS, b'{"max_tokens":100,"user":"max_tokens"}', b'{"max_tokens":7,"user":"max_tokens"}'),
        (Operation.EMBEDDINGS, b'{"input":"a"}', b'{"input":"a"}'),
    ],
)  # fmt: skip
def test_the_limit_of_each_dialect_is_set_where_it_belongs(operation: Operation, body: bytes, expected: bytes) -> None:
    assert splice(operation, body, FACTS, include_usage=operation is Operation.RESPONSES,
                  output_limit_tokens=7) == expected  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-4o-mini", "max_tokens"), ("o3", "max_completion_tokens"), ("openai/gpt-5.2", "max_completion_tokens"),
     ("mistral-large-latest", "max_tokens"), ("gpt-oss-20b", "max_tokens"), ("openai.gpt-5.5", "max_completion_tokens")],
)  # fmt: skip
def test_a_new_limit_has_the_name_that_the_model_takes(model: str, name: str) -> None:
    body = json.dumps({"model": model, "messages": []}).encode()
    after = splice(Operation.CHAT, body, RequestFacts(model), include_usage=False, output_limit_tokens=3)
    assert json.loads(after)[name] == 3


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', b'{"stream_options":{"include_usage":true},"model":"m"}'),
        (b"{ }", b'{"stream_options":{"include_usage":true} }'),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage" : false}}', b'{"stream_options":{"include_usage" : true}}'),
        (b'{"a":"\\u0041","b":1}', b'{"stream_options":{"include_usage":true},"a":"\\u0041","b":1}'),
        (b'{"a":{"stream_options":{"include_usage":false}}}',
         b'{"stream_options":{"include_usage":true},"a":{"stream_options":{"include_usage":false}}}'),
    ],
)  # fmt: skip
def test_usage_is_asked_for_at_the_outermost_object_only(body: bytes, expected: bytes) -> None:
    assert splice(Operation.CHAT, body, FACTS, include_usage=True, output_limit_tokens=None) == expected


def test_nothing_to_change_gives_the_same_body() -> None:
    body = b'{"model":"m","stream":true}'
    assert splice(Operation.CHAT, body, FACTS, include_usage=False, output_limit_tokens=None) is body
    assert splice(Operation.MESSAGES, body, FACTS, include_usage=True, output_limit_tokens=None) is body


def test_what_was_spliced_reads_as_the_lowered_request() -> None:
    body = json.dumps({"model": "gpt-4o", "messages": [], "stream": True, "max_tokens": 9000}).encode()
    facts = read_request(Operation.CHAT, body, limits=LIMITS)
    after = read_request(
        Operation.CHAT, splice(Operation.CHAT, body, facts, include_usage=True, output_limit_tokens=12), limits=LIMITS
    )
    assert (facts.output_limit_tokens, facts.asks_usage) == (9000, False)
    assert (after.output_limit_tokens, after.asks_usage) == (12, True)


@pytest.mark.parametrize("body", [b"", b"[]", b'"a"', b'{"a":[1', b'{"a"', b"{1:2}", b'{"a":"b'])
def test_what_is_no_object_is_refused_not_searched_for_ever(body: bytes) -> None:
    with pytest.raises(NotAnObject):
        members(body)
