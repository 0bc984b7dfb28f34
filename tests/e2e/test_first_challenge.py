"""Whoever pays the first challenge is served; and more credit never buys less."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.stack import CHAT, Stack, body, proof

IMAGES = {"model": "gpt-image-1", "n": 10, "size": "1536x1024", "quality": "high", "prompt": "a toll booth"}
LONG = {"model": "gpt-4", "max_tokens": 100, "messages": [{"role": "user", "content": "word " * 60_000}]}
DEAR: list[tuple[str, dict[str, Any]]] = [("/v1/images/generations", IMAGES), (CHAT, LONG)]


@pytest.mark.parametrize(("path", "asked"), DEAR, ids=["images", "a long prompt"])
def test_the_first_challenge_asks_for_what_the_request_needs(stack: Stack, path: str, asked: dict[str, Any]) -> None:
    offer = stack.http.post(path, json=asked)
    assert offer.status_code == 402, offer.text
    told = offer.json()
    assert told["creditSats"] > 1_000
    paid = stack.http.post(path, json=asked, headers=proof(f"{told['macaroon']}:{stack.pay(told['invoice'])}"))
    assert paid.status_code == 200, paid.text


def test_a_delegates_top_up_asks_for_all_that_is_needed(stack: Stack) -> None:
    """What is left on the credit that was shared is not on the one that the delegate buys."""
    from pymacaroons import Macaroon
    from pymacaroons.serializers import BinarySerializer

    shared = stack.buy(1_500)
    text, preimage = shared.split(":")
    macaroon = Macaroon.deserialize(text.rstrip("="))
    macaroon.add_first_party_caveat("method=POST")
    shared = f"{macaroon.serialize(BinarySerializer())}:{preimage}"
    told = stack.http.post(CHAT, json=LONG, headers=proof(shared))
    assert told.status_code == 402, told.text
    offer = told.json()
    paid = stack.http.post(CHAT, json=LONG, headers=proof(f"{offer['macaroon']}:{stack.pay(offer['invoice'])}"))
    assert paid.status_code == 200, paid.text


def test_a_small_request_is_asked_for_the_usual_deposit_and_told_what_it_costs(stack: Stack) -> None:
    told = stack.http.post(CHAT, json=body(max_tokens=10)).json()
    assert told["creditSats"] == 1_000
    assert float(told["cost"]["amount"]) <= float(told["quote"]["max"]["amount"]) + 1e-6 < 0.001  # a msat
    assert float(told["quote"]["min"]["amount"]) <= float(told["quote"]["expected"]["amount"])


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4-turbo"])
def test_more_credit_never_buys_less(stack: Stack, model: str) -> None:
    got: list[int] = []
    for sats in (2, 3, 4, 6, 9, 14):
        headers = proof(stack.buy(sats)) | {"x-sim-output-tokens": "5000"}
        asked = {"model": model, "max_tokens": 100_000, "messages": [{"role": "user", "content": "Tell me all."}]}
        answer = stack.http.post(CHAT, json=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        got.append(answer.json()["usage"]["completion_tokens"])
    assert got == sorted(got) and got[0] < got[-1], got
