"""Fixtures that several kinds of test share: one real store a session, empty for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are imported one by one (import-mode=importlib); what they share stands beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from lnd.nodes import pytest_terminal_summary, real_pair  # noqa: F401
from servers import flush, running_valkey


@pytest.fixture(scope="session")
def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
def valkey_url(valkey_port: int) -> str:
    flush(valkey_port)
    return f"redis://127.0.0.1:{valkey_port}/0"
