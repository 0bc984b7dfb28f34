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
# Whose prices apply at a host, as an operator would configure it. Hosts that are not here have no provider in the price
# book.
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
_ENDINGS = {
    ".openai.azure.com": "azure",
    "aiplatform.googleapis.com": "google",
    ".api.aws": "aws",
    ".amazonaws.com": "aws",
}


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


def by_hand(reported: dict[str, Any]) -> tuple[int, ...]:
    """The plainest reading of a usage object of any dialect, written apart from the one under test."""

    def of(owner: Any, *names: str) -> int:
        return next((owner[name] for name in names if isinstance(owner, dict) and owner.get(name)), 0)

    def spoken(name: str) -> int:
        return sum(item["tokenCount"] for item in reported.get(name) or [] if item["modality"] == "AUDIO")

    if "promptTokenCount" in reported:
        output = of(reported, "candidatesTokenCount") + of(reported, "thoughtsTokenCount")
        inputs = of(reported, "promptTokenCount") + of(reported, "toolUsePromptTokenCount")
        cached = of(reported, "cachedContentTokenCount")
        audio = (spoken("promptTokensDetails"), spoken("cacheTokensDetails"), spoken("candidatesTokensDetails"))
        return inputs, cached, 0, output, *audio
    inputs, output = of(reported, "prompt_tokens", "input_tokens"), of(reported, "completion_tokens", "output_tokens")
    before = reported.get("prompt_tokens_details") or reported.get("input_tokens_details")
    after = reported.get("completion_tokens_details") or reported.get("output_tokens_details")
    read, written = of(reported, "cache_read_input_tokens"), of(reported, "cache_creation_input_tokens")
    cached = of(before, "cached_tokens") or of(reported, "num_cached_tokens", "cached_tokens") or read
    written = of(before, "cache_write_tokens") or written
    if "cache_read_input_tokens" in reported:
        inputs += read + written
    return inputs, cached, written, output, of(before, "audio_tokens"), 0, of(after, "audio_tokens")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The one line, where tests that read recordings ran without them."""
    if os.environ.get(FOLDER):
        return
    reports = [report for many in terminalreporter.stats.values() for report in many]
    if any("_recordings.py" in getattr(report, "nodeid", "") for report in reports):
        terminalreporter.write_line(_LEFT_OUT)
