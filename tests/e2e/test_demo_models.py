"""The demo serves the models of the shipped price book, each in its provider's dialect, and none for nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from gateway.adapters.genai_book import default_book
from gateway.cli.demo import running_demo
from gateway.core.price_book import PriceBook
from gateway.core.price_cards import PriceCard

SAMPLED_EACH = 3
CREDIT_SATS = 1_000_000
_ASKED = [{"role": "user", "content": "What is a toll booth for?"}]
# A second of silence.
WAV = b"RIFF" + (36 + 16_000).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0" + (8_000).to_bytes(4, "little")
WAV += (16_000).to_bytes(4, "little") + b"\2\0\x10\0data" + (16_000).to_bytes(4, "little") + bytes(16_000)
_SPOKEN = {"google": "gemini"}


@dataclass(frozen=True)
class Agent:
    """Somebody with credit at a running demo."""

    http: httpx.Client

    def ask(self, provider: str, model: str, card: PriceCard) -> tuple[int, dict[str, Any]]:
        """The status of a request of the kind that the model is priced for, and what it cost."""
        path, options = request_of(provider, model, card)
        answer = self.http.post(f"/{_SPOKEN.get(provider, provider)}{path}", **options)
        if answer.status_code != 200:
            return answer.status_code, {"text": answer.text}
        record = self.http.get(f"/api/requests/{answer.headers['farebox-request-id']}")
        return 200, record.json()


@contextmanager
def agent_of(directory: Path) -> Iterator[Agent]:
    with running_demo(directory, 0) as demo, httpx.Client(base_url=demo["base_url"], timeout=30) as http:
        offer = http.get("/v1/models", headers={"farebox-deposit": str(CREDIT_SATS)}).json()
        paid = httpx.post(f"{demo['wallet_url']}/pay", json={"invoice": offer["invoice"]}, timeout=30).json()
        http.headers["authorization"] = f"L402 {offer['macaroon']}:{paid['preimage']}"
        yield Agent(http)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent_of(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook(default_book())


def request_of(provider: str, model: str, card: PriceCard) -> tuple[str, dict[str, Any]]:
    """Path and body for what the model is priced by, in the dialect of its provider."""
    text = "What is a toll booth for?"
    embeds = "embed" in model
    match provider:
        case "anthropic":
            return "/v1/messages", {"json": {"model": model, "messages": _ASKED, "max_tokens": 50}}
        case "google":
            content = {"parts": [{"text": text}]}
            verb, body = (
                ("embedContent", {"content": content}) if embeds else ("generateContent", {"contents": [content]})
            )
            return f"/v1beta/models/{quote(model, safe='')}:{verb}", {"json": body}
    if card.second is not None:
        upload = {"data": {"model": model}, "files": {"file": ("a.wav", WAV, "audio/wav")}}
        return "/v1/audio/transcriptions", upload
    if card.character is not None:
        return "/v1/audio/speech", {"json": {"model": model, "input": text, "voice": "alloy"}}
    if card.image is not None and not card.has_tokens:
        return "/v1/images/generations", {"json": {"model": model, "prompt": text}}
    if embeds:
        return "/v1/embeddings", {"json": {"model": model, "input": text}}
    return "/v1/chat/completions", {"json": {"model": model, "messages": _ASKED, "max_tokens": 50}}


def priced(book: PriceBook, provider: str) -> list[tuple[str, PriceCard]]:
    """The models of a provider that have a price now."""
    cards = ((model, book.card(provider, model, time.time())) for model in book.models(provider))
    return [(model, card) for model, card in cards if card is not None]


def unserved(agent: Agent, book: PriceBook, provider: str, models: list[tuple[str, PriceCard]]) -> list[str]:
    """The models that are not served at a price, and how not."""
    found = []
    for model, card in models:
        status, record = agent.ask(provider, model, card)
        if status != 200 or record["cost"]["amount_msat"] <= 0:
            found.append(f"{provider} {model}: {status} {record}")
    return found


@pytest.mark.parametrize("provider", [each.provider for each in default_book()])
def test_models_of_every_provider_are_served_at_a_price(agent: Agent, book: PriceBook, provider: str) -> None:
    models = priced(book, provider)
    chosen = random.Random(provider).sample(models, min(SAMPLED_EACH, len(models)))
    assert chosen
    assert unserved(agent, book, provider, chosen) == []


@pytest.mark.parametrize("model", ["gpt-4o-mini", "deepseek-chat", "mistral-large-latest", "grok-4", "command-r-plus"])
def test_a_model_that_stands_under_one_provider_needs_no_upstream_in_the_path(agent: Agent, model: str) -> None:
    answer = agent.http.post("/v1/chat/completions", json={"model": model, "messages": _ASKED, "max_tokens": 20})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model


@pytest.mark.parametrize("model", ["llama3.2", "qwen3:8b"])
def test_ollamas_models_have_the_prices_of_the_example(agent: Agent, model: str) -> None:
    body = {"model": model, "messages": _ASKED, "stream": False}
    answer = agent.http.post("/api/chat", json=body, headers={"x-sim-output-tokens": "100"})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["farebox-cost"].removeprefix("amount_msat=")) > 0


@pytest.mark.parametrize(("provider", "model"), [("mistral", "voxtral-mini-2602"), ("openai", "gpt-transcribe")])
def test_a_model_that_is_billed_by_time_is_not_free_where_only_tokens_are_reported(
    agent: Agent, book: PriceBook, provider: str, model: str
) -> None:
    card = book.card(provider, model, time.time())
    assert card is not None
    assert card.second is not None
    status, record = agent.ask(provider, model, card)
    assert (status, record["basis"]) == (200, "estimated")
    assert record["cost"]["amount_msat"] > 0


def test_a_model_without_a_price_is_refused_and_never_free(agent: Agent, book: PriceBook) -> None:
    without = [
        (provider, model)
        for provider in book.providers
        for model in book.models(provider)
        if book.card(provider, model, time.time()) is None and provider not in _SPOKEN and provider != "anthropic"
    ]
    for provider, model in random.Random(5).sample(without, min(SAMPLED_EACH, len(without))):
        answer = agent.http.post(f"/{provider}/v1/chat/completions", json={"model": model, "messages": _ASKED})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model"), model
