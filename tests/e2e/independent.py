"""Usage and price of a recorded answer as somebody else reads them: genai-prices for both, streams by their last usage.

Nothing of the gateway is imported here. A stream is turned into the unstreamed answer that carries the same usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from genai_prices import Usage, calc_price, extract_usage

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
    flavor = next((flavor for ending, flavor in _FLAVORS.items() if path.endswith(ending)), "chat")
    found = None
    for name in (flavor, "default"):
        for source in dict.fromkeys([provider, "openai" if "usage" in answer else "google"]):
            try:
                found = extract_usage(answer, provider_id=source, api_flavor=name).usage
                break
            except (ValueError, LookupError):
                continue
        if found is not None:
            break
    served = answer.get("model") or answer.get("modelVersion")
    price = None
    if found is not None:
        price = next((usd for model in (served, asked) if (usd := price_of(found, model, provider)) is not None), None)
    return Reading(answer, reported, found, price)


def price_of(usage: Usage, model: str | None, provider: str | None) -> Decimal | None:
    """genai-prices' price of a usage now; None where it knows no model of that name there."""
    if model is None or provider is None:
        return None
    try:
        return calc_price(usage, model, provider_id=provider).total_price
    except (LookupError, ValueError):
        return None


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
            for name in ("model", "modelVersion", "output", "service_tier"):
                if owner.get(name):
                    whole[name] = owner[name]
            for name in ("usage", "usageMetadata"):
                if owner.get(name):
                    merged = event.get("type") == "message_delta"
                    whole[name] = {**whole.get(name, {}), **owner[name]} if merged else owner[name]
    return whole
