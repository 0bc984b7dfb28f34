"""One set of simulated parts for everything that is broken here; every test starts a gateway of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.stack import Parts, running_parts


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with running_parts(tmp_path_factory.mktemp("chaos_parts")) as running:
        yield running
