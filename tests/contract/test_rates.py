"""BTC/USD from real HTTP servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from gateway.adapters.rates import Feed, FeedRates, FixedRate
from gateway.core.money import Rate


@dataclass
class FeedServer:
    """A tiny HTTP server whose answer can be changed while it runs."""

    body: str = '{"data": {"amount": "60000.00"}}'
    status: int = 200
    delay_s: float = 0.0
    asked: int = 0
    port: int = 0
    _server: asyncio.Server | None = field(default=None, repr=False)
    _serving: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._answer(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await asyncio.sleep(self.delay_s)
            body = self.body.encode()
            head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def feed(self, path: str = "data.amount") -> Feed:
        return Feed(f"http://127.0.0.1:{self.port}/btc", path)


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def servers() -> AsyncIterator[list[FeedServer]]:
    three = [FeedServer() for _ in range(3)]
    for server in three:
        await server.start()
    yield three
    for server in three:
        await server.stop()


Make = Callable[..., Awaitable[FeedRates]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[FeedRates] = []

    async def start(feeds: list[Feed], **changes: object) -> FeedRates:
        terms: dict[str, object] = {"stale_s": 60, "refresh_s": 3_600, "timeout_s": 2.0, "spread_ppm": 0}
        rates = FeedRates(feeds, **{**terms, **changes})  # type: ignore[arg-type]
        made.append(rates)
        await rates.start()
        return rates

    yield start
    for rates in made:
        await rates.close()


async def test_the_rate_is_the_median_of_the_feeds(servers: list[FeedServer], make: Make) -> None:
    for server, amount in zip(servers, ("61000", "59000.5", "1000000"), strict=True):
        server.body = f'{{"data": {{"amount": "{amount}"}}}}'
    rates = await make([server.feed() for server in servers])
    assert rates.current() == Rate(61_000_000_000)


async def test_of_two_feeds_the_rate_is_the_middle(servers: list[FeedServer], make: Make) -> None:
    servers[0].body, servers[1].body = '{"data": {"amount": 60000}}', '{"data": {"amount": 60001.000001}}'
    rates = await make([server.feed() for server in servers[:2]])
    assert rates.current() == Rate(60_000_500_000)


async def test_the_spread_lowers_what_a_bitcoin_buys(servers: list[FeedServer], make: Make) -> None:
    rates = await make([servers[0].feed()], spread_ppm=10_000)
    assert rates.current() == Rate(59_400_000_000)


@pytest.mark.parametrize(
    ("body", "path", "microusd"),
    [
        ('{"data": {"amount": "67123.4567891"}}', "data.amount", 67_123_456_789),
        ('{"result": {"XXBTZUSD": {"c": ["67123.10000", "0.5"]}}}', "result.XXBTZUSD.c.0", 67_123_100_000),
        ('[{"last": 67123.3}]', "0.last", 67_123_300_000),
        ('{"usd": 6.71233e4}', "usd", 67_123_300_000),
        # 0.1 + 0.2 of a float would be one microusd off somewhere; this has more digits than a float keeps.
        ('{"usd": 999999999.9999991}', "usd", 999_999_999_999_999),
        ('{"usd": 4503599.627371}', "usd", 4_503_599_627_371),
    ],
)
async def test_decimals_are_read_exactly(
    servers: list[FeedServer], make: Make, body: str, path: str, microusd: int
) -> None:
    servers[0].body = body
    assert (await make([servers[0].feed(path)])).current() == Rate(microusd)


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "",
        "[]",
        "[" * 100_000,
        '{"data": {}}',
        '{"data": {"amount": null}}',
        '{"data": {"amount": true}}',
        '{"data": {"amount": {"usd": 1}}}',
        '{"data": {"amount": "67,123.45"}}',
        '{"data": {"amount": "NaN"}}',
        '{"data": {"amount": NaN}}',
        '{"data": {"amount": "Infinity"}}',
        '{"data": {"amount": 0}}',
        '{"data": {"amount": -60000}}',
        '{"data": {"amount": 6000000000000}}',
        '{"data": {"amount": 0.0000166}}',
        " " * 1_000_001 + '{"data": {"amount": 60000}}',
    ],
    ids=lambda body: body[:40],
)
async def test_an_answer_that_is_no_price_counts_as_none(servers: list[FeedServer], make: Make, body: str) -> None:
    servers[0].body = body
    assert (await make([servers[0].feed()])).current() is None


async def test_without_a_majority_of_the_feeds_there_is_no_rate(servers: list[FeedServer], make: Make) -> None:
    servers[0].status, servers[1].body = 500, "down"
    rates = await make([server.feed() for server in servers])
    assert rates.current() is None
    servers[0].status = 200
    await rates.refresh()
    assert rates.current() == Rate(60_000_000_000)


async def test_a_redirect_is_no_answer(servers: list[FeedServer], make: Make) -> None:
    servers[0].status = 301
    assert (await make([servers[0].feed()])).current() is None


async def test_an_answer_grows_stale(servers: list[FeedServer], make: Make) -> None:
    clock = Clock()
    rates = await make([servers[0].feed()], clock_s=clock, stale_s=60)
    await servers[0].stop()
    clock.now_s += 60
    await rates.refresh()
    assert rates.current() == Rate(60_000_000_000)
    clock.now_s += 1
    assert rates.current() is None


async def test_a_slow_feed_holds_nobody_up(servers: list[FeedServer], make: Make) -> None:
    servers[2].delay_s = 60
    async with asyncio.timeout(3):
        rates = await make([server.feed() for server in servers], timeout_s=0.3)
    assert rates.current() == Rate(60_000_000_000)


async def test_the_feeds_are_asked_again_in_the_background(servers: list[FeedServer], make: Make) -> None:
    rates = await make([servers[0].feed()], refresh_s=0.01)
    servers[0].body = '{"data": {"amount": 50000}}'
    async with asyncio.timeout(5):
        while rates.current() != Rate(50_000_000_000):
            await asyncio.sleep(0.01)
    assert servers[0].asked >= 2


async def test_a_feed_that_nobody_serves_gives_no_rate(make: Make) -> None:
    for url in ("http://127.0.0.1:1/", "http://[bad", "nothing"):
        assert (await make([Feed(url, "usd")])).current() is None


async def test_the_log_tells_once_that_a_feed_fails(
    servers: list[FeedServer], make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    servers[0].status = 503
    rates = await make([servers[0].feed()])
    await rates.refresh()
    assert [record.message.partition(" fails: ")[2] for record in caplog.records] == ["status 503"]
    servers[0].status = 200
    await rates.refresh()
    assert "answers again" in caplog.records[-1].message


def test_a_fixed_rate_stays() -> None:
    assert FixedRate(60_000_000_000).current() == Rate(60_000_000_000)
