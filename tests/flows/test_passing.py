"""Large answers between a scripted upstream and a scripted client: what was done is told to its end, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.core.headers import Headers
from gateway.flows import passing
from gateway.flows.passing import pass_through


class Answer:
    """An upstream's answer, piece by piece."""

    status = 200
    failure: str | None = None

    def __init__(self) -> None:
        self.headers: Headers = []
        self.complete = self.aborted = self.paused = False
        self._sink: Callable[[bytes], None] = lambda _: None
        self._ended: Callable[[], None] = lambda: None

    async def read_up_to(self, limit_bytes: int) -> bytes | None:
        raise AssertionError(limit_bytes)

    def stream(self, sink: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._sink, self._ended = sink, ended

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True

    def send(self, data: bytes) -> None:
        self._sink(data)

    def end(self) -> None:
        self.complete = True
        self._ended()


class Client:
    """Takes pieces, or does not."""

    def __init__(self) -> None:
        self.received = b""
        self.gone = self.released = False
        self.blocked_since: float | None = None
        self.hang_up: Callable[[], None] = lambda: None

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        raise AssertionError((status, headers, body))

    async def begin(
        self, status: int, headers: Headers, *, on_gone: Callable[[], None], on_drained: Callable[[], None]
    ) -> None:
        assert (status, headers, callable(on_drained)) == (200, [], True)
        self.hang_up = on_gone

    def write(self, data: bytes) -> bool:
        self.received += data
        return self.blocked_since is None

    async def finish(self, data: bytes = b"") -> None:
        raise AssertionError(data)

    def cut_off(self) -> None:
        self.gone = True

    def release(self) -> None:
        self.released = True


async def begun(answer: Answer, client: Client, **settings: object) -> tuple[asyncio.Task[bool], list[bytes]]:
    seen: list[bytes] = []
    task = asyncio.ensure_future(
        pass_through(answer, client, [], also=seen.append, **{"stalled_reader_s": 60.0, **settings})  # type: ignore[arg-type]
    )
    await asyncio.sleep(0)
    return task, seen


async def test_an_answer_passes_as_it_comes_and_is_shown_on_the_way() -> None:
    answer, client = Answer(), Client()
    task, seen = await begun(answer, client)
    answer.send(b"one")
    answer.send(b"two")
    answer.end()
    assert await task and client.released
    assert (client.received, seen) == (b"onetwo", [b"one", b"two"])


async def test_an_answer_whose_end_tells_its_cost_is_read_to_it_although_the_client_has_gone() -> None:
    answer, client = Answer(), Client()
    task, seen = await begun(answer, client, drains=True)
    answer.send(b"picture")
    client.gone = True
    client.hang_up()
    answer.send(b"usage")
    answer.end()
    assert await task and not answer.aborted
    assert (client.received, seen) == (b"picture", [b"picture", b"usage"])


async def test_an_answer_with_a_price_of_its_own_ends_with_its_client() -> None:
    answer, client = Answer(), Client()
    task, _ = await begun(answer, client)
    client.gone = True
    client.hang_up()
    assert not await task
    assert answer.aborted


@pytest.mark.parametrize("drains", [False, True])
async def test_a_client_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch, drains: bool) -> None:
    monkeypatch.setattr(passing, "READER_CHECK_S", 0.01)
    answer, client = Answer(), Client()
    task, seen = await begun(answer, client, drains=drains, stalled_reader_s=0.02)
    client.blocked_since = asyncio.get_running_loop().time()
    answer.send(b"more than it takes")
    assert answer.paused
    while not client.gone:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0)
    assert answer.aborted is not drains
    if drains:
        assert not answer.paused
        answer.send(b"usage")
        answer.end()
    assert await task is drains
    assert seen[-1] == (b"usage" if drains else b"more than it takes")
