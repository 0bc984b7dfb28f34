"""What one dialect's events mean: the two things that a reader asks of it.

A `Grammar` says which bytes make an event worth reading at once (it may carry usage, an error or the end) and what
such an event says. A `Tally` takes events later, when somebody asks: it counts their text and knows what a clean
end still needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from gateway.core.answers.figures import Members
from gateway.core.answers.visible import VisibleText
from gateway.core.metering import TextCounter
from gateway.core.usage import Usage

# An event that is longer is passed on while it arrives, and not read.
MOST_EVENT_BYTES = 1024 * 1024
# Events of these dialects can hold whole images or the whole answer.
MOST_LARGE_EVENT_BYTES = 16 * 1024 * 1024


class Sign(NamedTuple):
    """What an event says to the relay. `final`: the usage is the last word on the output too. `running`: it is the
    exact figure up to this event. `strip`: the event exists only because we asked for usage, and does not go
    out."""

    usage: Usage | None = None
    final: bool = False
    running: bool = False
    error: bool = False
    end: bool = False
    strip: bool = False
    model: str | None = None


NOTHING = Sign()


class Tally(ABC):
    """What a stream brought, by the events taken so far."""

    def __init__(self, counter: TextCounter) -> None:
        self.text = VisibleText(counter)
        self.events = 0
        self.model: str | None = None
        self.finished = False

    @abstractmethod
    def take(self, payload: Members) -> None:
        """Read one more event."""

    def running(self) -> Usage | None:
        """The usage up to here, in dialects that tell it with every event and so need not be read at once."""
        return None

    def plain_text(self, payload: Members) -> tuple[Hashable, str] | None:
        """Channel and text of an event that, taken now, would do nothing but add this one text; None for any other."""
        return None

    @abstractmethod
    def closing(self, usage: Usage | None) -> bytes:
        """The events that end the stream here, with `usage` where the dialect reports it."""

    def copy(self) -> Self:
        """The same state, to go on from independently. Containers are replaced, never changed in place, by `take`, or
        copied by the subclass."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.text = self.text.copy()
        return twin


@dataclass(frozen=True, slots=True)
class Grammar:
    """One dialect's events. `markers`: an event without any of these bytes carries neither usage nor error nor end;
    each contains an unescaped quotation mark (or cannot matter), so text inside a JSON string rarely shows it and
    the event is judged by its structure anyway."""

    markers: tuple[bytes, ...]
    read: Callable[[Members | None, bytes, Usage | None], Sign]  # payload, event, usage so far
    tally: Callable[[TextCounter], Tally]
    most_event_bytes: int = MOST_EVENT_BYTES
    usage_on_request: bool = False  # a stream tells its usage only to clients that ask
    closes_on_eof: bool = False  # the end of the upstream's bytes is the end of the answer (no last event)


def index_of(owner: Any) -> int:
    """The `index` member, 0 where it is missing."""
    value = owner.get("index") if isinstance(owner, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
