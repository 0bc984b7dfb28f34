"""One set of simulated parts for everything that is broken here; every test starts a gateway of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chaos.stepped import LEFT_OUT, faketime
from e2e.stack import Parts, running_parts

collect_ignore = [] if faketime() else ["test_clock_chaos.py"]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with running_parts(tmp_path_factory.mktemp("chaos_parts")) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One plain line where no clock can be stepped."""
    if faketime() is None:
        terminalreporter.write_line(LEFT_OUT)
