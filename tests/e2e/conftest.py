"""One set of simulated parts and one gateway for the whole session; tests that break things start gateways of their
own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.stack import Parts, Stack, running_parts, start_stack


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with running_parts(tmp_path_factory.mktemp("parts")) as running:
        yield running


@pytest.fixture(scope="session")
def stack(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("gateway"), parts) as running:
        yield running
        running.check_books()
