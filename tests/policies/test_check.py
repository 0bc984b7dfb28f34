"""`farebox check` says what will be served and at which price, and fails on any doubt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.__main__ import main

TOP = Path(__file__).resolve().parents[2]
GOOD = """
upstreams:
  openai: {dialect: openai, base_url: "https://api.openai.com", api_key: k}
  local: {dialect: ollama, base_url: "http://localhost:11434", provider: openai}
  search: {dialect: raw, base_url: "http://localhost:9"}
routes:
  - {path: /search/query, upstream: search, price: {usd_per_call: "0.001"}}
"""


def check(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    file = tmp_path / "farebox.yaml"
    file.write_text(text)
    code = main(["check", "--config", str(file)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_good_configuration_shows_routes_prices_and_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = check(tmp_path, GOOD, capsys)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["POST", "/v1/chat/completions", "*", "openai", "chat", "book:", "openai", "account,agent"] in lines
    assert ["POST", "/search/query", "*", "search", "raw", "$0.001", "a", "call", "account,agent"] in lines
    assert ["*", "/local/*", "*", "local", "by", "its", "ending", "book:", "openai", "account,agent"] in lines
    assert any(line[:6] == ["openai", "gpt-4o-mini", "0.15", "0.075", "0.15", "0.6"] for line in lines)
    assert ["web_search", "all", "providers", "0.01"] in lines
    assert any(len(line) == 2 and line[0] == "policies" and len(line[1]) == 64 for line in lines)
    assert out.endswith("no doubts\n")


DOUBTS = [
    ("{}", "upstreams: there is none, so nothing can be served"),
    ("upstreams: {o: {dialect: ollama, base_url: 'http://h'}}",
     "upstreams.o.provider: missing, so no model of it has a price and all are refused"),
    ("upstreams: {o: {dialect: openai, base_url: 'https://api.groq.com/openai'}}",
     "upstreams.o.provider: missing; it is not api.openai.com, so say whose prices apply"),
    ("upstreams: {o: {dialect: openai, base_url: 'http://h', provider: acme}}",
     "upstreams.o.provider: 'acme' has no prices; providers are "),
    ("upstreams: {r: {dialect: raw, base_url: 'http://h'}}",
     "upstreams.r: no route leads to it, and a raw upstream has none out of the box"),
    (GOOD + "  - {path: /search/other, upstream: search, price: nobodys}\n",
     "routes[1].price: no rule is named 'nobodys' in prices/*.yaml; there are none"),
    (GOOD + "  - {path: /search/query, upstream: search, price: {usd_per_call: 1}}\n",
     "routes[1].path: POST /search/query is never reached, an earlier route takes it all"),
    (GOOD + "lightning: {lnd: {address: 'h:1', macaroon: abcd}}",
     "rates: neither fixed_usd_per_btc nor feeds, so no challenge can be made"),
    (GOOD + "lightning: {lnd: {address: 'h:1', macaroon: /not/there, tls_cert: /nor/this}}",
     "lightning.lnd.tls_cert: there is no file /nor/this"),
    (GOOD + "lightning: {lnd: {address: 'h:1', macaroon: /not/there}}",
     "lightning.lnd.macaroon: neither hex nor a file that exists"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "doubt"), DOUBTS, ids=[doubt.split(":")[0] for _, doubt in DOUBTS])
def test_a_doubt_is_told_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, doubt: str) -> None:
    code, out, err = check(tmp_path, text, capsys)
    assert code == 1
    assert any(line.startswith(f"farebox check: {doubt}") for line in err.splitlines()), err
    assert "doubts" in out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("worker: 2", "worker: unknown key; did you mean workers?"),
        ("policies_dir: /not/there", "policies_dir: /not/there has no limits.yaml; name the directory that has it"),
        ("upstreams: {r: {dialect: raw, base_url: 'http://h'}}\nroutes: [{path: /a, upstream: r}]",
         'routes[0].price: missing; a raw route needs {usd_per_call: "0.001"} or the name of a rule'),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    code, _, err = check(tmp_path, text, capsys)
    assert (code, err) == (2, f"farebox check: {problem}\n")


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_command_runs_and_lists_only_what_exists() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "gateway", "--help"], capture_output=True, text=True, cwd=TOP, check=True
    )
    assert "check" in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "gateway", "nothing"], capture_output=True, text=True, cwd=TOP, check=False
    )
    assert wrong.returncode == 2


def test_checking_imports_nothing_of_serving() -> None:
    code = "import sys; from gateway.__main__ import main; main(['check', '--config', '/none']); print('uvicorn' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, check=True)
    assert shown.stdout.strip() == "False"
