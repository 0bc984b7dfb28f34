"""What is around the gateway goes away and comes back: nobody is asked to pay for our own fault, and no money is
lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2e.outside import Feed, Store, Wire, running_store
from e2e.stack import CHAT, Parts, Stack, body, proof, start_stack, until

MODEL = "gpt-4o"
OUTPUT_MSAT = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def wire(parts: Parts) -> Iterator[Wire]:
    wire = Wire(parts.lnd["address"])
    yield wire
    wire.cut()


@pytest.fixture(scope="module")
def gateway(parts: Parts, store: Store, wire: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    lightning = {"lnd": parts.lnd | {"address": wire.address}}
    directory = tmp_path_factory.mktemp("outages")
    with start_stack(directory, parts, lightning=lightning, redis={"url": store.url}) as running:
        yield running


class Streaming(threading.Thread):
    """A stream that is read while the world breaks. `text`: what came; `note`: what it cost."""

    def __init__(self, stack: Stack, credential: str, *, tokens: int, interval_ms: int) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._headers = proof(credential) | {"x-sim-output-tokens": str(tokens), "x-sim-interval-ms": str(interval_ms)}
        self.text = ""
        self.note: dict[str, Any] = {}
        self.request_id = ""
        self.start()

    def run(self) -> None:
        said = body("Hello there", model=MODEL, stream=True)
        try:
            with self._stack.http.stream("POST", CHAT, json=said, headers=self._headers, timeout=60) as answer:
                self.request_id = answer.headers["farebox-request-id"]
                for line in answer.iter_lines():
                    self._read(line)
        except httpx.TransportError:
            return  # it was broken off; what came, came

    def _read(self, line: str) -> None:
        if line.startswith(": farebox "):
            self.note = json.loads(line.removeprefix(": farebox "))
        elif line.startswith("data: {") and (choices := json.loads(line.removeprefix("data: "))["choices"]):
            self.text += choices[0]["delta"].get("content") or ""

    @property
    def words(self) -> int:
        """How many tokens came."""
        return len(self.text.split())


def retried(stack: Stack, path: str, credential: str) -> httpx.Response:
    """Ask until it is served again."""
    answers: list[httpx.Response] = []

    def served() -> bool:
        answers.append(stack.http.get(path, headers=proof(credential)))
        assert answers[-1].status_code in {200, 503}, answers[-1].text
        return answers[-1].status_code == 200

    until(served, what="service")
    return answers[-1]


def test_a_store_that_is_killed_and_comes_back_in_mid_stream_loses_nothing(gateway: Stack, store: Store) -> None:
    credential = gateway.buy(200)
    streaming = Streaming(gateway, credential, tokens=300, interval_ms=10)
    until(lambda: streaming.words > 60, what="the stream")
    store.kill()
    refused = gateway.http.get("/raw/x", headers=proof(credential))
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert "retry-after" in refused.headers and "www-authenticate" not in refused.headers
    assert gateway.http.get("/health/live").status_code == 200
    assert gateway.http.get("/health/ready").status_code == 503
    store.start()
    streaming.join(30)
    assert streaming.words == 300 and streaming.note["cut"] is None
    assert streaming.note["usage"]["output_tokens"] == 300
    retried(gateway, "/raw/x", credential)
    balance = gateway.settled(credential)
    assert balance["posted"] == streaming.note["cost"]["amount_msat"] + 1_000
    assert gateway.record(streaming.request_id, credential)["shortfall"] == {"amount_msat": 0}


def test_a_stream_that_ends_while_the_store_is_away_is_charged_when_it_is_back(gateway: Stack, store: Store) -> None:
    credential = gateway.buy(200)
    streaming = Streaming(gateway, credential, tokens=120, interval_ms=10)
    until(lambda: streaming.words > 60, what="the stream")
    store.kill()
    streaming.join(30)
    assert streaming.words == 120
    assert streaming.note["final"] is False, "it was not acknowledged yet"
    store.start()
    until(lambda: gateway.http.get("/health/ready").status_code == 200, what="readiness")
    assert gateway.settled(credential)["posted"] == streaming.note["cost"]["amount_msat"] > 120 * OUTPUT_MSAT


def test_with_the_node_away_paid_credit_is_served_and_challenges_are_503(gateway: Stack, wire: Wire) -> None:
    known, fresh = gateway.buy(10), gateway.buy(10)
    assert gateway.http.get("/raw/x", headers=proof(known)).status_code == 200
    wire.cut()
    try:
        for _ in range(3):
            assert gateway.http.get("/raw/x", headers=proof(known)).status_code == 200
        stream = gateway.http.post(CHAT, json=body(stream=True, max_tokens=20), headers=proof(known))
        assert b"[DONE]" in stream.content
        asked = gateway.http.get("/raw/x")
        assert (asked.status_code, asked.json()["code"]) == (503, "lightning_unavailable")
        assert "retry-after" in asked.headers and "www-authenticate" not in asked.headers
        paid = gateway.http.get("/raw/x", headers=proof(fresh))
        assert paid.status_code in {200, 503}, "a valid proof is never answered with another invoice"
    finally:
        wire.mend()
    until(lambda: gateway.http.get("/raw/x").status_code == 402, what="challenges")
    retried(gateway, "/raw/x", fresh)


def test_without_a_fresh_rate_paid_credit_is_served_and_challenges_are_503(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    feed = Feed()
    rates = {"feeds": [{"url": feed.url, "path": "price"}], "stale_s": 2, "refresh_s": 1, "timeout_s": 1, "spread": "0"}
    try:
        with start_stack(tmp_path_factory.mktemp("rates"), parts, rates=rates) as gateway:
            credential = gateway.buy(10)
            assert gateway.http.get("/raw/x", headers=proof(credential)).headers["farebox-cost"] == "amount_msat=1000"
            feed.usd_per_btc = None
            until(lambda: gateway.http.get("/raw/x").status_code == 503, what="a stale rate")
            asked = gateway.http.get("/raw/x")
            assert (asked.json()["code"], asked.headers["retry-after"] != "") == ("rate_unavailable", True)
            served = gateway.http.get("/raw/x", headers=proof(credential))
            assert (served.status_code, served.headers["farebox-cost"]) == (200, "amount_msat=1000")
            feed.usd_per_btc = "50000"
            until(lambda: gateway.http.get("/raw/x").status_code == 402, what="a fresh rate")
            again = gateway.http.get("/raw/x", headers=proof(credential))
            assert again.headers["farebox-cost"] == "amount_msat=1000", "paid credit keeps the rate it was bought at"
            dearer = gateway.buy(10)
            halved = gateway.http.get("/raw/x", headers=proof(dearer))
            assert halved.headers["farebox-cost"] == "amount_msat=2000"
    finally:
        feed.close()
