"""`farebox demo`: the whole path on embedded parts, told step by step, then left running.

Valkey, a simulated Lightning node, a wallet and a simulated upstream start with the gateway; an agent buys credit,
streams, spends, is cut off where its money ends and takes back what is left. `demo.json` in the data directory tells
scripts where everything is; it appears once all parts answer, and goes when the demo ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from gateway.adapters.genai_book import default_book
from gateway.cli.demo_keys import DemoKeys, demo_keys
from gateway.cli.demo_story import tell_story
from gateway.core.errors import Problem

READY_S = 60.0
_POLL_S = 0.05
_STOP_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `farebox demo`."""
    parser.add_argument(
        "--port", type=int, default=8402, help="where the gateway listens (default 8402; 0 for any free port)"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("farebox-data/demo"), help="where everything is kept")
    parser.add_argument(
        "--once", action="store_true", help="end after the story: exit code 0 when every step went well"
    )
    parser.add_argument("--quiet", action="store_true", help="no story, only run")


def run(args: argparse.Namespace) -> int:
    """Run the demo until it is told to stop."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with running_demo(args.data_dir, args.port) as demo:
            went_well = args.quiet or tell_story(demo)
            if args.once:
                return 0 if went_well else 1
            print(
                f"\nEverything stays up: {demo['base_url']} (metrics: {demo['base_url']}/metrics). Ctrl-C ends it.",
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except DemoError as error:
        print(f"farebox demo: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class DemoError(Exception):
    """A part did not start."""


@contextmanager
def running_demo(data_dir: Path, port: int) -> Iterator[dict[str, Any]]:
    """All parts, up; gives the contents of `demo.json`. Errors: DemoError."""
    data_dir = data_dir.absolute()
    data_dir.mkdir(parents=True, exist_ok=True)
    port = _free_port(port)
    with ExitStack() as stack:
        parts = stack.enter_context(_parts(data_dir))
        config = _write_config(data_dir, parts)
        base_url = f"http://127.0.0.1:{port}"
        stack.enter_context(_gateway(config, port, base_url, data_dir / "gateway.log"))
        keys = _keys(data_dir, config, base_url)
        demo = {
            "base_url": base_url,
            "wallet_url": parts["wallet_url"],
            "upstream_url": parts["upstream_url"],
            "app_key": keys.app_key,
            "operator_key": keys.operator_key,
        }
        demo_file = data_dir / "demo.json"
        partial = demo_file.with_suffix(".part")
        partial.touch(mode=0o600)
        partial.write_bytes(msgspec.json.encode(demo))
        partial.replace(demo_file)
        stack.callback(demo_file.unlink, missing_ok=True)
        yield demo


def _keys(data_dir: Path, config: Path, base_url: str) -> DemoKeys:
    """An operator's and an app's key. Errors: DemoError."""
    try:
        return demo_keys(data_dir, config, base_url)
    except (httpx.HTTPError, Problem, OSError) as error:
        raise DemoError(f"the demo's account could not be made: {error}") from None


@contextmanager
def _parts(data_dir: Path) -> Iterator[dict[str, Any]]:
    """The simulated parts, in a process that ends when its standard input closes."""
    ready = data_dir / "parts.json"
    ready.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "gateway.simulators.parts",
        "--data-dir",
        str(data_dir),
        "--ready-file",
        str(ready),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            _until(ready.exists, process, "the simulated parts")
            yield msgspec.json.decode(ready.read_bytes())
        finally:
            if process.stdin is not None:
                process.stdin.close()
            _end(process)
            ready.unlink(missing_ok=True)


@contextmanager
def _gateway(config: Path, port: int, base_url: str, log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", str(port)]
    command += ["--ends-with", str(os.getpid())]
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            _until(lambda: _answers(f"{base_url}/health/ready"), process, f"the gateway (see {log})")
            yield
        finally:
            process.terminate()
            _end(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _until(there: Any, process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + READY_S
    while not there():
        if process.poll() is not None:
            raise DemoError(f"{name} ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise DemoError(f"{name} did not come up within {READY_S:g} s")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port(port: int) -> int:
    """This port, or any for 0. Whoever serves there already would be taken for our own gateway. Errors: DemoError."""
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise DemoError(f"port {port} is taken ({error.strerror}); choose another one with --port") from None


def _write_config(data_dir: Path, parts: dict[str, Any]) -> Path:
    """What an operator would write, over the simulated parts."""
    config = {
        "data_dir": str(data_dir),
        "upstreams": _upstreams(parts["upstream_url"]),
        "routes": [
            {"path": "/raw/*", "methods": ["GET", "POST"], "upstream": "tools", "price": {"usd_per_call": "0.001"}}
        ],
        "lightning": {"lnd": parts["lnd"]},
        "rates": {"fixed_usd_per_btc": "100000"},
        "webhooks": {"allow_private_addresses": True},
    }
    path = data_dir / "demo.yaml"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    return path


# Who makes models stands before who only serves those of others: a model that several sell goes to the first.
_MAKERS = ("cohere", "deepseek", "meta", "minimax", "mistral", "moonshotai", "perplexity", "voyageai", "x-ai", "zai")


def _upstreams(url: str) -> dict[str, dict[str, str]]:
    """One upstream for every provider of the price book, in its own dialect, and two that bring their own prices."""
    upstreams = {
        "openai": {"dialect": "openai", "base_url": f"{url}/openai/v1", "api_key": "sk-demo-upstream"},
        "anthropic": {"dialect": "anthropic", "base_url": f"{url}/anthropic", "api_key": "sk-ant-demo-upstream"},
        "gemini": {"dialect": "gemini", "base_url": f"{url}/gemini", "api_key": "demo-upstream"},
        "ollama": {"dialect": "ollama", "base_url": f"{url}/ollama", "provider": "ollama"},
        "tools": {"dialect": "raw", "base_url": f"{url}/raw"},
    }
    others = sorted({each.provider for each in default_book()} - {"openai", "anthropic", "google"})
    for provider in sorted(others, key=lambda name: name not in _MAKERS):
        upstreams[provider] = {
            "dialect": "openai",
            "base_url": f"{url}/{provider}/v1",
            "api_key": f"sk-demo-{provider}",
            "provider": provider,
        }
    return upstreams
