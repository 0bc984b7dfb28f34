"""A call that did not succeed at once: what was learnt on its way, how long it pauses, and how it fails.

Invariant: a call that may have happened is repeated only where repeating is harmless (a script is idempotent by its id,
a read changes nothing), and never fails as if it had not happened.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from gateway.adapters.redis.connection import Lost, RedisReplyError
from gateway.core.errors import OutcomeUnknown, Unavailable

# The first pause lets a loop turn pass, the last one is a tenth of the default timeout.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.2
# Commands that change nothing: an unknown outcome of theirs is none.
_READS = frozenset(
    (
        *("PING", "TIME", "INFO", "CONFIG", "MEMORY", "DBSIZE", "SCAN", "GET", "MGET", "EXISTS", "TYPE", "TTL", "PTTL"),
        *("HGET", "HMGET", "HGETALL", "HKEYS", "HLEN", "LRANGE", "LLEN", "LINDEX", "SMEMBERS", "SISMEMBER", "SCARD"),
        *("SSCAN", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE", "ZCARD", "ZCOUNT", "XRANGE", "XREVRANGE", "XLEN"),
    )
)


class Script(Protocol):
    """A Lua script with its digest."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def sha1(self) -> str: ...


@dataclass(slots=True)
class Call:
    """A call that goes the slow way, and what was learnt on it."""

    name: str
    packed: bytes
    key: bytes
    script: Script | None
    deadline_s: float  # of the loop's clock
    load: bool = False  # the server may not have the script
    asking: tuple[str, int] | None = None  # where a migrating slot's key may be
    redirects: int = 0
    repeats: int = 0
    unknown: Lost | None = None
    pause_s: float = _FIRST_PAUSE_S

    def next_pause_s(self) -> float:
        """Doubling, at random below it: ten thousand callers must not come back in the same millisecond."""
        pause_s = self.pause_s
        self.pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s * random.uniform(0.5, 1.0)

    def lost_again(self, lost: Lost) -> None:
        """The outcome is unknown: one repeat for a script, as many as there is time for a read, none for anything
        else."""
        if self.name in _READS:
            return
        self.unknown = lost
        if self.script is None or self.repeats:
            raise failure_of(lost) from lost
        self.repeats += 1


def failure_of(cause: Lost | RedisReplyError) -> Unavailable:
    """What the flows see. The reason stays in `__cause__`, for the log: it names servers, which is nobody's
    business."""
    if isinstance(cause, Lost) and cause.written:
        failure: Unavailable = OutcomeUnknown(
            "The store did not answer; whether the step was done is not known.", retry_after_s=1
        )
    else:
        failure = Unavailable("The store is not available.", retry_after_s=1)
    failure.__cause__ = cause
    return failure
