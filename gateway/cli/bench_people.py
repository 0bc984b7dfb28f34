"""Farebox as an app's people meet it: a key, a person, and one budget or four on every request. The two differ by
what budgets cost.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.cli.bench_parts import BenchError, answers, free_port, process, until, write_private
from gateway.cli.bench_subjects import MODEL, Stage, Subject, farebox_config
from gateway.config import Config
from gateway.policy_files import policies_directory

PERSON = "bench"
_MUCH = {"amount": "100000.00", "currency": "USD"}


def people(name: str, scopes: int) -> Callable[[Stage], Any]:
    """`farebox serve` with one worker, an app key and a person with so many budgets (1 to 4)."""

    @contextmanager
    def start(stage: Stage) -> Iterator[Subject]:
        home = stage.directory / f"people-{scopes}"
        home.mkdir()
        config = farebox_config(stage, home, stage.store[0]) | {"policies_dir": str(_policies(home))}
        path = write_private(home / "farebox.yaml", yaml.safe_dump(config, sort_keys=False))
        port = free_port()
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(path), "--port", str(port)]
        command += ["--ends-with", str(os.getpid())]
        with process(command, home / "farebox.log") as started:
            until(lambda: answers(f"http://127.0.0.1:{port}/health/ready"), started, name, home / "farebox.log")
            key = _account(path, port, scopes)
            watch = {"subject": started.pid, "store": stage.store[1]}
            yield Subject(name, port, watch, f"Bearer {key}", more=(f"farebox-user: {PERSON}",))

    return start


def _policies(home: Path) -> Path:
    """The shipped ones, but for how much goes without asking: a benchmark asks nobody."""
    directory = Path(shutil.copytree(policies_directory(Config()), home / "policies"))
    free = {"automatic_within_usd": "100000"}
    (directory / "approvals.yaml").write_text(yaml.safe_dump(free), encoding="utf-8")
    return directory


def _account(config: Path, port: int, scopes: int) -> str:
    """An account with money, an app key and budgets; the key. Errors: BenchError."""
    command = [sys.executable, "-m", "gateway", "keys", "create", "--operator", "--config", str(config)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if made.returncode != 0:
        raise BenchError(f"no operator key could be made: {made.stderr[:300]}")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        http.headers["authorization"] = f"Bearer {made.stdout.strip()}"
        account = _good(http.post("/admin/api/accounts", json={"name": "bench", "most_open_holds": 1_000_000}))["id"]
        _good(http.post(f"/admin/api/accounts/{account}/credits", json={"amount": _MUCH}))
        key = _good(http.post(f"/admin/api/accounts/{account}/keys", json={}))
        http.headers["authorization"] = f"Bearer {key['key']}"
        _good(http.post("/api/persons", json={"id": PERSON}))
        each = [{"user": PERSON}, {}, {"key": key["id"]}, {"user": PERSON, "model": MODEL}][:scopes]
        budgets = [{"scope": scope, "limit": _MUCH, "window": "month", "alerts_pct": [80]} for scope in each]
        _good(http.put("/api/budgets", json=budgets))
    return str(key["key"])


def _good(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise BenchError(f"{answer.request.url.path}: {answer.text[:300]}")
    return dict(answer.json())
