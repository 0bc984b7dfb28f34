"""Fixtures that several kinds of test share: one real store a session, empty for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are imported one by one (import-mode=importlib); what they share stands beside this file.
sys.path.insert(0, str(Path(__file__).parent))

import recordings
from lnd import nodes
from lnd.nodes import real_pair  # noqa: F401
from servers import flush, running_valkey


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One plain line for each thing from outside that was not there."""
    nodes.pytest_terminal_summary(terminalreporter)
    recordings.pytest_terminal_summary(terminalreporter)


@pytest.fixture(scope="session")
def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
def valkey_url(valkey_port: int) -> str:
    flush(valkey_port)
    return f"redis://127.0.0.1:{valkey_port}/0"
