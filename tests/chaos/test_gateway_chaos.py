"""The store is killed, cut short and stopped while a gateway serves streams and calls: nothing is charged twice, nobody
who has paid is asked to pay again, and afterwards the books are in order."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from chaos.running import INPUT_MOST_MSAT, OUTPUT_MSAT, OwnStore, Streaming, books_are_in_order, own_store
from e2e.stack import CALL_MSAT, Parts, Stack, proof, start_stack, until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OwnStore]:
    with own_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def gateway(store: OwnStore, parts: Parts, tmp_path: Path) -> Iterator[Stack]:
    with start_stack(tmp_path / "gateway", parts, redis={"url": store.url}) as stack:
        yield stack


@pytest.fixture
def patient_gateway(store: OwnStore, parts: Parts, tmp_path: Path) -> Iterator[Stack]:
    """Its holds outlive a store that is away for some seconds."""
    policies = {"hold": {"hold_lifetime_s": 30.0}}
    with start_stack(tmp_path / "gateway", parts, policies=policies, redis={"url": store.url}) as stack:
        yield stack


def call(stack: Stack, credential: str) -> httpx.Response:
    return httpx.get(f"{stack.base_url}/raw/search", headers=proof(credential), timeout=30)


def refused_for_the_store(answer: httpx.Response, *codes: str) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] in (codes or ("store_unavailable",))
    assert int(answer.headers["retry-after"]) > 0


def cost_of(stack: Stack, stream: Streaming, credential: str) -> int:
    record = stack.record(stream.request_id, credential)
    assert record["state"] == "posted", record
    return int(record["cost"]["amount_msat"])


def spooled(stack: Stack) -> int:
    """Bytes of postings that wait on disk."""
    return sum(path.stat().st_size for path in (stack.config.parent / "data/spool").glob("*.spool"))


def test_a_store_killed_in_mid_stream_stops_no_stream_and_is_paid_once(patient_gateway: Stack, store: OwnStore) -> None:
    gateway = patient_gateway
    credential = gateway.buy(500)
    with Streaming(gateway, credential, 400) as long, Streaming(gateway, credential, 130) as short:
        long.until_tokens(60)
        store.kill()
        refused_for_the_store(call(gateway, credential))
        refused_for_the_store(gateway.http.get("/v1/models"))
        short.until_over()
        until(lambda: spooled(gateway), what="a spooled posting")
        store.restart()
        long.until_over()
    assert short.complete and short.note["final"] is False
    assert long.complete
    until(lambda: gateway.balance(credential)["held"] == 0, what="the replay of what was spooled")
    balance = books_are_in_order(gateway, credential)
    costs = [cost_of(gateway, stream, credential) for stream in (long, short)]
    assert costs == [stream.note["cost"]["amount_msat"] for stream in (long, short)]
    assert balance["posted"] == sum(costs)
    assert call(gateway, credential).status_code == 200


def test_a_stream_that_needs_more_money_waits_for_the_store_to_come_back(
    store: OwnStore, parts: Parts, tmp_path: Path
) -> None:
    hold = {"hold_lifetime_s": 30.0, "first_step_tokens": 32, "greatest_step_tokens": 32}
    with start_stack(tmp_path / "gateway", parts, policies={"hold": hold}, redis={"url": store.url}) as gateway:
        credential = gateway.buy(500)
        with Streaming(gateway, credential, 400) as stream:
            stream.until_tokens(60)
            store.kill()
            refused_for_the_store(call(gateway, credential))  # takes as long as a call to the store may take
            refused_for_the_store(call(gateway, credential))
            assert not stream.over
            store.restart()
            stream.until_over()
        assert stream.complete
        balance = books_are_in_order(gateway, credential)
        assert balance["posted"] == cost_of(gateway, stream, credential) == stream.note["cost"]["amount_msat"]


def test_what_a_killed_worker_had_spooled_is_charged_once_by_the_next(patient_gateway: Stack, store: OwnStore) -> None:
    gateway = patient_gateway
    credential = gateway.buy(500)
    with Streaming(gateway, credential, 100) as stream:
        stream.until_tokens(40)
        store.kill()
        stream.until_over()
        until(lambda: spooled(gateway), what="a spooled posting")
        gateway.kill()
    assert stream.complete
    store.restart()
    gateway.restart()
    until(lambda: gateway.balance(credential)["held"] == 0, what="the replay of what was spooled")
    until(lambda: not spooled(gateway), what="an empty spool")
    balance = books_are_in_order(gateway, credential)
    assert balance["posted"] == stream.note["cost"]["amount_msat"] == cost_of(gateway, stream, credential)


def test_a_store_away_for_longer_than_a_hold_lives_cuts_the_stream_in_time(gateway: Stack, store: OwnStore) -> None:
    credential = gateway.buy(500)
    with Streaming(gateway, credential, 3_000) as stream:
        stream.until_tokens(100)
        store.kill()
        away_since = time.monotonic()
        stream.until_over()
        assert stream.last_token_at - away_since < 3.5, "forwarded when the hold may have expired"
        store.restart()
    until(lambda: gateway.balance(credential)["held"] == 0, what="the replay of what was spooled")
    balance = books_are_in_order(gateway, credential)
    assert stream.tokens * OUTPUT_MSAT <= balance["posted"] <= (stream.tokens + 10) * OUTPUT_MSAT + INPUT_MOST_MSAT


def test_a_stopped_primary_answers_503_and_never_402_and_loses_nothing(gateway: Stack, store: OwnStore) -> None:
    credential, stranger = gateway.buy(300), gateway.buy(10)  # the second one is shown for the first time meanwhile
    answers: list[httpx.Response] = []
    over = time.monotonic() + 4.5

    def call_on(credential: str) -> None:
        while time.monotonic() < over:
            answers.append(call(gateway, credential))

    with ThreadPoolExecutor(9) as pool, Streaming(gateway, credential, 400) as stream:
        calls = [pool.submit(call_on, one) for one in [credential] * 8]
        until(lambda: len(answers) > 20, what="calls")
        store.signal(signal.SIGSTOP)
        calls.append(pool.submit(call_on, stranger))
        time.sleep(3.0)  # how long it is stopped is what is tried
        store.signal(signal.SIGCONT)
        for each in calls:
            each.result()
    told = Counter(answer.status_code for answer in answers)
    assert set(told) == {200, 402, 503} or set(told) == {200, 503}, told
    for answer in answers:
        if answer.status_code == 503:
            refused_for_the_store(answer)
        if answer.status_code == 402:  # only after one's own last sat
            assert answer.json()["balance"]["available"]["amount_msat"] < CALL_MSAT
    gateway.settled(credential, 20)
    gateway.settled(stranger)
    balances = [books_are_in_order(gateway, one) for one in (credential, stranger)]
    cost = cost_of(gateway, stream, credential)
    assert sum(balance["posted"] for balance in balances) == told[200] * CALL_MSAT + cost
    assert stream.tokens * OUTPUT_MSAT <= cost
    assert call(gateway, gateway.buy(1)).status_code == 200


def drained(stack: Stack) -> float:
    """When the journal was last written to files."""
    files = list((stack.config.parent / "data/journal").glob("*"))
    return max((path.stat().st_mtime for path in files), default=0.0)


def spent(stack: Stack, credential: str, calls: int) -> None:
    for _ in range(calls):
        answer = call(stack, credential)
        assert answer.status_code == 200, answer.text


def test_a_file_cut_short_freezes_until_it_is_accepted_and_payments_come_back_from_the_node(
    gateway: Stack, store: OwnStore
) -> None:
    credential = gateway.buy(50)
    spent(gateway, credential, 5)
    kept = store.file().stat().st_size
    late = gateway.buy(40)
    spent(gateway, late, 3)
    spent(gateway, credential, 4)
    now = time.time()
    until(lambda: drained(gateway) > now, what="the drain of the journal")
    store.kill()
    os.truncate(store.file(), kept + 40)
    store.restart()

    served: list[httpx.Response] = []

    def frozen() -> bool:
        answer = call(gateway, credential)
        assert answer.status_code != 402
        if answer.status_code == 200:
            served.append(answer)
        return answer.status_code == 503 and answer.json()["code"] == "frozen"

    until(frozen, what="the freeze")
    refused_for_the_store(call(gateway, late), "frozen", "store_unavailable")
    status, report = gateway.farebox("reconcile")
    assert status == 1, report
    assert "gone back in time" in report
    assert "farebox reconcile --accept" in report
    gateway.process.terminate()
    assert gateway.process.wait(20) == 0
    status, report = gateway.farebox("reconcile", "--accept")
    assert status == 0, report
    gateway.restart()
    assert gateway.balance(late) == {"credited": 40_000, "posted": 0, "held": 0, "available": 40_000}
    spent(gateway, late, 40)
    assert call(gateway, late).status_code == 402
    balance = books_are_in_order(gateway, credential)
    assert balance["credited"] == 50_000
    lost_msat = (5 + 4 + len(served)) * CALL_MSAT - balance["posted"]
    # What the file no longer tells is the house's loss; under load the server may be a second behind with its writing.
    assert 4 * CALL_MSAT <= lost_msat <= 9 * CALL_MSAT


def test_money_that_was_paid_while_the_store_was_away_is_credited_once(gateway: Stack, store: OwnStore) -> None:
    asked: dict[str, Any] = gateway.http.get("/v1/models", headers={"farebox-deposit": "12"}).json()
    store.kill()
    credential = f"{asked['macaroon']}:{gateway.pay(asked['invoice'])}"
    refused_for_the_store(call(gateway, credential))
    store.restart()
    until(lambda: call(gateway, credential).status_code == 200, what="the store")
    balance = books_are_in_order(gateway, credential)
    assert (balance["credited"], balance["posted"]) == (12_000, CALL_MSAT)
