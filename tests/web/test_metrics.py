"""Metrics of all workers, log lines without secrets, and health that touches only what it must."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from gateway.adapters.accesslog import AccessLog
from gateway.adapters.metrics import Metrics
from gateway.core.finished import Finished
from gateway.core.usage import Usage
from gateway.web.ops import ops_routes

ROOT = Path(__file__).parents[2]
USAGE = Usage(input_tokens=10, output_tokens=5)


def settled(**changes: Any) -> Finished:
    values: dict[str, Any] = {
        "route": "/v1/chat/completions", "upstream": "openai", "operation": "chat", "model": "gpt-4o", "status": 200,
        "account": "ag_1", "hold": "ho_1", "state": "posted", "unit": "msat", "amount": 7, "basis": "reported",
        "usage": USAGE, "duration_s": 0.2, "upstream_s": 0.05, "first_byte_s": 0.06,
    }  # fmt: skip
    return Finished("req_1", "POST", **{**values, **changes})


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_settled_request_is_counted_in_every_family() -> None:
    metrics = Metrics()
    metrics.finished(settled())
    metrics.finished(settled(shortfall=3, cut="credit", basis="counted"))
    seen = samples(metrics)
    assert seen["farebox_requests_total", ("/v1/chat/completions", "200", "chat")] == 2
    assert seen["farebox_tokens_total", ("gpt-4o", "input_tokens", "openai")] == 20
    assert seen["farebox_posted_amount_total", ("gpt-4o", "msat", "openai")] == 14
    assert seen["farebox_shortfall_amount_total", ("msat",)] == 3
    assert seen["farebox_cuts_total", ("credit",)] == 1
    assert seen["farebox_holds_total", ("posted",)] == 2
    assert seen["farebox_usage_basis_total", ("counted",)] == 1
    assert seen["farebox_upstream_seconds_count", ("openai",)] == 2
    assert seen["farebox_upstream_seconds_bucket", ("0.05", "openai")] == 2
    assert seen["farebox_upstream_seconds_bucket", ("0.025", "openai")] == 0


def test_a_refusal_is_counted_by_its_code_and_charges_nothing() -> None:
    metrics = Metrics()
    metrics.finished(Finished("req_1", "POST", status=402, reason="payment_required"))
    seen = samples(metrics)
    assert seen["farebox_refused_total", ("payment_required",)] == 1
    assert not any(name.startswith("farebox_posted") for name, _ in seen)


def test_an_answer_that_broke_off_is_no_refusal() -> None:
    metrics = Metrics()
    metrics.finished(settled(reason="upstream_closed"))
    metrics.finished(Finished("req_1", "POST", status=0, reason="client_gone"))
    seen = samples(metrics)
    assert seen["farebox_broken_answers_total", ("upstream_closed",)] == 1
    assert seen["farebox_broken_answers_total", ("client_gone",)] == 1
    assert not any(name == "farebox_refused_total" for name, _ in seen)


def test_hostile_labels_stay_within_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    for number in range(3_000):
        metrics.finished(settled(model=f'm"{number}\n\\'))
    seen = samples(metrics)
    posted = {labels: value for (name, labels), value in seen.items() if name == "farebox_posted_amount_total"}
    assert len(posted) <= 2_001 and sum(posted.values()) == 21_000


def test_any_worker_tells_what_all_of_them_counted(tmp_path: Path) -> None:
    workers = [Metrics(tmp_path) for _ in range(3)]
    for number, worker in enumerate(workers):
        worker.open()
        worker.gauge("farebox_open_streams", "Streams", partial(float, number + 1))
        worker.finished(settled())
        worker.write()
    for worker in workers:
        seen = samples(worker)
        assert seen["farebox_holds_total", ("posted",)] == 3
        assert seen["farebox_open_streams", ()] == 6
    for worker in workers:
        worker.close()


def test_counters_go_on_where_a_worker_before_left_them(tmp_path: Path) -> None:
    for round_number in (1, 2):
        metrics = Metrics(tmp_path)
        metrics.open()
        metrics.gauge("farebox_open_streams", "Streams", lambda: 5)
        metrics.finished(settled())
        assert samples(metrics)["farebox_holds_total", ("posted",)] == round_number
        metrics.close()
    assert len(list(tmp_path.glob("*.json"))) == 1


KILLED = """
import sys, time
from pathlib import Path
from gateway.adapters.metrics import Metrics
from gateway.core.finished import Finished
metrics = Metrics(Path(sys.argv[1]))
metrics.open()
metrics.gauge("farebox_open_streams", "Streams", lambda: 9)
metrics.finished(Finished("req_1", "POST", status=200))
metrics.write()
print("written", flush=True)
time.sleep(60)
"""


def test_a_killed_worker_leaves_its_counts_but_not_its_gauges(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout is not None and worker.stdout.readline() == b"written\n"
    asked = Metrics(tmp_path)
    asked.open()
    asked.gauge("farebox_open_streams", "Streams", lambda: 1)
    assert samples(asked)["farebox_open_streams", ()] == 10
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    seen = samples(asked)
    assert seen["farebox_open_streams", ()] == 1
    assert seen["farebox_requests_total", ("", "", "200")] == 1
    asked.close()


def test_a_file_that_was_cut_short_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_bytes(b'{"farebox_holds": [[["pos')
    (tmp_path / "8.json").write_bytes(b'{"farebox_holds": [[["a", "b"], 1]], "farebox_store_seconds": [[["x"], [1]]]}')
    metrics = Metrics(tmp_path)
    metrics.open()
    metrics.finished(settled())
    assert samples(metrics)["farebox_holds_total", ("posted",)] == 1
    metrics.close()


async def test_the_log_has_one_line_a_request_with_what_it_cost() -> None:
    reader, writer = os.pipe()
    log = AccessLog(lambda: 1_764_000_000.5, descriptor=writer)
    log.finished(settled(policy="sha256:ab", org="org_1", key_id="ak_1", user="ann"))
    log.finished(Finished("req_2", "GET", status=404, reason="unknown_route"))
    await log.flush()
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        first, second = map(json.loads, stream.read().splitlines())
    assert first == {
        "at": "2025-11-24T16:00:00.500Z", "event": "request", "request_id": "req_1", "method": "POST",
        "route": "/v1/chat/completions", "status": 200, "ms": 200.0, "upstream_ms": 50.0, "first_byte_ms": 60.0,
        "upstream": "openai", "operation": "chat", "model": "gpt-4o", "account": "ag_1", "org": "org_1",
        "key_id": "ak_1", "user": "ann", "policy": "sha256:ab",
        "hold": "ho_1", "state": "posted", "unit": "msat", "held": 0, "amount": 7, "basis": "reported",
        "usage": USAGE.as_members(),
    }  # fmt: skip
    assert second["reason"] == "unknown_route" and "hold" not in second


async def test_lines_beyond_the_bound_are_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.accesslog.GREATEST_WAITING", 1)
    reader, writer = os.pipe()
    log = AccessLog(lambda: 0.0, descriptor=writer)
    for _ in range(3):
        log.finished(settled())
    task = asyncio.ensure_future(log.run())
    while log._waiting:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await log.flush()
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        lines = [json.loads(line) for line in stream]
    assert lines[-1] == {"event": "log_lines_dropped", "count": 2}


async def test_numbers_are_written_while_the_worker_runs_and_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.open()
    metrics.finished(settled())
    task = asyncio.ensure_future(metrics.run())
    while b"posted" not in (tmp_path / "0.json").read_bytes():
        await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (tmp_path / "0.part").mkdir()
    metrics.write()
    assert metrics.write_failures == 1
    (tmp_path / "0.part").rmdir()
    metrics.close()


async def test_a_reader_that_has_gone_loses_lines_and_stops_nobody() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = AccessLog(lambda: 0.0, descriptor=writer)
    log.finished(settled())
    await log.flush()
    os.close(writer)
    assert log.dropped == 1


async def test_health_says_which_part_cannot_serve_and_nothing_more() -> None:
    away, draining = False, False

    async def store() -> None:
        if away:
            raise ConnectionError("redis://:secret@host")

    metrics = Metrics()
    app = Starlette(
        routes=ops_routes(checks={"store": store}, exposition=metrics.exposition, draining=lambda: draining)
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        away = True
        assert (await client.get("/health/live")).status_code == 200
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "not_ready", "failed": ["store"]})
        away, draining = False, True
        assert (await client.get("/health/ready")).json()["failed"] == ["draining"]
        assert (await client.get("/metrics")).headers["content-type"].startswith("text/plain")
