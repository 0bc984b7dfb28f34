"""What is measured: a direct connection, nginx, Farebox with and without metering, hardcap; all in front of one
upstream.

Every subject is one process (nginx: one worker), is configured not to write logs of requests where it can be told so,
and keeps its connections to the upstream. A subject that cannot be had here is left out, and the table says why.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.cli.bench_parts import BenchError, accepts, answers, free_port, process, until, write_private

CHAT = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
DEPOSIT_SATS = 1_000_000
_HARDCAP_KEY = "sk-bench"
_WITHOUT_LIMIT = 10**9
# Above one JSON answer, below what a stream brings at once: what costs nothing is passed on as it comes.
_RELAY_WHOLE_BYTES = 2_048

NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  upstream api {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


@dataclass(slots=True)
class Subject:
    """One address to measure. `authorization`: header value to show. `watch`: name -> process, `subject` among them."""

    name: str
    port: int
    watch: dict[str, int] = field(default_factory=dict)
    authorization: str = ""
    streams: bool = True
    challenges: bool = False
    more: tuple[str, ...] = ()  # further lines of every request's head


@dataclass(frozen=True, slots=True)
class Stage:
    """What the subjects stand on."""

    directory: Path
    upstream_port: int
    store: tuple[int, int]
    store_always: tuple[int, int]
    parts: dict[str, Any]
    parts_pid: int
    master: str = field(default_factory=lambda: secrets.token_hex(32))


@contextmanager
def direct(stage: Stage) -> Iterator[Subject]:
    """No gateway at all."""
    yield Subject("direct", stage.upstream_port)


@contextmanager
def nginx(stage: Stage) -> Iterator[Subject]:
    """`proxy_pass`: the floor. Errors: BenchError when it is not installed."""
    program = shutil.which("nginx")
    if program is None:
        raise BenchError("nginx is not installed")
    home = stage.directory / "nginx"
    home.mkdir(mode=0o755)
    port = free_port()
    path = write_private(home / "nginx.conf", NGINX.format(home=home, port=port, upstream=stage.upstream_port))
    with process([program, "-p", str(home), "-c", str(path)], home / "nginx.log") as started:
        until(lambda: accepts(port), started, "nginx", home / "nginx.log")
        yield Subject("nginx", port, {"subject": started.pid})


def farebox(name: str, *, always: bool = False, metered: bool = True) -> Callable[[Stage], Any]:
    """`farebox serve` with one worker, as an operator runs it."""

    @contextmanager
    def start(stage: Stage) -> Iterator[Subject]:
        home = stage.directory / name.replace(" ", "-").replace(",", "")
        home.mkdir()
        store_port, store_pid = stage.store_always if always else stage.store
        config = farebox_config(stage, home, store_port, metered=metered)
        path = write_private(home / "farebox.yaml", yaml.safe_dump(config, sort_keys=False))
        port = free_port()
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(path), "--port", str(port)]
        command += ["--ends-with", str(os.getpid())]
        with process(command, home / "farebox.log") as started:
            url = f"http://127.0.0.1:{port}/health/ready"
            until(lambda: answers(url), started, name, home / "farebox.log")
            credential = _buy(port, stage.parts["wallet_url"])
            watch = {"subject": started.pid, "store": store_pid, "node": stage.parts_pid}
            yield Subject(name, port, watch, f"L402 {credential}", challenges=metered and not always)

    return start


def farebox_config(stage: Stage, home: Path, store_port: int, *, metered: bool = True) -> dict[str, Any]:
    """What an operator would write."""
    url = f"http://127.0.0.1:{stage.upstream_port}"
    limits = dict.fromkeys(
        ("challenges_per_minute", "open_invoices_per_address", "open_invoices_per_prefix", "open_invoices_most"),
        _WITHOUT_LIMIT,
    )
    routes: list[dict[str, Any]] = []
    if not metered:
        limits["whole_answer_most_bytes"] = _RELAY_WHOLE_BYTES
        routes = [{"path": CHAT, "methods": ["POST"], "upstream": "openai", "operation": "input_tokens"}]
    return {
        "data_dir": str(home),
        "redis": {"url": f"redis://127.0.0.1:{store_port}/0"},
        "upstreams": {
            "openai": {"dialect": "openai", "base_url": url, "api_key": "sk-bench", "connections_most": 8_192}
        },
        "routes": routes,
        "lightning": {"lnd": stage.parts["lnd"]},
        "rates": {"fixed_usd_per_btc": "100000"},
        "limits": limits,
        "secrets": {"macaroon_master": {1: stage.master}},
    }


def _buy(port: int, wallet_url: str) -> str:
    """A credit, bought as an agent buys it. Errors: BenchError."""
    url = f"http://127.0.0.1:{port}/openai{CHAT}"
    offer = httpx.post(url, headers={"farebox-deposit": str(DEPOSIT_SATS)}, timeout=30)
    if offer.status_code != 402:
        raise BenchError(f"a challenge was due, {offer.status_code} came: {offer.text[:300]}")
    paid = httpx.post(f"{wallet_url}/pay", json={"invoice": offer.json()["invoice"]}, timeout=30)
    if paid.status_code != 200:
        raise BenchError(f"the wallet refused: {paid.text[:300]}")
    return f"{offer.json()['macaroon']}:{paid.json()['preimage']}"


@contextmanager
def hardcap(stage: Stage) -> Iterator[Subject]:
    """The gateway `hardcap` from PyPI, reserving before and cutting in mid-stream, on the same store. Errors:
    BenchError."""
    if find_spec("hardcap") is None:
        raise BenchError("hardcap is not installed")
    home = stage.directory / "hardcap"
    home.mkdir()
    port = free_port()
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "redis_url": f"redis://127.0.0.1:{stage.store[0]}/1",
        "budget": {"accounting": "reserve", "on_overrun": "truncate"},
        "upstreams": {"bench": {"kind": "openai", "base_url": f"http://127.0.0.1:{stage.upstream_port}"}},
        "routes": {MODEL: {"targets": [{"upstream": "bench", "model": MODEL}]}},
        "tenants": {"bench": {"api_keys": [_HARDCAP_KEY], "budget": {"window_s": 86_400, "total": 10**12}}},
        "pricing": {MODEL: {"input": 0.15, "output": 0.6}},
    }
    path = write_private(home / "hardcap.yaml", yaml.safe_dump(config, sort_keys=False))
    with process([sys.executable, "-m", "hardcap", "serve", "-c", str(path)], home / "hardcap.log") as started:
        until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), started, "hardcap", home / "hardcap.log")
        yield Subject("hardcap", port, {"subject": started.pid, "store": stage.store[1]}, f"Bearer {_HARDCAP_KEY}")
