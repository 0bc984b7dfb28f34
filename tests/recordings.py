"""Exchanges with the real services, recorded elsewhere: FAREBOX_RECORDINGS names their folder. They are no part of the
project; a run without them says so in one line.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = "FAREBOX_RECORDINGS"
_LEFT_OUT = f"The recorded exchanges were left out: {FOLDER} does not name their folder."
# Whose prices apply at a host, as an operator would configure it. Hosts that are not here have no provider in the price book.
PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "openrouter.ai": "openrouter",
    "api.deepseek.com": "deepseek",
    "api.cerebras.ai": "cerebras",
    "api.x.ai": "x-ai",
    "api.cohere.com": "cohere",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.moonshot.ai": "moonshotai",
    "api.perplexity.ai": "perplexity",
    "api.z.ai": "zai",
    "ollama.com": "ollama",
    "localhost": "ollama",
}
_ENDINGS = {".openai.azure.com": "azure", "aiplatform.googleapis.com": "google", ".api.aws": "aws", ".amazonaws.com": "aws"}


def provider_of(host: str, path: str) -> str | None:
    """Whose prices apply to an exchange; None where the price book does not know the host."""
    if host == "router.huggingface.co":
        return f"huggingface_{path.split('/')[1]}"
    host = host.partition(":")[0]
    named = (provider for ending, provider in _ENDINGS.items() if host.endswith(ending))
    return PROVIDERS.get(host) or next(named, None)


def recordings() -> list[dict[str, Any]]:
    """All of them; none where no folder is named."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return []
    with gzip.open(Path(folder) / "exchanges.jsonl.gz") as lines:
        return [json.loads(line) for line in lines]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The one line, where tests that read recordings ran without them."""
    if os.environ.get(FOLDER):
        return
    reports = [report for many in terminalreporter.stats.values() for report in many]
    if any("_recordings.py" in getattr(report, "nodeid", "") for report in reports):
        terminalreporter.write_line(_LEFT_OUT)
