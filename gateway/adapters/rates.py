"""What a bitcoin buys: BTC/USD, fixed or as the median of feeds over HTTP.

Rules:
* Without enough fresh answers there is no rate: a gateway that sells at yesterday's price is bought empty. `current`
  never waits.
* The median of what a majority of the feeds say, so that one feed that is wrong, or bought, moves nothing.
* Decimals are read exactly, never through a float; rounding goes down, and the spread lowers what a bitcoin buys.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import httpx

from gateway.core.money import Rate

_log = logging.getLogger(__name__)

_PPM = 1_000_000
_MICROUSD = 1_000_000
# A price outside of this is a feed that changed its units, not a market.
_LEAST_USD, _MOST_USD = Decimal(1), Decimal(10**9)
# A ticker's answer has some hundred bytes; a feed that sends more is not read to its end.
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Feed:
    """A JSON answer over HTTP, and the way through it to USD per BTC, e.g. `data.amount` or `result.0.last`."""

    url: str
    path: str


@dataclass(frozen=True, slots=True)
class _Answer:
    microusd: int
    at_s: float


class _BadAnswer(Exception):
    """A feed answered, but not with a price."""


class FixedRate:
    """A rate that the operator set."""

    def __init__(self, microusd_per_btc: int) -> None:
        self._rate = Rate(microusd_per_btc)

    def current(self) -> Rate | None:
        """Always the same."""
        return self._rate

    async def start(self) -> None:
        """Nothing to wait for."""

    async def close(self) -> None:
        """Nothing to end."""


class FeedRates:
    """The median of feeds, asked again every `refresh_s` in the background.

    `quorum`: how many fresh answers make a rate; by default more than half of the feeds.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        *,
        stale_s: float,
        refresh_s: float,
        timeout_s: float,
        spread_ppm: int,
        quorum: int | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feeds = tuple(feeds)
        self._stale_s = stale_s
        self._refresh_s = refresh_s
        self._timeout_s = timeout_s
        self._spread_ppm = spread_ppm
        self._quorum = quorum or len(self._feeds) // 2 + 1
        self._clock_s = clock_s
        self._answers: dict[Feed, _Answer] = {}
        self._failing: set[Feed] = set()
        self._client: httpx.AsyncClient | None = None
        self._task: asyncio.Task[None] | None = None

    def current(self) -> Rate | None:
        """The rate for the next challenge, or None when fewer feeds than the quorum have answered lately."""
        oldest_s = self._clock_s() - self._stale_s
        fresh = sorted(answer.microusd for answer in self._answers.values() if answer.at_s >= oldest_s)
        if len(fresh) < self._quorum:
            return None
        middle = len(fresh) // 2
        median = fresh[middle] if len(fresh) % 2 else (fresh[middle - 1] + fresh[middle]) // 2
        return Rate(median * (_PPM - self._spread_ppm) // _PPM)

    async def start(self) -> None:
        """Ask every feed once, at most `timeout_s`, then go on in the background."""
        self._client = httpx.AsyncClient(timeout=self._timeout_s, headers={"accept": "application/json"})
        await self.refresh()
        self._task = asyncio.create_task(self._refresh_for_ever())

    async def close(self) -> None:
        """End the background work."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def refresh(self) -> None:
        """Ask every feed now, all at once. A feed that fails keeps its last answer until that is stale."""
        await asyncio.gather(*(self._ask(feed) for feed in self._feeds))

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            await self.refresh()

    async def _ask(self, feed: Feed) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                content = await self._fetch(feed.url)
            answer = _Answer(microusd_in(content, feed.path), self._clock_s())
        except Exception as error:  # noqa: BLE001
            # Whatever one feed does must not end the others' refresh. Said once when it begins, not every time.
            if feed not in self._failing:
                _log.warning("the rate feed %s fails: %s", feed.url, error or type(error).__name__)
            self._failing.add(feed)
            return
        if feed in self._failing:
            self._failing.discard(feed)
            _log.warning("the rate feed %s answers again", feed.url)
        self._answers[feed] = answer

    async def _fetch(self, url: str) -> bytes:
        assert self._client is not None
        content = bytearray()
        async with self._client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                message = f"status {response.status_code}"
                raise _BadAnswer(message)
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MOST_BYTES:
                    message = f"more than {_MOST_BYTES} bytes"
                    raise _BadAnswer(message)
        return bytes(content)


def microusd_in(content: bytes, path: str) -> int:
    """The price in a feed's answer, in microusd, rounded down. Errors: _BadAnswer with the reason."""
    try:
        value: Any = json.loads(content, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as error:
        message = "not JSON"
        raise _BadAnswer(message) from error
    for step in path.split("."):
        value = _step(value, step, path)
    if not isinstance(value, str | Decimal):
        message = f"no number at {path}"
        raise _BadAnswer(message)
    return _microusd(value, path)


def _step(value: Any, step: str, path: str) -> Any:
    match value:
        case dict() if step in value:
            return value[step]
        case list() if step.isdecimal() and int(step) < len(value):
            return value[int(step)]
    message = f"nothing at {path}"
    raise _BadAnswer(message)


def _microusd(value: str | Decimal, path: str) -> int:
    try:
        usd = Decimal(value)
    except InvalidOperation as error:
        message = f"no number at {path}"
        raise _BadAnswer(message) from error
    # A comparison with NaN would raise, hence this first.
    if not usd.is_finite() or not _LEAST_USD <= usd <= _MOST_USD:
        message = f"no price of a bitcoin at {path}"
        raise _BadAnswer(message)
    return int(usd * _MICROUSD)
