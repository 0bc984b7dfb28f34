"""Upstreams answer with another model than was asked for: an alias's newest version, a router's choice. The price is
that of the model that was served, where the price book knows it, and never above what was held.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import ROUND_CEILING
from typing import Any

import pytest
from e2e.replay import ID_HEADER, Recorded, Replay, running_replay
from e2e.stack import Parts, Stack, proof, start_stack, until
from genai_prices import Usage, calc_price

MSAT_PER_USD = 1_000_000
STREAM = "text/event-stream"
WORDS = "one two three four five six seven eight nine ten"
USAGE = {"input_tokens": 20, "output_tokens": 10}


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    with running_replay({}) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(replay: Replay, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    upstreams = {name: {"dialect": name, "base_url": replay.url} for name in ("openai", "anthropic", "gemini")}
    with start_stack(tmp_path_factory.mktemp("served"), parts, upstreams=upstreams, routes=[]) as running:
        yield running


def events(*values: dict[str, Any], last: str = "") -> bytes:
    named = (f"event: {value['type']}\n" if "type" in value else "" for value in values)
    return (
        "".join(f"{name}data: {json.dumps(value)}\n\n" for name, value in zip(named, values, strict=True)).encode()
        + last.encode()
    )


def chat_stream(model: str) -> bytes:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    return events(
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": WORDS}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
        last="data: [DONE]\n\n",
    )


def message_stream(model: str) -> bytes:
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": model,
               "usage": {"input_tokens": 20, "output_tokens": 1}}  # fmt: skip
    return events(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WORDS}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10}},
        {"type": "message_stop"},
    )


def gemini_stream(model: str) -> bytes:
    used = {"promptTokenCount": 20, "candidatesTokenCount": 10, "totalTokenCount": 30}
    content = {"role": "model", "parts": [{"text": WORDS}]}
    candidate = {"content": content, "finishReason": "STOP", "index": 0}
    return events({"candidates": [candidate], "usageMetadata": used, "modelVersion": model})


def chat_answer(model: str) -> bytes:
    message = {"role": "assistant", "content": WORDS}
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps(
        {"id": "c", "object": "chat.completion", "model": model, "choices": choices, "usage": usage}
    ).encode()


def request(form: str, model: str, limit: int) -> tuple[str, dict[str, Any]]:
    """Path and body of a request in each dialect."""
    asked = [{"role": "user", "content": "Count to ten."}]
    match form:
        case "anthropic":
            return "/v1/messages", {"model": model, "messages": asked, "max_tokens": limit, "stream": True}
        case "google":
            body = {
                "contents": [{"parts": [{"text": "Count to ten."}]}],
                "generationConfig": {"maxOutputTokens": limit},
            }
            return f"/v1beta/models/{model}:streamGenerateContent?alt=sse", body
    return "/v1/chat/completions", {"model": model, "messages": asked, "max_tokens": limit, "stream": form == "openai"}


def price_msat(provider: str, model: str) -> int:
    usd = calc_price(Usage(**USAGE), model, provider_id=provider).total_price
    return int((usd * MSAT_PER_USD).to_integral_value(ROUND_CEILING))


CASES = [
    ("openai", "gpt-4o", "gpt-4o-2024-05-13", Recorded(200, STREAM, chat_stream("gpt-4o-2024-05-13"))),
    ("openai", "gpt-4o", "gpt-4o-mini-2024-07-18", Recorded(200, STREAM, chat_stream("gpt-4o-mini-2024-07-18"))),
    ("unstreamed", "gpt-4o", "gpt-4o-2024-05-13",
     Recorded(200, "application/json", chat_answer("gpt-4o-2024-05-13"))),
    ("anthropic", "claude-sonnet-4-5", "claude-haiku-4-5-20251001",
     Recorded(200, STREAM, message_stream("claude-haiku-4-5-20251001"))),
    ("google", "gemini-2.5-flash", "gemini-2.5-flash-lite",
     Recorded(200, STREAM, gemini_stream("gemini-2.5-flash-lite"))),
]  # fmt: skip


@pytest.mark.parametrize(("form", "asked", "served", "answer"), CASES)
def test_the_price_is_that_of_the_model_that_was_served(
    replay: Replay, gateway: Stack, form: str, asked: str, served: str, answer: Recorded
) -> None:
    provider = "openai" if form == "unstreamed" else form
    record = outcome(replay, gateway, request(form, asked, limit=400), answer)
    assert record["model"] == served
    assert record["cost"]["amount_msat"] == price_msat(provider, served) != price_msat(provider, asked)


def test_a_model_that_the_book_does_not_know_costs_what_was_asked_for(replay: Replay, gateway: Stack) -> None:
    answer = Recorded(200, STREAM, chat_stream("tomorrow-1"))
    record = outcome(replay, gateway, request("openai", "gpt-4o", limit=400), answer)
    assert record["cost"]["amount_msat"] == price_msat("openai", "gpt-4o")


@pytest.mark.parametrize("form", ["openai", "unstreamed"])
def test_a_dearer_model_is_never_charged_above_what_was_held(replay: Replay, gateway: Stack, form: str) -> None:
    dear = "o1-pro-2025-03-19"
    made, kind = (chat_stream, STREAM) if form == "openai" else (chat_answer, "application/json")
    record = outcome(replay, gateway, request(form, "gpt-4o-mini", limit=10), Recorded(200, kind, made(dear)))
    lines: list[dict[str, Any]] = []

    def logged() -> bool:
        found = [line for line in gateway.log.read_text().splitlines() if record["request_id"] in line]
        lines[:] = [json.loads(line) for line in found if line.startswith("{")]
        return bool(lines)

    until(logged, what="the line of the request")
    cost = record["cost"]["amount_msat"]
    assert price_msat("openai", "gpt-4o-mini") < cost == lines[0]["held"] < price_msat("openai", dear)


def outcome(replay: Replay, gateway: Stack, asked: tuple[str, dict[str, Any]], answer: Recorded) -> dict[str, Any]:
    """What the gateway tells of a request once it is posted."""
    replay.answers["it"] = answer
    credential = gateway.buy(1_000)
    got = gateway.http.post(asked[0], json=asked[1], headers={**proof(credential), ID_HEADER: "it"})
    assert got.status_code == 200, got.text
    record = gateway.record(got.headers["farebox-request-id"], credential)
    assert gateway.settled(credential)["posted"] == record["cost"]["amount_msat"]
    return record
