"""A store whose clock can be stepped: libfaketime stands between the server and its machine's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.running import OwnStore
from e2e.stack import until
from redis import Redis

LEFT_OUT = "libfaketime is not installed: the tests that step a running store's clock were left out."
_PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/*.so.1",
)
# A server reads the clock once a turn of its loop.
_NOTICED_S = 5


def faketime() -> Path | None:
    """Where the library is, if it is."""
    found = [path for place in _PLACES for path in Path("/").glob(place[1:])]
    return found[0] if found else None


class SteppedStore(OwnStore):
    """`step` moves the clock against the machine's; monotonic time goes on as it does."""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "clock"
        directory.mkdir(parents=True, exist_ok=True)
        self._set(0)
        super().__init__(directory)

    def step(self, seconds: int) -> None:
        """Seconds from the machine's clock, and the server has noticed."""
        self._set(seconds)
        with Redis(host="127.0.0.1", port=self.port) as client:
            until(lambda: abs(client.time()[0] - time.time() - seconds) < _NOTICED_S, what="the step of the clock")

    def _set(self, seconds: int) -> None:
        beside = self._offset.with_suffix(".new")
        beside.write_text(f"{seconds:+d}\n")
        beside.rename(self._offset)

    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def stepped_store(directory: Path) -> Iterator[SteppedStore]:
    store = SteppedStore(directory)
    try:
        yield store
    finally:
        store.kill()
