"""`kill -9`, then a restart, then `farebox reconcile`: what was acknowledged is still there, and at most one checkpoint
interval of a running stream is lost, to the agent's favour.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from e2e.crowd import Ask, ask_all
from e2e.outside import running_store
from e2e.stack import Parts, kill_process, proof, start_stack, until, workers_of
from e2e.test_outages import OUTPUT_MSAT, Streaming

CHECKPOINT_S = 1.0
TICK_S = 1.0
TOKENS_A_SECOND = 100


def test_after_200_requests_and_a_kill_in_mid_stream_nothing_acknowledged_is_lost(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policies = {"hold": {"checkpoint_interval_s": CHECKPOINT_S, "hold_lifetime_s": 6.0}}
    with start_stack(tmp_path_factory.mktemp("killed"), parts, policies=policies) as gateway:
        credential = gateway.buy(1_000)
        calls = [Ask("/raw/x", proof(credential), method="GET")] * 200
        replies = asyncio.run(ask_all(gateway.port, calls))
        assert Counter(reply.status for reply in replies) == {200: 200}
        streaming = Streaming(gateway, credential, tokens=2_000, interval_ms=1_000 // TOKENS_A_SECOND)
        until(lambda: streaming.words > 250, what="the stream")
        gateway.kill()
        streaming.join(10)
        delivered = streaming.words
        gateway.restart()
        assert gateway.balance(credential)["posted"] == 200_000, "usage survives"
        code, text = gateway.farebox("reconcile")
        assert code == 0, text
        balance = gateway.settled(credential)
        streamed = balance["posted"] - 200_000
        lost_most = (CHECKPOINT_S + TICK_S) * TOKENS_A_SECOND * OUTPUT_MSAT
        assert delivered * OUTPUT_MSAT - lost_most <= streamed <= (delivered + 50) * OUTPUT_MSAT
        assert streamed > 0
        record = gateway.record(streaming.request_id, credential)
        assert (record["state"], record["basis"]) == ("expired", "counted")
        assert record["usage"]["output_tokens"] * OUTPUT_MSAT <= streamed, "the usage is the one that was charged"
        assert record["usage"]["output_tokens"] > 0
        assert gateway.http.get("/raw/x", headers=proof(credential)).status_code == 200


def test_a_supervisor_starts_a_killed_worker_again_and_keeps_the_others(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("supervised")
    with running_store(directory / "store") as store:
        with start_stack(directory, parts, workers=2, redis={"url": store.url}) as gateway:
            credential = gateway.buy(50)
            first, second = workers_of(gateway.process)
            kill_process(first)
            until(lambda: set(workers_of(gateway.process)) - {first, second}, what="a new worker")
            assert second in workers_of(gateway.process)
            asks = [Ask("/raw/x", proof(credential), method="GET")] * 20
            replies = asyncio.run(ask_all(gateway.port, asks))
            assert Counter(reply.status for reply in replies) == {200: 20}
            assert gateway.settled(credential)["posted"] == 20_000


def test_sigterm_ends_running_streams_cleanly_and_settles_them(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("drained")
    with running_store(directory / "store") as store:
        with start_stack(directory, parts, redis={"url": store.url}) as gateway:
            credential = gateway.buy(100)
            streaming = Streaming(gateway, credential, tokens=2_000, interval_ms=10)
            until(lambda: streaming.words > 30, what="the stream")
            gateway.process.terminate()
            assert gateway.process.wait(15) == 0
            streaming.join(10)
            delivered = streaming.words
            gateway.restart()
            balance = gateway.balance(credential)
            assert balance["held"] == 0, "the stream was settled before the end"
            assert delivered * OUTPUT_MSAT <= balance["posted"] <= (delivered + 50) * OUTPUT_MSAT
