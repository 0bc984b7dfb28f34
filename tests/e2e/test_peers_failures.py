"""What was seen to go wrong in other gateways, each by name, on the running one. (Hang-ups, kills, crowds and tiny credits have
files of their own.)
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import httpx
import pytest
from e2e.dialects import SPEECHES, Speech
from e2e.stack import CHAT, Stack, body, proof

BY_NAME = {speech.name: speech for speech in SPEECHES}
# The keys that the gateway itself shows to its upstreams.
OWN_KEYS = {
    "openai": b"Bearer sk-upstream-key",
    "responses": b"Bearer sk-upstream-key",
    "anthropic": b"sk-ant-upstream",
    "gemini": b"gemini-upstream",
}
LONG = "one two three four five " * 400  # 2,000 words, as many tokens for the simulated upstream


@pytest.fixture(scope="module")
def credential(stack: Stack) -> str:
    return stack.buy(20_000)


def priced(stack: Stack, answer: httpx.Response, credential: str) -> tuple[dict[str, Any], int]:
    """Usage as recorded, and the cost in msat."""
    record = stack.record(answer.headers["farebox-request-id"], credential)
    assert record["state"] == "posted" and record["basis"] == "reported"
    return record["usage"], record["cost"]["amount_msat"]


def test_a_stream_without_include_usage_is_charged_and_its_usage_chunk_is_taken_out(
    stack: Stack, credential: str
) -> None:
    said = json.dumps(body(model="gpt-4o", stream=True)).encode()
    answer = stack.http.post(CHAT, content=said, headers=proof(credential) | {"x-sim-output-tokens": "100"})
    usage, cost = priced(stack, answer, credential)
    assert usage["output_tokens"] == 100
    assert cost == -(-(usage["input_tokens"] * 25 + 100 * 100) // 10)
    assert b'"usage":{' not in answer.content.replace(answer.content[answer.content.index(b": farebox") :], b"")
    # The bytes that came are the upstream's, but for our comment and the chunk that nobody but us had asked for.
    went_up = b'{"stream_options":{"include_usage":true},' + said[1:]
    sent = stack.sent(answer.headers["farebox-request-id"])
    assert sent["body_sha256"] == sha256(went_up).hexdigest()
    upstream = httpx.post(
        f"{stack.parts.upstream_url}/openai{CHAT}", content=went_up, headers={"x-sim-output-tokens": "100"}
    ).content
    assert sent["sha256"] == sha256(upstream).hexdigest()
    events = upstream.split(b"\n\n")
    (usage_chunk,) = [event for event in events if b'"choices":[]' in event]
    lines = answer.content.splitlines(keepends=True)
    without_comment = b"".join(line for line in lines if not line.startswith(b": farebox "))
    assert without_comment == upstream.replace(usage_chunk + b"\n\n", b"")


@pytest.mark.parametrize("name", OWN_KEYS)
@pytest.mark.parametrize(
    "carrier",
    [
        lambda key: {"authorization": f"L402 {key}"},
        lambda key: {"authorization": f"Bearer {key}"},
        lambda key: {"x-api-key": key},
        lambda key: {"x-goog-api-key": key},
        lambda key: {
            "authorization": f"L402 {key}",
            "x-api-key": "sk-dummy",
            "cookie": f"key={key}",
            "api-key": "dummy",
        },
        lambda key: {
            "authorization": f"L402 {key}",
            "proxy-authorization": f"L402 {key}",
            "forwarded": "for=192.0.2.1",
        },
    ],
    ids=["l402", "bearer", "x-api-key", "x-goog-api-key", "with_cookie_and_dummy", "with_proxy_authorization"],
)
def test_the_payers_credential_never_reaches_an_upstream_and_ours_does_once(
    stack: Stack, credential: str, name: str, carrier: Any
) -> None:
    speech: Speech = BY_NAME[name]
    headers = {**speech.headers, **carrier(credential), "farebox-deposit": "5", "x-bolthub-credit": "5"}
    answer = stack.http.post(speech.path, content=speech.body(limit=20), headers=headers)
    assert answer.status_code == 200, answer.text
    sent = stack.sent(answer.headers["farebox-request-id"])
    assert not sent["payer_credential_seen"]
    assert sent["authorization_sha256"] == [sha256(OWN_KEYS[name]).hexdigest()], "one credential, and it is ours"
    assert not {"cookie", "forwarded", "farebox-deposit", "x-bolthub-credit", "macaroon"} & set(sent["headers_seen"])
    assert b"sk-upstream" not in answer.content and "sk-upstream" not in str(answer.headers)


def test_a_key_in_the_query_is_not_passed_on_and_the_rest_of_the_query_is(stack: Stack, credential: str) -> None:
    answer = stack.http.get(f"/raw/x?q=1&key={credential.replace('+', '%2B')}&r=2")
    assert answer.status_code == 200
    sent = stack.sent(answer.headers["farebox-request-id"])
    assert sent["path"].startswith("/raw") and not sent["payer_credential_seen"] and sent["authorization_sha256"] == []


@pytest.mark.parametrize(
    "path",
    ["/v1/files", "/v1/fine_tuning/jobs", "/v1/threads", "/openai/v1/files", "/openai/v1/batches", "/tools/search",
     "/v1/assistants", "/anything", "/v1/messages/batches", "/v1/chat/completions/extra", "/raw", "//raw/x", "/raw/../v1/files"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_pass_through_path_outside_every_route_is_404(stack: Stack, credential: str, path: str, method: str) -> None:
    seen = len(stack.sim_log())
    answer = stack.http.request(method, path, headers=proof(credential), json={} if method == "POST" else None)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_route")
    assert len(stack.sim_log()) == seen


def test_a_model_without_a_price_is_refused_before_the_call(stack: Stack, credential: str) -> None:
    seen = len(stack.sim_log())
    answer = stack.http.post(CHAT, json=body(model="gpt-99-experimental"), headers=proof(credential))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
    assert len(stack.sim_log()) == seen


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("name", "fresh", "cached", "output"),
    # Tenths of a msat a token: gpt-4o 2.5, 1.25 and 10 USD a million; claude-haiku-4-5 1, 0.1 and 5.
    [("openai", 25, 12.5, 100), ("responses", 25, 12.5, 100), ("anthropic", 10, 1, 50)],
)
def test_cached_tokens_are_priced_as_cached(
    stack: Stack, credential: str, name: str, fresh: float, cached: float, output: float, stream: bool
) -> None:
    speech = BY_NAME[name]
    said = json.loads(speech.body(limit=50, stream=stream))
    said["input" if name == "responses" else "messages"] = (
        LONG if name == "responses" else [{"role": "user", "content": LONG}]
    )
    headers = {**proof(credential), **speech.headers, "x-sim-cached-tokens": "1500"}
    answer = stack.http.post(speech.stream_path, json=said, headers=headers)
    usage, cost = priced(stack, answer, credential)
    assert usage["cached_input_tokens"] == 1_500 and usage["input_tokens"] == 2_000
    due = 500 * fresh + 1_500 * cached + usage["output_tokens"] * output
    assert cost == -(-int(due * 10) // 100)


def test_a_cost_that_the_upstream_reports_of_itself_is_not_what_is_charged(stack: Stack, credential: str) -> None:
    answer = stack.http.post(CHAT, json=body(model="gpt-4o", max_tokens=40), headers=proof(credential))
    usage, cost = priced(stack, answer, credential)
    assert cost == -(-(usage["input_tokens"] * 25 + 40 * 100) // 10)
    assert answer.headers["farebox-cost"] == f"amount_msat={cost}"


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": -1}, {"max_tokens": True}, {"max_tokens": 1.5}, {"max_tokens": 10**8}, {"max_tokens": "20"},
     {"n": 0}, {"n": -3}, {"n": 10**9}, {"background": True}, {"model": 5}],
    ids=str,
)  # fmt: skip
def test_limits_that_are_none_are_422_and_never_reach_the_upstream(
    stack: Stack, credential: str, wrong: dict[str, Any]
) -> None:
    seen, before = len(stack.sim_log()), stack.balance(credential)
    answer = stack.http.post(CHAT, json=body() | wrong, headers=proof(credential))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert len(stack.sim_log()) == seen and stack.balance(credential) == before


def test_a_model_named_twice_is_refused(stack: Stack, credential: str) -> None:
    content = b'{"model": "gpt-4o-mini", "messages": [], "model": "gpt-4o"}'
    answer = stack.http.post(CHAT, content=content, headers=proof(credential))
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "model")


def test_every_relayed_answer_is_kept_from_the_dashboards_origin(stack: Stack, credential: str) -> None:
    answer = stack.http.get("/raw/x", headers=proof(credential))
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


def test_an_idle_refund_takes_back_what_is_left_and_no_more(stack: Stack) -> None:
    own = stack.buy(200)
    assert stack.http.get("/raw/x", headers=proof(own)).status_code == 200
    left = stack.balance(own)["available"]
    too_much = stack.http.post("/l402/refund", json={"payment_request": stack.invoice(left + 1)}, headers=proof(own))
    assert too_much.status_code in {409, 422}, too_much.text
    invoice = stack.invoice(left - 20_000)
    refund = stack.http.post("/l402/refund", json={"payment_request": invoice}, headers=proof(own))
    assert refund.status_code == 200 and refund.json()["state"] == "paid", refund.text
    again = stack.http.post("/l402/refund", json={"payment_request": invoice}, headers=proof(own))
    assert again.json()["payment_hash"] == refund.json()["payment_hash"]
    balance = stack.settled(own)
    assert balance["available"] == left - refund.json()["refunded_msat"] - refund.json()["fee_msat"]


def test_another_payers_request_is_not_told(stack: Stack, credential: str) -> None:
    answer = stack.http.get("/raw/x", headers=proof(credential))
    path = f"/api/requests/{answer.headers['farebox-request-id']}"
    assert stack.http.get(path, headers=proof(credential)).status_code == 200
    assert stack.http.get(path, headers=proof(stack.buy(1))).status_code == 404
    assert stack.http.get(path).status_code == 402
