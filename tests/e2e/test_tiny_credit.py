"""A huge answer on a tiny credit, in every dialect: delivered tokens are worth at most the charge, the charge is at
most the credit, and the upstream is stopped, not read to its end.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import httpx
import pytest
from e2e.dialects import SPEECHES, STREAM, Speech
from e2e.stack import Stack, proof, until

from gateway.__main__ import main

HUGE = 1_000_000
WISH = {"x-sim-output-tokens": "200000"}
BY_NAME = {speech.name: speech for speech in SPEECHES}


def sats_for(speech: Speech, tokens: int) -> int:
    """Whole sats that buy about so many tokens of output, and the input."""
    return max(int(speech.output_msat * tokens) // 1_000 + 1, 1)


def ask(stack: Stack, speech: Speech, credential: str, *, stream: bool, limit: int | None = HUGE) -> httpx.Response:
    path = speech.stream_path if stream else speech.path
    headers = {**proof(credential), **speech.headers, **WISH, "content-type": "application/json"}
    content = speech.body(limit=limit if speech.name != "ollama" or limit != HUGE else 999_999, stream=stream)
    return stack.http.post(path, content=content, headers=headers)


@pytest.mark.parametrize("limit", [HUGE, None], ids=["huge_limit", "no_limit"])
@pytest.mark.parametrize("name", [speech.name for speech in SPEECHES])
def test_a_stream_is_cut_where_the_money_ends(stack: Stack, name: str, limit: int | None) -> None:
    speech = BY_NAME[name]
    if name == "anthropic" and limit is None:
        limit = 64_000  # the dialect wants a limit
    sats = sats_for(speech, 100)
    credential = stack.buy(sats)
    answer = ask(stack, speech, credential, stream=True, limit=limit)
    assert answer.status_code == 200, answer.text
    words, reason = speech.words(answer.content, stream=True)
    assert reason == speech.cut_reason
    assert answer.content.endswith(speech.end)
    balance = stack.settled(credential)
    assert 0 < words * speech.output_msat <= balance["posted"] <= sats * 1_000
    request_id = answer.headers["farebox-request-id"]
    record = stack.record(request_id, credential)
    assert record["cut"] == "credit" and record["cost"] == {"amount_msat": balance["posted"]}
    until(lambda: stack.sent(request_id)["cut_off"], what="the end of the upstream's answer")
    assert stack.sent(request_id)["tokens_sent"] < 200_000


@pytest.mark.parametrize("name", [speech.name for speech in SPEECHES])
def test_an_unstreamed_answer_has_its_limit_lowered_in_the_bytes_that_go_up(stack: Stack, name: str) -> None:
    speech = BY_NAME[name]
    sats = sats_for(speech, 200)
    credential = stack.buy(sats)
    answer = ask(stack, speech, credential, stream=False)
    assert answer.status_code == 200, answer.text
    words, reason = speech.words(answer.content, stream=False)
    assert reason == speech.cut_reason
    balance = stack.settled(credential)
    assert 0 < words * speech.output_msat <= balance["posted"] <= sats * 1_000
    sent = stack.sent(answer.headers["farebox-request-id"])
    huge = b"999999" if name == "ollama" else b"1000000"
    lowered = speech.body(limit=int(huge)).replace(huge, b"%d" % words)
    assert sent["output_tokens"] == words and not sent["cut_off"]
    assert sent["body_sha256"] == sha256(lowered).hexdigest(), "only the limit's digits differ"


@pytest.mark.parametrize("name", [speech.name for speech in SPEECHES])
def test_a_stream_within_the_credit_is_the_upstreams_bytes_and_its_price(stack: Stack, name: str) -> None:
    speech = BY_NAME[name]
    sats = sats_for(speech, 200)
    credential = stack.buy(sats)
    answer = ask(stack, speech, credential, stream=True, limit=40)
    words, _ = speech.words(answer.content, stream=True)
    assert words == 40
    posted = stack.settled(credential)["posted"]
    record = stack.record(answer.headers["farebox-request-id"], credential)
    assert record["usage"]["output_tokens"] == 40 and record["basis"] == "reported" and record["cut"] is None
    assert record["cost"] == {"amount_msat": posted}
    assert 40 * speech.output_msat < posted < 40 * speech.output_msat * 1.5 + 5
    if name != "openai":  # there a chunk with the usage is taken out again
        lines = answer.content.splitlines(keepends=True)
        upstream = b"".join(line for line in lines if not line.startswith(b": farebox "))
        assert sha256(upstream).hexdigest() == stack.sent(answer.headers["farebox-request-id"])["sha256"]


def test_a_credit_of_100_tokens_never_serves_an_answer_of_3000(stack: Stack) -> None:
    credential = stack.buy(1)
    speech = BY_NAME["openai"]
    headers = {**proof(credential), "x-sim-output-tokens": "3000"}
    answer = stack.http.post(speech.path, content=speech.body(stream=True), headers=headers)
    words, reason = speech.words(answer.content, stream=True)
    assert 0 < words <= 100 and reason == "length"


def test_gemini_streams_as_one_json_array_and_is_cut_as_one(stack: Stack) -> None:
    credential = stack.buy(1)
    speech = BY_NAME["gemini"]
    path = speech.stream_path.partition("?")[0]
    headers = {**proof(credential), **speech.headers, **WISH}
    answer = stack.http.post(path, content=speech.body(), headers=headers)
    found: Any = json.loads(answer.content)
    text = "".join(part["text"] for one in found for part in one["candidates"][0]["content"].get("parts", ()))
    assert found[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    balance = stack.settled(credential)
    assert 0 < len(text.split()) * speech.output_msat <= balance["posted"] <= 1_000


def test_a_stream_longer_than_its_first_step_is_extended(stack: Stack) -> None:
    credential = stack.buy(200)
    speech = BY_NAME["openai"]
    headers = {**proof(credential), "x-sim-output-tokens": "9000"}
    answer = stack.http.post(speech.path, content=speech.body(stream=True), headers=headers)
    assert speech.words(answer.content, stream=True) == (9_000, "stop")
    assert 90_000 < stack.settled(credential)["posted"] < 90_100


def test_a_hidden_reasoner_has_its_limit_lowered_also_in_a_stream(stack: Stack) -> None:
    credential = stack.buy(5)
    content = json.dumps({**BY_NAME["openai"].members, "model": "o3", **STREAM, "max_completion_tokens": HUGE}).encode()
    headers = {**proof(credential), **WISH, "x-sim-reasoning-tokens": "100"}
    answer = stack.http.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    sent = stack.sent(answer.headers["farebox-request-id"])
    assert not sent["cut_off"] and 0 < sent["output_tokens"] < 1_000
    assert 0 < stack.settled(credential)["posted"] <= 5_000


def test_farebox_pay_buys_no_more_than_it_may(stack: Stack, capfdbinary: Any) -> None:
    content = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]})
    arguments = ["--wallet", stack.parts.wallet_url, "--max-sats", "10", "--yes", "-d", content]
    assert main(["pay", f"{stack.base_url}/v1/chat/completions", *arguments]) == 0
    out, err = capfdbinary.readouterr()
    assert json.loads(out)["usage"]["completion_tokens"] > 0 and b"price: 10 sats" in err
