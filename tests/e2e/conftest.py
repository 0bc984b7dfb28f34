"""One set of simulated parts and one gateway for the whole session; tests that break things start gateways of their
own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.stack import Parts, Stack, running_parts, start_stack, workers_of


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with running_parts(tmp_path_factory.mktemp("parts")) as running:
        yield running


@pytest.fixture(scope="session")
def stack(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("gateway"), parts) as running:
        yield running
        running.check_books()


@pytest.fixture(scope="session")
def pair(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with start_stack(tmp_path_factory.mktemp("pair"), parts, workers=2) as running:
        assert len(workers_of(running.process)) == 2
        yield running
        running.check_books()


@pytest.fixture(params=["one_worker", "two_workers"])
def gateway(request: pytest.FixtureRequest) -> Stack:
    running: Stack = request.getfixturevalue("stack" if request.param == "one_worker" else "pair")
    return running
