"""The two sides of a metered stream, as it sees them: the upstream that brings, the client that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.ports import STALLED


def why_broken(failure: str | None) -> str:
    """The one word for an answer that its upstream did not bring to its end."""
    return "upstream_stalled" if failure == STALLED else "upstream_closed"


class Source(Protocol):
    """The upstream's side of a stream."""

    complete: bool
    failure: str | None

    def stream(self, sink: Callable[[bytes], None], ended: Callable[[], None]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Sink(Protocol):
    """The client's side of a stream."""

    gone: bool
    blocked_since: float | None

    def write(self, data: bytes) -> bool: ...
    def cut_off(self) -> None: ...
