"""Every path leads to one upstream and one operation, or nowhere."""

from __future__ import annotations

import sys
import timeit
from typing import Any

import pytest

from gateway.config import config_from
from gateway.config_reader import ConfigError
from gateway.core.operations import Dialect, Operation
from gateway.core.routing import Match, MethodMismatch, RouteTable, without_overlap
from gateway.routes import route_table


def upstream(dialect: str, base_url: str = "https://up.example", **more: Any) -> dict[str, Any]:
    return {"dialect": dialect, "base_url": base_url, **more}


UPSTREAMS = {
    "openai": upstream("openai", "https://api.openai.com"),
    "anthropic": upstream("anthropic"),
    "gemini": upstream("gemini"),
    "ollama": upstream("ollama"),
    "groq": upstream("openai", "https://api.groq.com", provider="groq"),
    "openrouter": upstream("openai"),
    "deepseek": upstream("openai"),
    "x": upstream("openai"),
    "search": upstream("raw"),
}


def table(*routes: dict[str, Any], **more: Any) -> RouteTable:
    return route_table(config_from({"upstreams": UPSTREAMS, "routes": list(routes), **more}, environ={}))


def found(routes: RouteTable, method: str, path: str) -> Match:
    match = routes.match(method, path)
    assert isinstance(match, Match), (method, path, match)
    return match


OUT_OF_THE_BOX = [
    ("/v1/chat/completions", "openai", Operation.CHAT),
    ("/v1/completions", "openai", Operation.COMPLETIONS),
    ("/v1/responses", "openai", Operation.RESPONSES),
    ("/v1/responses/compact", "openai", Operation.RESPONSES_COMPACT),
    ("/v1/responses/input_tokens", "openai", Operation.INPUT_TOKENS),
    ("/v1/embeddings", "openai", Operation.EMBEDDINGS),
    ("/v1/images/generations", "openai", Operation.IMAGES_GENERATIONS),
    ("/v1/images/edits", "openai", Operation.IMAGES_EDITS),
    ("/v1/audio/transcriptions", "openai", Operation.TRANSCRIPTIONS),
    ("/v1/audio/speech", "openai", Operation.SPEECH),
    ("/v1/messages", "anthropic", Operation.MESSAGES),
    ("/v1/messages/count_tokens", "anthropic", Operation.INPUT_TOKENS),
    ("/v1/models/gemini-2.5-flash:generateContent", "gemini", Operation.GENERATE),
    ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini", Operation.STREAM_GENERATE),
    ("/v1beta/models/text-embedding-004:embedContent", "gemini", Operation.EMBED),
    ("/v1beta/models/text-embedding-004:batchEmbedContents", "gemini", Operation.EMBED),
    ("/v1beta/models/gemini-2.5-flash:countTokens", "gemini", Operation.INPUT_TOKENS),
    ("/api/chat", "ollama", Operation.OLLAMA_CHAT),
    ("/api/generate", "ollama", Operation.OLLAMA_GENERATE),
]


@pytest.mark.parametrize(("path", "name", "operation"), OUT_OF_THE_BOX)
def test_every_route_of_the_contract_is_there_out_of_the_box(path: str, name: str, operation: Operation) -> None:
    match = found(table(), "POST", path)
    assert (match.upstream_name, match.upstream_path, match.operation) == (name, path, operation)


ADDRESSED = [
    ("/gemini/v1beta/projects/p/locations/l/publishers/google/models/x:generateContent", Operation.GENERATE, "x"),
    ("/groq/openai/v1/chat/completions", Operation.CHAT, None),
    ("/openrouter/api/v1/chat/completions", Operation.CHAT, None),
    ("/deepseek/chat/completions", Operation.CHAT, None),
    ("/x/responses", Operation.RESPONSES, None),
    ("/anthropic/v1/messages", Operation.MESSAGES, None),
    ("/deepseek/anthropic/v1/messages", Operation.MESSAGES, None),
    ("/ollama/v1/chat/completions", Operation.CHAT, None),
    ("/ollama/api/chat", Operation.OLLAMA_CHAT, None),
    ("/gemini/v1beta/openai/chat/completions", Operation.CHAT, None),
]


@pytest.mark.parametrize(("path", "operation", "model"), ADDRESSED)
def test_an_upstream_is_addressed_by_its_name_and_the_operation_told_by_the_ending(
    path: str, operation: Operation, model: str | None
) -> None:
    name, _, own_path = path[1:].partition("/")
    match = found(table(), "POST", path)
    assert (match.upstream_name, match.upstream_path) == (name, f"/{own_path}")
    assert (match.operation, match.path_model) == (operation, model)


def test_the_dialect_is_that_of_the_operation_and_not_of_the_upstream() -> None:
    assert found(table(), "POST", "/deepseek/anthropic/v1/messages").dialect is Dialect.ANTHROPIC
    assert found(table(), "POST", "/ollama/v1/chat/completions").dialect is Dialect.OPENAI


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/files", "/x/files", "/x", "/x/", "/nobody/chat/completions", "/search/anything", "/v2/messages",
     "/x/v1/fine_tuning/jobs", "/gemini/v1beta/models/g:predict", "/x/v1/audio/translations",
     "/x/v1/threads/thread_1/messages"],
)  # fmt: skip
def test_a_path_that_no_route_names_leads_nowhere(path: str) -> None:
    assert table().match("POST", path) is None


@pytest.mark.parametrize(
    "path",
    ["/x/../admin/chat/completions", "/x/%2e%2e/chat/completions", "/x//chat/completions", "/x/a?b/chat/completions",
     "/v1/models/..%2fresponses%2fresp_1", "/x/models/a%2F..%2F..%2Ffiles", "/x/models/..", "/x/models/..;/files",
     "/x/models/%252e%252e%252ffiles", "/x/models/a%3b/files", "/x/models/.%2ffiles",
     "/x/a%3fb/chat/completions", "/x/a%23/models", "/x/a\\b/models", "/x/a b/models", "/x/\u00e9/models"],
)  # fmt: skip
def test_a_path_that_two_servers_may_read_differently_leads_nowhere(path: str) -> None:
    assert table().match("POST", path) is None
    assert table().match("GET", path) is None


def test_a_known_path_with_another_method_says_which_it_takes() -> None:
    routes = table()
    assert routes.match("GET", "/v1/chat/completions") == MethodMismatch(("POST",))
    assert routes.match("POST", "/v1/models") == MethodMismatch(("GET",))
    assert routes.match("DELETE", "/x/chat/completions") == MethodMismatch(("POST",))
    assert routes.match("GET", "/v1beta/models/g:generateContent") == MethodMismatch(("POST",))


def test_the_list_of_models_answers_in_the_dialect_of_the_caller() -> None:
    match = found(table(), "GET", "/v1/models")
    assert match.operation is Operation.LISTING
    assert match.upstream_name == "openai"
    assert match.speaking(Dialect.ANTHROPIC).upstream_name == "anthropic"
    assert match.speaking(Dialect.GEMINI).upstream_name == "gemini"
    assert match.speaking(Dialect.OLLAMA).upstream_name == "openai"
    assert found(table(), "GET", "/v1beta/models").upstream_name == "gemini"
    assert found(table(), "GET", "/openrouter/api/v1/models/meta/llama-3").operation is Operation.LISTING


def test_names_of_models_in_listings_may_have_colons() -> None:
    assert found(table(), "GET", "/openai/v1/models/ft:gpt-4o:acme::1").operation is Operation.LISTING
    assert table().match("GET", "/gemini/v1beta/models/g:generateContent") == MethodMismatch(("POST",))
    assert table().match("GET", "/anthropic/v1/realtime") is None
    assert found(table(), "GET", "/ollama/api/tags").operation is Operation.LISTING


def test_a_match_knows_whose_prices_apply() -> None:
    assert found(table(), "POST", "/groq/openai/v1/chat/completions").provider == "groq"
    assert found(table(), "POST", "/v1/messages").provider == "anthropic"
    assert found(table(), "POST", "/api/chat").provider is None


def test_paths_of_strangers_are_not_remembered_without_end() -> None:
    routes = table()
    for number in range(3_000):
        found(routes, "POST", f"/v1beta/models/m{number}:generateContent")
    assert len(routes._remembered) <= 1_024
    assert routes.match("POST", f"/x/{'a/' * 2_000}chat/completions") is None
    assert found(routes, "POST", "/x/a/chat/completions") is found(routes, "POST", "/x/a/chat/completions")


def test_realtime_is_a_get_and_a_percent_encoded_colon_is_a_colon() -> None:
    assert found(table(), "GET", "/v1/realtime").operation is Operation.REALTIME
    match = found(table(), "POST", "/v1/models/gemini-2.5-flash%3AgenerateContent")
    assert (match.operation, match.path_model) == (Operation.GENERATE, "gemini-2.5-flash")


def test_routes_are_tried_in_order_and_narrowed_by_model() -> None:
    routes = table(
        {"path": "/v1/chat/completions", "models": ["llama*"], "upstream": "groq"},
        {"path": "/v1/chat/completions", "models": ["*"], "upstream": "openrouter"},
    )
    match = found(routes, "POST", "/v1/chat/completions")
    llama, gpt = match.for_model("llama-3.1-8b"), match.for_model("gpt-4o")
    assert llama is not None and gpt is not None
    assert (llama.upstream_name, gpt.upstream_name) == ("groq", "openrouter")


def test_a_model_that_no_route_takes_has_no_match() -> None:
    routes = table({"path": "/v1/chat/completions", "models": ["llama*"], "upstream": "groq"}, default_routes=False)
    assert found(routes, "POST", "/v1/chat/completions").for_model("gpt-4o") is None


def test_raw_routes_take_segments_and_the_rest_and_carry_their_price_and_payers() -> None:
    routes = table(
        {"path": "/search/items/{id}/similar", "upstream": "search", "price": {"usd_per_call": "0.001"}},
        {"path": "/search/files/*", "methods": ["GET"], "upstream": "search", "price": "file", "payers": ["account"]},
    )
    similar = found(routes, "POST", "/search/items/7/similar")
    assert (similar.upstream_path, similar.route.price, similar.operation) == (
        "/items/7/similar", 10**9, Operation.RAW,
    )  # fmt: skip
    files = found(routes, "GET", "/search/files/a/b.txt")
    assert (files.upstream_path, files.route.price) == ("/files/a/b.txt", "file")
    assert files.route.payers == {"account"}
    assert routes.match("POST", "/search/items/7/8/similar") is None
    assert routes.match("GET", "/search/files/") is None


def test_an_earlier_pattern_stands_before_a_later_literal_path() -> None:
    routes = table(
        {"path": "/search/{what}", "upstream": "search", "price": {"usd_per_call": "0.002"}},
        {"path": "/search/query", "upstream": "search", "price": {"usd_per_call": "0.001"}},
    )
    assert found(routes, "POST", "/search/query").route.price == 2 * 10**9


@pytest.mark.parametrize(
    ("base", "path", "left"),
    [("", "/v1/a", "/v1/a"), ("/v1", "/v1/a", "/a"), ("/openai/v1", "/v1/a", "/a"), ("/openai", "/openai/v1/a", "/v1/a"),
     ("/openai/v1", "/openai/v1/a", "/a"), ("/v1", "/v1beta/a", "/v1beta/a"), ("/api", "/v1/a", "/v1/a")],
)  # fmt: skip
def test_a_base_may_be_given_with_or_without_its_last_words(base: str, path: str, left: str) -> None:
    assert without_overlap(base, path) == left


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ({"path": "/search/q", "upstream": "search"}, "routes[0].price: missing"),
        ({"path": "/v1/files", "upstream": "x"}, "routes[0].operation: the path does not tell"),
        ({"path": "/search/q", "upstream": "search", "price": "r", "models": ["a"]}, "routes[0].models: a raw route"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused_at_start(route: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem.replace("[", r"\[").replace(".", r"\.")):
        table(route)


def test_two_routes_of_one_path_must_ask_for_the_same() -> None:
    chat = {"path": "/x1", "upstream": "x", "operation": "chat"}
    with pytest.raises(ConfigError, match=r"routes\[1\]\.operation: POST /x1 is chat in an earlier route"):
        table(chat, {**chat, "operation": "embeddings"})


def test_a_literal_path_is_found_in_two_microseconds() -> None:
    routes = table()
    best = min(timeit.repeat(lambda: routes.match("POST", "/v1/chat/completions"), number=10_000, repeat=5))
    slowed_by_tracing = 10 if sys.gettrace() is not None else 1
    assert best / 10_000 < 2e-6 * slowed_by_tracing
