"""Gateway processes are killed, told to end and told to read their policies again while streams run: what was delivered
is paid within one checkpoint, in the payer's favour, and no process stays behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from chaos.running import INPUT_MOST_MSAT, OUTPUT_MSAT, Streaming, books_are_in_order, connections_of, is_gone, marked
from e2e.stack import CALL_MSAT, OLLAMA_PRICES, Parts, Stack, kill_process, proof, start_stack, until, workers_of

INTERVAL_MS = 10
# A checkpoint is written at most this long after the one before: half a second of policy, one of the clock that ticks,
# and what a busy machine adds.
CHECKPOINT_S = 2.0
CHECKPOINT_TOKENS = int(CHECKPOINT_S * 1_000 / INTERVAL_MS)


@pytest.fixture
def gateway(parts: Parts, tmp_path: Path) -> Iterator[Stack]:
    with start_stack(tmp_path / "gateway", parts) as stack:
        yield stack


@pytest.fixture
def pair(parts: Parts, tmp_path: Path) -> Iterator[Stack]:
    """Two workers under a supervisor."""
    with start_stack(tmp_path / "gateway", parts, workers=2) as stack:
        yield stack


def cost_of(stack: Stack, stream: Streaming, credential: str) -> int:
    record = stack.record(stream.request_id, credential)
    assert record["state"] in {"posted", "expired"}, record
    return int(record["cost"]["amount_msat"])


def paid_within_a_checkpoint(stack: Stack, stream: Streaming, credential: str) -> int:
    """What a stream cost whose worker died: never more than was delivered, and at most a checkpoint less."""
    cost, delivered = cost_of(stack, stream, credential), stream.tokens * OUTPUT_MSAT
    assert delivered - CHECKPOINT_TOKENS * OUTPUT_MSAT <= cost <= delivered + INPUT_MOST_MSAT
    return cost


def test_a_worker_killed_in_mid_stream_charges_its_last_checkpoint(gateway: Stack) -> None:
    credential = gateway.buy(500)
    slow = proof(credential) | {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "9000"}
    with ThreadPoolExecutor(1) as pool, Streaming(gateway, credential, 3_000, interval_ms=INTERVAL_MS) as stream:
        unanswered = pool.submit(httpx.get, f"{gateway.base_url}/raw/search", headers=slow, timeout=30)
        stream.until_tokens(350)
        gateway.kill()
        assert isinstance(unanswered.exception(), httpx.TransportError)
    assert not stream.complete
    gateway.restart()
    assert gateway.http.get("/raw/search", headers=proof(credential)).status_code == 200
    assert gateway.balance(credential)["held"] > 0, "the hold stands until somebody looks"
    balance = books_are_in_order(gateway, credential)
    cost = paid_within_a_checkpoint(gateway, stream, credential)
    assert cost >= 100 * OUTPUT_MSAT, "no checkpoint was written"
    assert balance["posted"] == cost + CALL_MSAT, "what was never answered costs nothing"
    assert gateway.record(stream.request_id, credential)["state"] == "expired"


def test_a_killed_worker_is_replaced_and_the_other_one_streams_on(pair: Stack) -> None:
    credential = pair.buy(2_000)
    before = workers_of(pair.process)
    with ExitStack() as stack:
        streams: list[Streaming] = []
        while not all(connections_of(pid, pair.port) & {stream.port for stream in streams} for pid in before):
            assert len(streams) < 40, "one worker took all connections"
            for _ in range(4):
                streams.append(stack.enter_context(Streaming(pair, credential, 500, interval_ms=INTERVAL_MS)))
            for stream in streams:
                stream.until_tokens(1)
        streams[-1].until_tokens(150)
        kill_process(before[0])
        until(lambda: len(set(workers_of(pair.process)) - {before[0]}) == 2, what="another worker")
    lost = [stream for stream in streams if not stream.complete]
    kept = [stream for stream in streams if stream.complete]
    assert lost and kept
    assert before[1] in workers_of(pair.process)
    balance = books_are_in_order(pair, credential)
    costs = [paid_within_a_checkpoint(pair, stream, credential) for stream in lost]
    costs += [stream.note["cost"]["amount_msat"] for stream in kept]
    assert balance["posted"] == sum(costs)
    assert all(httpx.get(f"{pair.base_url}/health/ready").status_code == 200 for _ in range(10))


def test_workers_whose_supervisor_is_killed_settle_and_end(pair: Stack) -> None:
    credential = pair.buy(500)
    workers = workers_of(pair.process)
    with Streaming(pair, credential, 3_000, interval_ms=INTERVAL_MS) as stream:
        stream.until_tokens(50)
        pair.kill()
        until(lambda: all(map(is_gone, workers)), what="the end of the workers")
    pair.restart()
    balance = pair.balance(credential)
    assert balance["held"] == 0, "settled by the worker, not by a sweep"
    assert balance["posted"] == cost_of(pair, stream, credential)
    assert stream.tokens * OUTPUT_MSAT <= balance["posted"] <= (stream.tokens + 20) * OUTPUT_MSAT + INPUT_MOST_MSAT
    books_are_in_order(pair, credential)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_streams_end_cuts_the_others_and_settles_all(parts: Parts, tmp_path: Path, workers: int) -> None:
    with start_stack(tmp_path / "gateway", parts, workers=workers, limits={"grace_s": 1.5}) as stack:
        credential = stack.buy(500)
        with (
            Streaming(stack, credential, 100, interval_ms=INTERVAL_MS) as short,
            Streaming(stack, credential, 3_000, interval_ms=INTERVAL_MS) as long,
        ):
            short.until_tokens(20)
            long.until_tokens(20)
            stack.process.send_signal(signal.SIGTERM)
            assert stack.process.wait(15) == 0, stack.log.read_text()
        assert short.complete
        assert short.note["final"]
        assert long.tokens > 100, "it was not given its grace"
        stack.restart()
        balance = stack.balance(credential)
        assert balance["held"] == 0, "settled before the end"
        costs = [cost_of(stack, stream, credential) for stream in (short, long)]
        assert balance["posted"] == sum(costs)
        assert long.tokens * OUTPUT_MSAT <= costs[1] <= (long.tokens + 20) * OUTPUT_MSAT + INPUT_MOST_MSAT
        books_are_in_order(stack, credential)


def price(stack: Stack, credential: str) -> int:
    """What one call of the model costs that the operator has a price for."""
    asked: dict[str, Any] = {"model": "llama3.2", "prompt": "Hello", "stream": False}
    answer = httpx.post(
        f"{stack.base_url}/api/generate",
        json=asked,
        headers=proof(credential) | {"x-sim-output-tokens": "10"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return int(answer.headers["farebox-cost"].removeprefix("amount_msat="))


def test_sighup_keeps_the_old_policies_or_takes_the_new_ones_whole(pair: Stack) -> None:
    credential = pair.buy(500)
    before = price(pair, credential)
    assert before >= 1_000
    prices = pair.config.parent / "policies/prices/ollama.yaml"
    prices.write_text(prices.read_text().replace("output_usd_per_mtok", "output_usd_per_mtoken"))
    pair.process.send_signal(signal.SIGHUP)
    until(lambda: pair.log.read_text().count("policies kept as they were") == 2, what="both workers' refusal")
    assert "output_usd_per_mtoken" in pair.log.read_text().rpartition("policies kept as they were")[2]
    assert {price(pair, credential) for _ in range(12)} == {before}

    text = yaml.safe_dump(OLLAMA_PRICES).replace("output_usd_per_mtok: '100'", "output_usd_per_mtok: '300'")
    assert "300" in text
    prices.write_text(text)
    pair.process.send_signal(signal.SIGHUP)
    until(lambda: pair.log.read_text().count("policies in force") == 2, what="both workers' new policies")
    assert {price(pair, credential) for _ in range(12)} == {before + 10 * 200}
    books_are_in_order(pair, credential)


def test_a_sighup_that_meets_a_worker_in_its_start_is_no_end_of_it(pair: Stack) -> None:
    first, second = workers_of(pair.process)
    pair.process.send_signal(signal.SIGHUP)
    until(lambda: pair.log.read_text().count("policies in force") == 2, what="both workers' answer")
    os.kill(first, signal.SIGKILL)
    until(lambda: len({*workers_of(pair.process)} - {first, second}) == 1, what="another worker")
    for _ in range(5):
        pair.process.send_signal(signal.SIGHUP)
        time.sleep(0.02)  # spread over its start
    # One answer of the other worker at least, and one of the new one, which heard of it before it could heed it.
    until(lambda: pair.log.read_text().count("policies in force") >= 4, what="the new worker's answer")
    assert pair.log.read_text().count("died") == 1 and second in workers_of(pair.process)


def test_a_reload_that_an_operator_asks_one_worker_for_reaches_all(pair: Stack) -> None:
    credential = pair.buy(500)
    before = price(pair, credential)
    code, key = pair.farebox("keys", "create", "--operator")
    assert code == 0, key
    text = yaml.safe_dump(OLLAMA_PRICES).replace("output_usd_per_mtok: '100'", "output_usd_per_mtok: '300'")
    prices, headers = pair.config.parent / "policies/prices/ollama.yaml", {"authorization": f"Bearer {key.strip()}"}
    prices.write_text(text.replace("output_usd_per_mtok", "output_usd_per_mtoken"))
    answer = pair.http.post("/admin/api/reload", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "policies_refused")
    assert "output_usd_per_mtoken" in answer.json()["detail"]
    prices.write_text(text)
    answer = pair.http.post("/admin/api/reload", json={}, headers=headers)
    assert answer.status_code == 200 and "in force" in answer.json()["detail"], answer.text
    until(lambda: pair.log.read_text().count("policies in force") == 2, what="both workers' new policies")
    assert {price(pair, credential) for _ in range(12)} == {before + 10 * 200}
    books_are_in_order(pair, credential)


def test_nothing_stays_of_a_demo_that_was_killed(tmp_path: Path) -> None:
    mark = f"CHAOS_MARK={secrets.token_hex(8)}"
    command = [sys.executable, "-m", "gateway", "demo", "--port", "0", "--quiet", "--data-dir", str(tmp_path / "demo")]
    environment = {**os.environ, "CHAOS_MARK": mark.partition("=")[2]}
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until((tmp_path / "demo/demo.json").exists, 60, what="the demo")
        processes = marked(mark)
        assert len(processes) >= 4, "gateway, parts, the store and its keeper"
    finally:
        demo.kill()
        demo.wait()
    until(lambda: all(map(is_gone, processes)) and not marked(mark), 20, what="the end of all processes")
