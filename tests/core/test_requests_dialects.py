"""How Anthropic's, Gemini's and Ollama's requests are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation
from gateway.core.requests import read_request

LIMITS = RequestLimits(priced_tools=frozenset({"web_search", "code_execution", "google_search", "mcp"}))
BARE = RequestLimits()


def claude(limits: RequestLimits = LIMITS, **members: Any) -> RequestFacts:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [], **members}
    return read_request(Operation.MESSAGES, json.dumps(body).encode(), limits=limits)


def gemini(limits: RequestLimits = LIMITS, model: str = "gemini-2.0-flash", **members: Any) -> RequestFacts:
    return read_request(Operation.STREAM_GENERATE, json.dumps(members).encode(), path_model=model, limits=limits)


def llama(**members: Any) -> RequestFacts:
    return read_request(Operation.OLLAMA_CHAT, json.dumps({"model": "llama3.2", **members}).encode(), limits=LIMITS)


def param_of(read: Any, *args: Any, **members: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        read(*args, **members)
    return caught.value.param


def test_a_claude_stream_without_thinking_shows_all() -> None:
    facts = claude(stream=True)
    assert (facts.output_limit_tokens, facts.shows_all, facts.asks_usage) == (100, True, True)


@pytest.mark.parametrize(
    "members",
    [{"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"thinking": {"type": "adaptive"}},
     {"model": "claude-fable-5"}, {"service_tier": "priority"}, {"tools": [{"type": "web_search_20250305"}]},
     {"context_management": {"edits": [{"type": "compact_20260112"}]}}, {"stream": False}],
)  # fmt: skip
def test_what_claude_may_hide_is_held_whole(members: dict[str, Any]) -> None:
    assert not claude(**{"stream": True, **members}).shows_all


@pytest.mark.parametrize("members", [{"thinking": {"type": "disabled"}}, {"service_tier": "auto"},
                                     {"tools": [{"name": "f", "input_schema": {}}]}])  # fmt: skip
def test_what_claude_does_not_hide_may_be_held_in_steps(members: dict[str, Any]) -> None:
    assert claude(stream=True, **members).shows_all


@pytest.mark.parametrize(
    "kind", ["custom", "bash_20250124", "text_editor_20250728", "computer_20250124", "memory_20250818",
             "tool_search_tool_bm25_20251119", "tool_search_tool_regex_20251119"],
)  # fmt: skip
def test_tools_that_claudes_caller_runs_are_free(kind: str) -> None:
    assert claude(BARE, tools=[{"type": kind, "name": "x"}]).tools == ()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"name": "f"}, {"type": "web_search_20250305"}]}, "tools[1].type"),
        ({"tools": [{"type": "code_execution_20260120"}]}, "tools[0].type"),
        ({"tools": [{"type": "advisor_20260301"}]}, "tools[0].type"),
        ({"tools": [{"type": "unheard_of_20270101"}]}, "tools[0].type"),
        ({"tools": [{"type": 5}]}, "tools[0].type"),
        ({"mcp_servers": [{"type": "url", "url": "https://a"}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"fallbacks": [{"model": "claude-opus-5"}]}, "fallbacks"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"messages": [{"type": "tool_addition", "tool": {"type": "web_search_20250305"}}]}, "messages"),
    ],
)
def test_what_makes_claude_dearer_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    assert param_of(claude, BARE, **members) == param


def test_claudes_server_tools_take_their_own_maximum() -> None:
    assert claude(tools=[{"type": "web_search_20250305", "max_uses": 3}]).tools == (("web_search", 3),)
    assert claude(tools=[{"type": "web_search_20250305", "max_uses": None}]).tools == (("web_search", 10),)
    assert param_of(claude, tools=[{"type": "web_search_20250305", "max_uses": -1}]) == "tools[0].max_uses"
    assert claude(mcp_servers=[]).tools == ()


def test_pictures_and_documents_count_by_kind() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}
    document = {"type": "document", "source": {"type": "url", "url": "https://a/b.pdf"}}
    picture = claude(messages=[{"role": "user", "content": [image]}]).input_bound_tokens
    paper = claude(messages=[{"role": "user", "content": [document]}]).input_bound_tokens
    assert LIMITS.media_tokens < picture < LIMITS.document_tokens < paper


def test_geminis_model_is_the_paths() -> None:
    assert gemini(contents=[]).model == "gemini-2.0-flash"
    assert gemini(contents=[], model_="x").model == "gemini-2.0-flash"
    body = b'{"model":"models/gemini-2.5-pro","contents":[]}'
    with pytest.raises(InvalidRequest):
        read_request(Operation.GENERATE, body, path_model="gemini-2.0-flash", limits=LIMITS)
    assert not read_request(Operation.GENERATE, b"{}", path_model="gemini-2.0-flash", limits=LIMITS).stream


@pytest.mark.parametrize(
    "config",
    [{"generationConfig": {"maxOutputTokens": 7}}, {"generation_config": {"max_output_tokens": 7}},
     {"generationConfig": {"max_output_tokens": 7}}],
)  # fmt: skip
def test_both_spellings_of_geminis_names_are_read(config: dict[str, Any]) -> None:
    assert gemini(**config).output_limit_tokens == 7


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"generationConfig": {}, "generation_config": {}}, "generationConfig"),
        ({"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 2}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"maxOutputTokens": "9"}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"responseModalities": ["SMELL"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": []}, "generationConfig"),
        ({"tools": [{"functionDeclarations": []}, {"urlContext": {}}]}, "tools[1].urlContext"),
        ({"tools": [{"google_maps": {}}]}, "tools[0].google_maps"),
        ({"tools": [{"brandNew": {}}]}, "tools[0].brandNew"),
        ({"serviceTier": "golden"}, "serviceTier"),
    ],
)
def test_what_gemini_must_not_be_asked_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    assert param_of(gemini, **members) == param


def test_geminis_server_tools_have_one_name_in_both_spellings() -> None:
    assert gemini(tools=[{"googleSearch": {}}]).tools == gemini(tools=[{"google_search": {}}]).tools
    assert gemini(BARE, tools=[{"functionDeclarations": []}, {"googleSearch": None}]).tools == ()
    assert param_of(gemini, BARE, tools=[{"google_search": {}}]) == "tools[0].google_search"


@pytest.mark.parametrize(
    ("model", "config", "shows"),
    [
        ("gemini-2.0-flash", {}, True),
        ("gemini-2.5-flash", {}, False),
        ("gemini-2.5-flash", {"thinkingConfig": {"thinkingBudget": 0}}, True),
        ("gemini-2.5-flash", {"thinkingConfig": {"thinkingBudget": 0, "thinkingLevel": "high"}}, False),
        ("gemini-2.5-flash-lite", {}, True),
        ("gemini-2.5-flash-lite", {"thinkingConfig": {"thinkingBudget": -1}}, False),
        ("gemini-2.0-flash", {"candidateCount": 2}, False),
        ("gemini-2.0-flash", {"responseModalities": ["TEXT", "IMAGE"]}, False),
        ("gemini-2.0-flash", {"responseModalities": ["TEXT"]}, True),
        ("gemini-2.5-flash-preview-tts", {}, False),
        ("gemini-2.5-flash-image", {}, False),
    ],
)
def test_gemini_shows_all_only_where_nothing_thinks_or_draws(model: str, config: dict[str, Any], shows: bool) -> None:
    assert gemini(model=model, generationConfig=config).shows_all is shows


def test_geminis_output_kinds_are_told() -> None:
    assert gemini(model="gemini-2.5-flash-image").image_output
    assert gemini(generationConfig={"responseModalities": ["AUDIO"]}).audio_output


def test_what_gemini_only_names_counts_by_its_kind() -> None:
    def part(mime: str) -> dict[str, Any]:
        return {"contents": [{"parts": [{"fileData": {"mimeType": mime, "fileUri": "https://a/b"}}]}]}

    assert gemini(**part("image/png")).input_bound_tokens < LIMITS.document_tokens
    assert gemini(**part("application/pdf")).input_bound_tokens > LIMITS.document_tokens
    assert gemini(**part("video/mp4")).input_bound_tokens > LIMITS.history_tokens
    assert gemini(cachedContent="cachedContents/1").input_bound_tokens > LIMITS.history_tokens
    audio = gemini(contents=[{"parts": [{"inline_data": {"mime_type": "audio/ogg", "data": "AA"}}]}])
    assert audio.input_audio_bound_tokens > 0


def test_embeddings_of_another_model_than_the_paths_are_refused() -> None:
    def read(*models: str) -> RequestFacts:
        body = json.dumps({"requests": [{"model": f"models/{model}", "content": {}} for model in models]}).encode()
        return read_request(Operation.EMBED, body, path_model="gemini-embedding-2", limits=LIMITS)

    assert not read("gemini-embedding-2", "gemini-embedding-2").limit_can_be_spliced
    assert param_of(read, "gemini-embedding-2", "gemini-embedding-9") == "model"


def test_ollama_streams_unless_told_not_to() -> None:
    assert llama().stream and llama().shows_all
    assert not llama(stream=False).stream
    assert llama(stream=None).stream


@pytest.mark.parametrize(("value", "limit"), [(5, 5), (-1, None), (-2, None), (None, None), (0, 0)])
def test_ollamas_limit_is_num_predict_where_minus_means_none(value: Any, limit: int | None) -> None:
    assert llama(options={"num_predict": value}).output_limit_tokens == limit
    assert llama(options=None).output_limit_tokens is None


@pytest.mark.parametrize("value", [-3, 1.5, True, "9", 10**8])
def test_ollamas_odd_limits_are_refused(value: Any) -> None:
    assert param_of(llama, options={"num_predict": value}) == "options.num_predict"


def test_ollamas_pictures_and_thoughts_count() -> None:
    assert llama(messages=[{"content": "x", "images": ["AA", "BB"]}]).input_bound_tokens > 2 * LIMITS.media_tokens
    assert not llama(think=True).shows_all
    assert llama(think=False, model="qwen3").shows_all
    assert param_of(llama, think=3) == "think"
    assert param_of(llama, messages="hello") == "messages"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"generationConfig": {"responseModalities": "TEXT"}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"thinkingConfig": 1}}, "generationConfig.thinkingConfig"),
        ({"tools": ["googleSearch"]}, "tools[0]"),
        ({"serviceTier": 5}, "serviceTier"),
    ],
)
def test_odd_shapes_of_geminis_members_are_refused_by_name(members: dict[str, Any], param: str) -> None:
    assert param_of(gemini, **members) == param


def test_geminis_priority_is_told_and_its_standard_is_none() -> None:
    assert gemini(serviceTier="SERVICE_TIER_PRIORITY").service_tier == "priority"
    assert gemini(service_tier="standard").service_tier is None
