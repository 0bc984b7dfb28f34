"""Everything that a test from outside needs, in processes of its own: simulated parts, gateways over them, a store that
can be stopped, and wires that can be cut.

One set of simulated parts (upstream, node, wallet) serves a whole session; every gateway has a directory, a secret and
a store of its own, so that no test sees what another one bought.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml
from servers import free_port

READY_S = 40.0
# 100,000 USD a BTC: a sat is a tenth of a cent, a call of the flat route costs exactly one.
CALL_SATS = 1
CALL_MSAT = 1_000
CHAT = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
# Prices that are easy to check by hand: a token of output costs 100 msat, a thousand times what a token of input does.
OLLAMA_PRICES = {
    "provider": "ollama",
    "models": [
        {
            "model": "llama3.2",
            "prices": [
                {
                    "from_date": "2026-01-01",
                    "source": "https://example.com/pricing",
                    "checked": "2026-11-22",
                    "input_usd_per_mtok": "0.1",
                    "output_usd_per_mtok": "100",
                }
            ],
        }
    ],
}


def body(text: str = "Tell me what a toll booth is for.", **members: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **members}


def until(condition: Callable[[], object], seconds: float = 15.0, *, what: str = "the condition") -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Parts:
    """The simulated parts."""

    upstream_url: str
    wallet_url: str
    lnd: dict[str, str]


@contextmanager
def running_parts(directory: Path) -> Iterator[Parts]:
    """Upstream, node and wallet in one process, which ends when its standard input closes."""
    directory.mkdir(parents=True, exist_ok=True)
    ready = directory / "parts.json"
    command = [
        sys.executable,
        "-m",
        "gateway.simulators.parts",
        "--data-dir",
        str(directory),
        "--ready-file",
        str(ready),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            until(lambda: ready.exists() or process.poll() is not None, READY_S, what="the simulated parts")
            yield msgspec.json.decode(ready.read_bytes(), type=Parts)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            ended(process)


def ended(process: subprocess.Popen[bytes], seconds: float = 15.0) -> None:
    """Wait for an end that was asked for, and force it."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Stack:
    """A gateway over the parts. `http` speaks to it."""

    base_url: str
    parts: Parts
    config: Path
    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path
    command: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        return int(self.base_url.rpartition(":")[2])

    def buy(self, sats: int) -> str:
        """A credential, `<macaroon>:<preimage>`, worth so many sats."""
        answer = self.http.get("/v1/models", headers={"farebox-deposit": str(sats)})
        assert answer.status_code == 402, answer.text
        offer = answer.json()
        assert offer["creditSats"] == sats
        return f"{offer['macaroon']}:{self.pay(offer['invoice'])}"

    def pay(self, invoice: str) -> str:
        """The preimage, from the agent's wallet."""
        paid = httpx.post(f"{self.parts.wallet_url}/pay", json={"invoice": invoice}, timeout=30)
        assert paid.status_code == 200, paid.text
        return str(paid.json()["preimage"])

    def invoice(self, amount_msat: int) -> str:
        """An invoice of the agent's own wallet."""
        made = httpx.post(f"{self.parts.wallet_url}/invoice", json={"amount_msat": amount_msat}, timeout=30)
        return str(made.json()["invoice"])

    def balance(self, credential: str) -> dict[str, int]:
        """Credited, posted, held and available, in msat."""
        answer = self.http.get("/l402/balance", headers=proof(credential))
        assert answer.status_code == 200, answer.text
        members = answer.json()
        return {name: members[f"{name}_msat"] for name in ("credited", "posted", "held", "available")}

    def settled(self, credential: str, seconds: float = 15.0) -> dict[str, int]:
        """The balance once nothing is held, with what must always be so."""
        until(lambda: self.balance(credential)["held"] == 0, seconds, what="the end of all holds")
        balance = self.balance(credential)
        assert balance["available"] >= 0
        assert balance["credited"] == balance["available"] + balance["posted"] + balance["held"]
        return balance

    def record(self, request_id: str, credential: str) -> dict[str, Any]:
        """What `GET /api/requests/{id}` tells the payer."""
        answer = self.http.get(f"/api/requests/{request_id}", headers=proof(credential))
        assert answer.status_code == 200, answer.text
        members: dict[str, Any] = answer.json()
        return members

    def sim_log(self, request_id: str | None = None, *, after: int = 0) -> list[dict[str, Any]]:
        """What the upstream got and really sent."""
        asked = {"after": str(after)} | ({"request_id": request_id} if request_id else {})
        listed = httpx.get(f"{self.parts.upstream_url}/sim/log", params=asked, timeout=30).json()
        return listed if isinstance(listed, list) else list(listed["requests"])

    def sent(self, request_id: str) -> dict[str, Any]:
        """The one record of a request."""
        (record,) = self.sim_log(request_id)
        return record

    def kill(self) -> None:
        """SIGKILL to the gateway."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again, as it was."""
        self.process = _started(self.command, self.log)
        wait_ready(self)

    def farebox(self, *words: str) -> tuple[int, str]:
        """A command of the operator's, with this gateway's configuration."""
        command = [sys.executable, "-m", "gateway", *words, "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        return done.returncode, done.stdout + done.stderr

    def check_books(self) -> None:
        """Every invariant of the ledger, by the operator's own command; and nothing went wrong that nobody expected."""
        code, text = self.farebox("reconcile")
        assert code == 0, text
        assert "Traceback" not in self.log.read_text(), self.log


def proof(credential: str) -> dict[str, str]:
    """The header that shows a credential."""
    return {"authorization": f"L402 {credential}"}


@contextmanager
def start_stack(
    directory: Path,
    parts: Parts,
    *,
    workers: int = 1,
    policies: Mapping[str, Any] | None = None,
    upstream: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Iterator[Stack]:
    """A gateway of its own. `policies`: sections of `limits.yaml`; `upstream`: keys of every upstream; others: sections
    of the configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump(_config(directory, parts, policies or {}, upstream or {}, overrides)))
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", str(port)]
    command += ["--ends-with", str(os.getpid())]
    command += ["--workers", str(workers)]
    log = directory / "gateway.log"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        stack = Stack(str(http.base_url).rstrip("/"), parts, config, http, _started(command, log), log, command)
        try:
            wait_ready(stack)
            yield stack
        finally:
            stack.process.terminate()
            ended(stack.process)


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def wait_ready(stack: Stack) -> None:
    """Until it can serve."""

    def ready() -> bool:
        assert stack.process.poll() is None, stack.log.read_text()
        try:
            return stack.http.get("/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    until(ready, READY_S, what=f"the gateway ({stack.log})")


def _config(
    directory: Path,
    parts: Parts,
    policies: Mapping[str, Any],
    upstream: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """What an operator would write. Short times, so that what is lost shows soon; high limits of challenges, because
    all tests come from one address."""
    upstreams: dict[str, dict[str, Any]] = {
        "openai": {"dialect": "openai", "base_url": f"{parts.upstream_url}/openai/v1", "api_key": "sk-upstream-key"},
        "anthropic": {
            "dialect": "anthropic",
            "base_url": f"{parts.upstream_url}/anthropic",
            "api_key": "sk-ant-upstream",
        },
        "gemini": {"dialect": "gemini", "base_url": f"{parts.upstream_url}/gemini", "api_key": "gemini-upstream"},
        "ollama": {"dialect": "ollama", "base_url": f"{parts.upstream_url}/ollama", "provider": "ollama"},
        "tools": {"dialect": "raw", "base_url": f"{parts.upstream_url}/raw"},
    }
    for settings in upstreams.values():
        settings.update(upstream)
    flat = {"path": "/raw/*", "methods": ["GET", "POST"], "upstream": "tools", "price": {"usd_per_call": "0.001"}}
    limits = {"challenges_per_minute": 100_000, "open_invoices_per_address": 10_000, "open_invoices_per_prefix": 20_000,
              "open_invoices_most": 100_000, "grace_s": 1.0}  # fmt: skip
    config: dict[str, Any] = {
        "data_dir": str(directory / "data"),
        "policies_dir": str(_policies(directory / "policies", policies)),
        "upstreams": upstreams,
        "routes": [flat],
        "lightning": {"lnd": parts.lnd},
        "rates": {"fixed_usd_per_btc": "100000"},
        "limits": limits | dict(overrides.get("limits", {})),
    }
    return config | {name: value for name, value in overrides.items() if name != "limits"}


def _policies(directory: Path, sections: Mapping[str, Any]) -> Path:
    (directory / "prices").mkdir(parents=True, exist_ok=True)
    hold = {"checkpoint_interval_s": 0.5, "hold_lifetime_s": 6.0}
    limits = {**sections, "hold": hold | dict(sections.get("hold", {}))}
    (directory / "limits.yaml").write_text(yaml.safe_dump(limits))
    (directory / "prices" / "ollama.yaml").write_text(yaml.safe_dump(OLLAMA_PRICES))
    return directory


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of a supervisor's workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"--worker-fd" in Path(f"/proc/{child}/cmdline").read_bytes()]


def kill_process(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)
