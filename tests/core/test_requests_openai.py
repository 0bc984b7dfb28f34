"""How OpenAI's requests are read: limits, choices, tools, tiers, and what a body only names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation
from gateway.core.requests import read_request

LIMITS = RequestLimits(priced_tools=frozenset({"web_search", "file_search", "code_interpreter"}))
BARE = RequestLimits()


def read(operation: Operation, limits: RequestLimits = LIMITS, **members: Any) -> RequestFacts:
    return read_request(operation, json.dumps({"model": "gpt-4o", **members}).encode(), limits=limits)


def refused(operation: Operation, limits: RequestLimits = LIMITS, **members: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        read(operation, limits, **members)
    assert caught.value.status == 422
    return caught.value.param


def test_a_plain_stream_shows_all_and_has_not_asked_for_usage() -> None:
    facts = read(Operation.CHAT, messages=[{"role": "user", "content": "hi"}], stream=True)
    assert facts.shows_all and facts.stream and not facts.asks_usage and facts.limit_can_be_spliced
    assert facts.output_limit_tokens is None and facts.choices == 1


def test_an_unstreamed_answer_never_shows_all() -> None:
    assert not read(Operation.CHAT).shows_all
    assert read(Operation.CHAT).asks_usage


@pytest.mark.parametrize(("options", "asks"), [({"include_usage": True}, True), ({"include_usage": False}, False),
                                               (None, False), ({}, False)])  # fmt: skip
def test_usage_is_asked_for_in_stream_options(options: Any, asks: bool) -> None:
    assert read(Operation.CHAT, stream=True, stream_options=options).asks_usage is asks


def test_of_several_limits_the_largest_counts() -> None:
    assert read(Operation.CHAT, max_tokens=5, max_completion_tokens=9).output_limit_tokens == 9
    assert read(Operation.CHAT, max_tokens=50, max_completion_tokens=None).output_limit_tokens == 50


@pytest.mark.parametrize("value", [-1, 0, True, 1.0, 1e3, "5", [], {}, 10_000_001, 2**70])
@pytest.mark.parametrize(
    ("operation", "field"),
    [(Operation.CHAT, "max_tokens"), (Operation.CHAT, "max_completion_tokens"), (Operation.COMPLETIONS, "max_tokens"),
     (Operation.RESPONSES, "max_output_tokens"), (Operation.MESSAGES, "max_tokens"), (Operation.CHAT, "n"),
     (Operation.COMPLETIONS, "best_of"), (Operation.IMAGES_GENERATIONS, "n"), (Operation.RESPONSES, "max_tool_calls")],
)  # fmt: skip
def test_a_limit_that_is_no_sound_integer_is_refused_by_name(operation: Operation, field: str, value: Any) -> None:
    assert refused(operation, **{field: value}) == field


def test_choices_multiply_and_hide_what_the_stream_shows() -> None:
    facts = read(Operation.COMPLETIONS, n=2, best_of=3, prompt=["a", "b"], stream=True)
    assert facts.choices == 12 and not facts.shows_all
    assert read(Operation.COMPLETIONS, prompt=[1, 2, 3]).choices == 1
    assert read(Operation.COMPLETIONS, prompt=[[1, 2], [3]]).choices == 2


@pytest.mark.parametrize("value", ["", 5, None, ["gpt-4o"], "a\nb", "x" * 300])
def test_a_model_must_be_a_name(value: Any) -> None:
    assert refused(Operation.CHAT, model=value) == "model"


@pytest.mark.parametrize("value", [1, "true", [], "yes"])
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.RESPONSES, Operation.MESSAGES, Operation.OLLAMA_CHAT])
def test_stream_must_be_a_boolean(operation: Operation, value: Any) -> None:
    assert refused(operation, stream=value) == "stream"


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.RESPONSES, Operation.MESSAGES, Operation.GENERATE])
def test_background_is_refused(operation: Operation) -> None:
    assert refused(operation, background=True) == "background"
    assert read(operation, background=False).model == "gpt-4o"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {}}, {"type": "browser_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "time_travel"}]}, "tools[0].type"),
        ({"tools": [{"type": None}]}, "tools[0].type"),
        ({"tools": "all"}, "tools"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"search_parameters": {"mode": "auto"}}, "search_parameters"),
        ({"plugins": [{"id": "web"}]}, "plugins[0].id"),
        ({"plugins": [{"id": "file-parser"}]}, "plugins[0].id"),
        ({"models": ["gpt-4o", "o1-pro"]}, "models"),
        ({"fallbacks": ["o1-pro"]}, "fallbacks"),
        ({"preset": "mine"}, "preset"),
        ({"service_tier": "golden"}, "service_tier"),
        ({"service_tier": 1}, "service_tier"),
        ({"model": "gpt-4o-search-preview"}, "model"),
        ({"model": "openai/gpt-4o:online"}, "model"),
        ({"model": "compound-beta"}, "model"),
        ({"deferred": True}, "deferred"),
        ({"stream": True, "stream_options": []}, "stream_options"),
    ],
)
def test_what_bears_an_unpriced_cost_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    assert refused(Operation.CHAT, BARE, **members) == param


def test_a_priced_server_tool_is_counted_with_its_greatest_number_of_calls() -> None:
    facts = read(Operation.RESPONSES, input="x", tools=[{"type": "web_search_preview_2025_03_11"}], stream=True)
    assert facts.tools == (("web_search", LIMITS.tool_calls_each),) and not facts.shows_all
    assert read(Operation.RESPONSES, tools=[{"type": "web_search"}], max_tool_calls=2).tools == (("web_search", 2),)
    assert read(Operation.CHAT, web_search_options={}).tools == (("web_search", LIMITS.tool_calls_each),)


@pytest.mark.parametrize(
    "tool",
    [{"type": "function"}, {"type": "custom"}, {"type": "tool_search"}, {"type": "apply_patch"}, {"type": "local_shell"},
     {"type": "shell", "environment": {"type": "local"}}, {"type": "computer_use_preview"},
     {"type": "namespace", "tools": [{"type": "function"}]}],
)  # fmt: skip
def test_the_callers_own_tools_are_free(tool: dict[str, Any]) -> None:
    assert read(Operation.RESPONSES, BARE, tools=[tool]).tools == ()


def test_tools_that_come_in_by_the_input_or_a_namespace_are_looked_at_too() -> None:
    item = {"type": "additional_tools", "tools": [{"type": "image_generation"}]}
    assert refused(Operation.RESPONSES, BARE, input=[item]) == "input[0].tools[0].type"
    inner = {"type": "namespace", "tools": [{"type": "mcp"}]}
    assert refused(Operation.RESPONSES, BARE, tools=[inner]) == "tools[0].tools[0].type"


def test_the_input_bound_is_never_below_the_bytes() -> None:
    body = json.dumps(
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "é" * 500}]}, ensure_ascii=False
    ).encode()
    assert read_request(Operation.CHAT, body, limits=LIMITS).input_bound_tokens >= len(body)


def test_pictures_count_whether_named_or_inline() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    two = read(Operation.CHAT, messages=[{"role": "user", "content": [part, part]}])
    assert two.input_bound_tokens >= 2 * LIMITS.media_tokens
    mini = read(Operation.CHAT, model="gpt-4o-mini", messages=[{"role": "user", "content": [part]}])
    assert mini.input_bound_tokens >= 48_169  # 33 times a full picture


@pytest.mark.parametrize("member", [{"previous_response_id": "resp_1"}, {"conversation": {"id": "c"}}, {"prompt": {"id": "p"}},
                                    {"input": [{"type": "item_reference", "id": "msg_1"}]}, {"input": [{"id": "msg_1"}]}])  # fmt: skip
def test_hidden_history_counts_as_a_whole_window(member: dict[str, Any]) -> None:
    assert read(Operation.RESPONSES, **member).input_bound_tokens >= LIMITS.history_tokens


def test_hidden_reasoning_items_count_unless_their_content_is_there() -> None:
    hidden = read(Operation.RESPONSES, input=[{"type": "reasoning", "id": "rs_1", "summary": []}])
    shown = read(Operation.RESPONSES, input=[{"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAA"}])
    assert hidden.input_bound_tokens >= LIMITS.item_tokens > shown.input_bound_tokens


@pytest.mark.parametrize(
    "members",
    [{"reasoning_effort": "low"}, {"model": "o3-mini"}, {"model": "openai/gpt-5-mini"}, {"reasoning": {"effort": "high"}},
     {"thinking": {"type": "enabled"}}, {"enable_thinking": True}, {"chat_template_kwargs": {"thinking": True}},
     {"modalities": ["text", "audio"]}, {"prediction": {"content": "x"}}, {"service_tier": "priority"}, {"n": 2},
     {"model": "deepseek-reasoner"}, {"model": "claude-opus-5"}, {"model": "gemini-2.5-pro"}, {"model": "qwen/qwen3-32b"}],
)  # fmt: skip
def test_what_a_stream_may_hide_is_held_whole(members: dict[str, Any]) -> None:
    assert not read(Operation.CHAT, stream=True, **members).shows_all


@pytest.mark.parametrize(
    "members",
    [{"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, {"service_tier": "default"}, {"n": 1},
     {"model": "gpt-35-turbo"}, {"model": "mistral-large-latest"}, {"model": "meta-llama/llama-4-scout"}, {"user": "u"},
     {"model": "gpt-4.1-nano"}, {"model": "claude-sonnet-4-5"}, {"model": "gemini-2.5-flash-lite"}, {"model": "mine"}],
)  # fmt: skip
def test_a_stream_that_hides_nothing_may_be_held_in_steps(members: dict[str, Any]) -> None:
    assert read(Operation.CHAT, stream=True, **members).shows_all


def test_compaction_takes_no_limit() -> None:
    assert not read(Operation.RESPONSES_COMPACT, input="x").limit_can_be_spliced
    assert read(Operation.RESPONSES, input="x").limit_can_be_spliced


def test_compacting_contexts_and_pro_mode_read_their_input_more_often() -> None:
    plain = read(Operation.RESPONSES, input="x").input_bound_tokens
    assert read(Operation.RESPONSES, input="x", reasoning={"mode": "pro"}).input_bound_tokens >= 8 * plain
    assert (
        read(Operation.RESPONSES, input="x", context_management=[{"type": "compaction"}]).input_bound_tokens
        >= 2 * plain
    )
    assert refused(Operation.RESPONSES, reasoning={"mode": "ultra"}) == "reasoning.mode"


def test_speech_is_bounded_by_its_characters() -> None:
    facts = read(Operation.SPEECH, model="tts-1", input="häuser", voice="alloy")
    assert facts.characters == 6 and facts.audio_output and not facts.limit_can_be_spliced
    assert refused(Operation.SPEECH, input="") == "input"
    assert refused(Operation.SPEECH, input="a", speed=0) == "speed"


def test_images_are_counted() -> None:
    facts = read(Operation.IMAGES_GENERATIONS, model="gpt-image-1", prompt="a", n=3)
    assert (facts.images, facts.choices, facts.limit_can_be_spliced) == (3, 3, False)
    assert refused(Operation.IMAGES_GENERATIONS, partial_images=99) == "partial_images"


def test_embeddings_have_input_only() -> None:
    facts = read(Operation.EMBEDDINGS, model="text-embedding-3-small", input=["a", "b"])
    assert not facts.limit_can_be_spliced and facts.input_bound_tokens > 0


def test_counting_and_routes_without_a_body_need_only_a_name() -> None:
    assert read(Operation.INPUT_TOKENS).model == "gpt-4o"
    assert read_request(Operation.REALTIME, b"", path_model="gpt-realtime", limits=LIMITS).stream
    assert read_request(Operation.RAW, b"\x00\xff", limits=LIMITS).model == ""
    assert read_request(Operation.LISTING, b"", limits=LIMITS).model == ""


def test_every_operation_has_a_reader() -> None:
    from gateway.core.requests import _READERS

    assert set(_READERS) == set(Operation)


@pytest.mark.parametrize(
    ("operation", "members", "param"),
    [
        (Operation.COMPLETIONS, {"prompt": ["a"] * 129}, "prompt"),
        (Operation.CHAT, {"provider": "openai"}, "provider"),
        (Operation.CHAT, {"plugins": "web"}, "plugins"),
        (Operation.CHAT, {"use_beam_search": 1}, "use_beam_search"),
        (Operation.RESPONSES, {"plugins": [{"id": "file-parser"}]}, "plugins[0].id"),
        (Operation.RESPONSES, {"models": ["o1-pro"]}, "models"),
        (Operation.RESPONSES, {"preset": "mine"}, "preset"),
        (Operation.RESPONSES, {"tools": [{"type": "namespace", "tools": 1}]}, "tools[0].tools"),
        (Operation.RESPONSES, {"tools": [{"type": "web_search", "max_uses": 0}]}, "tools[0].max_uses"),
        (Operation.SPEECH, {"input": "a" * 1_000_001}, "input"),
        (Operation.RESPONSES, {"input": ["text"]}, "input[0]"),
        (Operation.RESPONSES, {"input": 5}, "input"),
    ],
)
def test_other_odd_members_are_refused_by_name(operation: Operation, members: dict[str, Any], param: str) -> None:
    assert refused(operation, **members) == param


def test_plugins_and_providers_that_cost_nothing_more_pass() -> None:
    assert (
        read(Operation.CHAT, BARE, plugins=[{"id": "response-healing"}], provider={"order": ["x"]}, models=[]).tools
        == ()
    )
    assert read(Operation.CHAT, BARE, search_parameters={"mode": "off"}).tools == ()
    assert read(Operation.RESPONSES, plugins=[{"id": "web"}]).tools == (("web_search", 10),)
    assert read(Operation.CHAT, plugins=[{"id": "web"}]).tools == (("web_search", 10),)
    uses = [{"type": "openrouter:web_search", "parameters": {"max_uses": 1}}]
    assert read(Operation.CHAT, tools=uses).tools == (("web_search", 1),)


def test_half_drawn_pictures_are_counted() -> None:
    plain = read(Operation.IMAGES_GENERATIONS, prompt="a", stream=True).output_limit_tokens
    shown = read(Operation.IMAGES_GENERATIONS, prompt="a", stream=True, partial_images=3).output_limit_tokens
    assert plain is not None and shown == plain + 300
