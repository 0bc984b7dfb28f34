"""`farebox bench` runs to its end on real parts, and no request of any subject fails. What it measures is not judged
here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.bench_process import cpu_s, family, memory
from gateway.cli.bench_table import table
from gateway.cli.bench_workloads import WORKLOADS

FAREBOXES = [
    "farebox, relay only", "farebox, metered", "farebox, metered, always", "farebox, person, 1 budget",
    "farebox, person, 4 budgets",
]  # fmt: skip


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "bench", *arguments], capture_output=True, text=True, timeout=110, check=False
    )


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = bench("--quick", "--json", "--open", "10", "--seconds", "0.2")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_request_of_any_subject_failed(report: dict[str, Any]) -> None:
    assert report["failed"] == 0
    assert report["failures"] == []


def test_every_subject_that_is_there_has_figures_for_every_workload(report: dict[str, Any]) -> None:
    subjects = {"direct", "nginx", "hardcap", *FAREBOXES} - set(report["left_out"])
    assert set(report["figures"]) == set(WORKLOADS)
    for name in ("json_32", "json_1", "paced", "burst"):
        assert set(report["figures"][name]) == subjects
    assert set(report["figures"]["memory"]) == subjects - {"direct"}
    assert set(report["figures"]["challenge"]) == {"farebox, metered"}


def test_figures_say_what_the_table_needs(report: dict[str, Any]) -> None:
    for name in FAREBOXES:
        json_32 = report["figures"]["json_32"][name]
        assert {"subject_cpu_us", "store_cpu_us", "p50_ms", "p99_ms", "per_s"} <= set(json_32)
        assert json_32["p50_ms"] <= json_32["p99_ms"]
        assert report["figures"]["paced"][name]["chunks_per_s"] > 0
        assert report["figures"]["memory"][name]["open_streams"] == 10
        assert report["figures"]["memory"][name]["idle_pss_mb"] > 10


def test_the_table_has_a_line_for_every_subject(report: dict[str, Any]) -> None:
    lines = table(report).splitlines()
    for name in ("direct", *FAREBOXES):
        assert any(line.startswith(name) for line in lines)


def test_the_table_tells_of_failures_and_of_what_is_left_out(report: dict[str, Any]) -> None:
    broken = {
        **report,
        "failed": 2,
        "failures": ["json_1, x: no answer"],
        "left_out": {"nginx": "nginx is not installed"},
    }
    text = table(broken)
    assert "left out: nginx: nginx is not installed" in text
    assert "2 FAILED:\njson_1, x: no answer" in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--only", "nonsense"), "'nonsense' is unknown; there are memory"),
        (("--subjects", "nobody"), "'nobody' is unknown; there are direct"),
        (("--rounds", "0"), "--rounds: must be above zero"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: tuple[str, str], complaint: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_process_is_counted_with_its_children(tmp_path: Path) -> None:
    busy = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    script = tmp_path / "parent.py"
    script.write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])\nprint('done', flush=True)\ninput()\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"done\n"
        assert cpu_s([parent.pid]) >= 0.2
        assert parent.pid in family(os.getpid())
        assert memory([parent.pid]).pss_bytes > 1_000_000
        parent.communicate(b"\n")
