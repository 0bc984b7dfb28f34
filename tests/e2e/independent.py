"""Usage and price of a recorded answer as somebody else reads them: genai-prices for both, streams by their last usage.

Nothing of the gateway is imported here. A stream is turned into the unstreamed answer that carries the same usage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from genai_prices import Usage, calc_price, extract_usage
from recordings import by_hand

_PRICES = Path(__file__).parents[2] / "policies" / "prices"
_MILLION = 1_000_000
# Server tools that OpenAI's answers list in their output, and what genai-prices calls their fee.
_OUTPUT_TOOLS = {"web_search_call": "web_search", "file_search_call": "file_search", "mcp_call": "mcp",
                 "code_interpreter_call": "code_interpreter", "image_generation_call": "image_generation",
                 "shell_call": "shell"}  # fmt: skip
_FEES_OF_MODELS = {"web_search": "web_searches", "google_search": "web_searches", "file_search": "storage_searches"}
_FLAVORS = {"/responses": "responses", "/responses/compact": "responses", "/embeddings": "embeddings"}


@dataclass(frozen=True)
class Reading:
    """What an independent reader finds. `usd` None: the reader has no price for the model."""

    answer: dict[str, Any]
    reported: dict[str, Any]
    usage: Usage | None
    usd: Decimal | None

    @property
    def model(self) -> str | None:
        """The model that the answer names."""
        return self.answer.get("model") or self.answer.get("modelVersion")


def reading_of(response: str, *, path: str, provider: str | None, asked: str, streams: bool) -> Reading:
    """Read an answer or a stream."""
    answer = _of_stream(response) if streams else json.loads(response)
    reported = answer.get("usage") or answer.get("usageMetadata") or {}
    if not reported:
        return Reading(answer, reported, None, None)
    found = _extracted(answer, path, provider) or _read_by_hand(reported)
    for model in (answer.get("model") or answer.get("modelVersion"), asked):
        usd = price_of(found, model, provider)
        if usd is not None and model is not None:
            return Reading(answer, reported, found, usd + _fees(answer, model, provider))
    return Reading(answer, reported, found, None)


def _extracted(answer: dict[str, Any], path: str, provider: str | None) -> Usage | None:
    """genai-prices' own reading; None where it does not know the provider's API."""
    if provider is None:
        return None
    flavor = next((flavor for ending, flavor in _FLAVORS.items() if path.endswith(ending)), "chat")
    for name in (flavor, "default"):
        try:
            return extract_usage(answer, provider_id=provider, api_flavor=name).usage
        except (ValueError, LookupError):
            continue
    return None


def _read_by_hand(reported: dict[str, Any]) -> Usage:
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "input_audio_tokens",
             "cache_audio_read_tokens", "output_audio_tokens")  # fmt: skip
    return Usage(**dict(zip(names, by_hand(reported), strict=True)))


def price_of(usage: Usage, model: str | None, provider: str | None) -> Decimal | None:
    """The price of a usage now: the shipped example's for open models, else genai-prices'. None where neither knows the
    model, or it has no price."""
    if model is None or provider is None:
        return None
    if provider == "ollama":
        return _price_of_example(usage, model)
    try:
        one = calc_price(Usage(input_tokens=_MILLION, output_tokens=_MILLION), model, provider_id=provider)
        return calc_price(usage, model, provider_id=provider).total_price if one.total_price else None
    except (LookupError, ValueError):
        return None


def _price_of_example(usage: Usage, model: str) -> Decimal | None:
    for entry in yaml.safe_load((_PRICES / "ollama.yaml").read_text())["models"]:
        if entry["model"] == model.partition(":")[0]:
            price = entry["prices"][-1]
            cost = Decimal(usage.input_tokens or 0) * Decimal(price["input_usd_per_mtok"])
            return (cost + Decimal(usage.output_tokens or 0) * Decimal(price["output_usd_per_mtok"])) / _MILLION
    return None


def _fees(answer: dict[str, Any], model: str, provider: str | None) -> Decimal:
    """The fees of the server tools that ran, where genai-prices does not read them out of the answer."""
    ran: Counter[str] = Counter()
    for item in answer.get("output") or ():
        if item.get("type") in _OUTPUT_TOOLS and (item.get("action") or {}).get("type", "search") == "search":
            ran[_OUTPUT_TOOLS[item["type"]]] += 1
    for name, count in ((answer.get("usage") or {}).get("server_tool_use_details") or {}).items():
        if name.endswith("_requests"):
            ran[name.removesuffix("_requests")] += count or 0
    for candidate in answer.get("candidates") or ():
        queries = len((candidate.get("groundingMetadata") or {}).get("webSearchQueries") or ())
        ran["google_search"] += min(queries, 1) if model.startswith("gemini-2") else queries
    return sum((count * _fee(tool, model, provider or "") for tool, count in ran.items() if count), Decimal())


def _fee(tool: str, model: str, provider: str) -> Decimal:
    """The model's own fee, else the provider's, else the general one."""
    named = _FEES_OF_MODELS.get(tool)
    if named is not None:
        own = calc_price(Usage(**{named: 1000}), model, provider_id=provider).total_price
        if own:
            return own / 1000
    fees: dict[str, str] = {}
    for file in ("tools.yaml", f"tools-{provider}.yaml"):
        if (_PRICES / file).exists():
            listed = yaml.safe_load((_PRICES / file).read_text())["tools"]
            fees |= {name: fee["usd_per_call"] for name, fee in listed.items()}
    return Decimal(fees[tool])


def knows(model: str, provider: str | None) -> bool:
    """Whether genai-prices has a model of that name at a provider."""
    return price_of(Usage(input_tokens=1, output_tokens=1), model, provider) is not None


def _events(stream: str) -> Iterator[dict[str, Any]]:
    for line in stream.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _of_stream(stream: str) -> dict[str, Any]:
    """The unstreamed answer with the stream's last usage; Anthropic's later figures replace members of the first."""
    whole: dict[str, Any] = {}
    for event in _events(stream):
        for owner in (event, event.get("message") or {}, event.get("response") or {}):
            for name in ("model", "modelVersion", "output", "candidates"):
                if owner.get(name):
                    whole[name] = owner[name]
            for name in ("usage", "usageMetadata"):
                if owner.get(name):
                    merged = event.get("type") == "message_delta"
                    whole[name] = {**whole.get(name, {}), **owner[name]} if merged else owner[name]
    return whole
