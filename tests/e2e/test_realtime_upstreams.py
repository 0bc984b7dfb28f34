"""Realtime sessions with an upstream that does as each test says: it speaks unasked, ends, floods, or stands still."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from e2e.stack import Parts, Stack, start_stack, until, workers_of
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.typing import Subprotocol

MIB = 1024 * 1024
# Of gpt-realtime, at 100,000 USD a BTC, in msat: text in, sound in, text out, sound out.
TEXT_IN, AUDIO_IN, TEXT_OUT, AUDIO_OUT = 4, 32, 16, 64
SECOND = base64.b64encode(bytes(48_000)).decode()
APPEND = json.dumps({"type": "input_audio_buffer.append", "audio": SECOND})
Script = Callable[[ServerConnection], Awaitable[None]]


class Actor:
    """A WebSocket server on a thread of its own. `script` is what it does with the next connection; `gone` tells that the
    script was broken off by the other side's end."""

    def __init__(self) -> None:
        self.script: Script = silent
        self.url = ""
        self.headers: dict[str, str] = {}
        self.refuses = False
        self.gone = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.ready = threading.Event()

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        subprotocols = [Subprotocol("realtime")]
        async with serve(
            self._play,
            "127.0.0.1",
            0,
            subprotocols=subprotocols,
            select_subprotocol=_first,
            process_request=self._admit,
            max_size=None,
        ) as server:
            self.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            self.ready.set()
            await self._stop.wait()

    def _admit(self, connection: ServerConnection, _request: Any) -> Response | None:
        return connection.respond(HTTPStatus.UNAUTHORIZED, "no such key") if self.refuses else None

    async def _play(self, connection: ServerConnection) -> None:
        self.gone.clear()
        if connection.request is not None:
            self.headers = {name.lower(): value for name, value in connection.request.headers.raw_items()}
        try:
            await self.script(connection)
        except ConnectionClosed:
            self.gone.set()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)


def _first(connection: ServerConnection, offered: Any) -> Subprotocol | None:
    return next(iter(offered), None)


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()
    raise ConnectionClosed(None, None)


async def tell(connection: ServerConnection, kind: str, **members: Any) -> None:
    await connection.send(json.dumps({"type": kind, "event_id": "e", **members}))


def usage(text_in: int, audio_in: int, text_out: int, audio_out: int) -> dict[str, Any]:
    return {
        "input_tokens": text_in + audio_in,
        "output_tokens": text_out + audio_out,
        "input_token_details": {"text_tokens": text_in, "audio_tokens": audio_in},
        "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
    }


@pytest.fixture(scope="module")
def actor() -> Iterator[Actor]:
    actor = Actor()
    thread = threading.Thread(target=actor.run, daemon=True)
    thread.start()
    assert actor.ready.wait(10)
    yield actor
    actor.stop()
    thread.join(10)


@pytest.fixture(scope="module")
def gateway(parts: Parts, actor: Actor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    upstreams = {"openai": {"dialect": "openai", "base_url": f"{actor.url}/v1", "api_key": "sk-upstream-key"}}
    with start_stack(tmp_path_factory.mktemp("realtime"), parts, upstreams=upstreams, routes=[]) as stack:
        yield stack


def session(gateway: Stack, credential: str, **options: Any) -> connect:
    url = f"{gateway.base_url.replace('http', 'ws', 1)}/v1/realtime?model=gpt-realtime"
    headers = {"authorization": f"Bearer {credential}"}
    return connect(url, additional_headers=headers, proxy=None, max_size=None, **options)


def request_id_of(socket: ClientConnection) -> str:
    assert socket.response is not None
    return socket.response.headers["farebox-request-id"]


async def read_to_end(socket: ClientConnection) -> tuple[list[dict[str, Any]], ConnectionClosed]:
    events: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(20):
            while True:
                events.append(json.loads(await socket.recv()))
    except ConnectionClosed as closed:
        return events, closed


async def test_a_spoken_turn_costs_sound_and_its_transcript(gateway: Stack, actor: Actor) -> None:
    async def script(connection: ServerConnection) -> None:
        await tell(
            connection, "session.created", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
        )
        await connection.recv()
        await tell(connection, "response.created", response={"id": "r1"})
        await tell(connection, "response.output_audio.delta", response_id="r1", delta=SECOND)
        await tell(
            connection,
            "conversation.item.input_audio_transcription.completed",
            transcript="hello",
            usage={"type": "duration", "seconds": 3},
        )
        await tell(connection, "response.done", response={"id": "r1", "usage": usage(10, 11, 5, 20)})
        await connection.close(1000, "bye")

    actor.script = script
    credential = gateway.buy(2_000)
    async with session(gateway, credential) as socket:
        await socket.send(APPEND)
        events, closed = await read_to_end(socket)
    assert [event["type"] for event in events][-1] == "response.done"
    assert closed.rcvd is not None and (closed.rcvd.code, closed.rcvd.reason) == (1000, "bye")
    spoken = 10 * TEXT_IN + 11 * AUDIO_IN + 5 * TEXT_OUT + 20 * AUDIO_OUT
    # A second heard by whisper-1 costs 0.0001 USD, which is 100 msat.
    assert gateway.settled(credential)["posted"] == spoken + 3 * 100
    record = gateway.record(request_id_of(socket), credential)
    assert record["usage"]["output_audio_tokens"] == 20 and record["usage"]["audio_ms"] == 3_000
    assert actor.headers["authorization"] == "Bearer sk-upstream-key"


async def test_frames_pass_as_they_are_and_the_subprotocol_is_the_upstreams(gateway: Stack, actor: Actor) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for frame in connection:
            await connection.send(frame)

    actor.script = echo
    odd: list[str | bytes] = ['{"a" : 1,\t"a":2}', "not json \u00e9\U0001f600", b"\x00\xff\xfe", "", "x" * (6 * MIB)]
    async with session(gateway, gateway.buy(1_000), subprotocols=["realtime", "openai-beta.realtime-v1"]) as socket:
        for frame in odd:
            await socket.send(frame)
            assert await socket.recv() == frame
    assert socket.subprotocol == "realtime"


async def test_a_frame_above_the_limit_ends_the_session(gateway: Stack, actor: Actor) -> None:
    actor.script = silent
    credential = gateway.buy(1_000)
    async with session(gateway, credential) as socket:
        with suppress(ConnectionClosed):
            await socket.send("x" * (16 * MIB + 1))
        _, closed = await read_to_end(socket)
    assert closed.rcvd is not None and closed.rcvd.code == 1009
    assert (await asyncio.to_thread(gateway.settled, credential))["posted"] == 0
    assert await asyncio.to_thread(actor.gone.wait, 10)


async def test_a_response_that_nobody_asked_for_and_the_credit_cannot_pay_is_cut(gateway: Stack, actor: Actor) -> None:
    async def script(connection: ServerConnection) -> None:
        for number in range(10):
            await tell(connection, "response.created", response={"id": f"r{number}"})
            await tell(connection, "response.output_text.delta", response_id=f"r{number}", delta="some words")
        await silent(connection)

    actor.script = script
    credential = gateway.buy(280)
    async with session(gateway, credential) as socket:
        events, closed = await read_to_end(socket)
    assert sum(event["type"] == "response.created" for event in events) == 1
    assert events[-1]["type"] == "error" and events[-1]["error"]["code"] == "payment_required"
    assert closed.rcvd is not None and closed.rcvd.code == 1008
    assert await asyncio.to_thread(actor.gone.wait, 10)
    balance = await asyncio.to_thread(gateway.settled, credential)
    record = gateway.record(request_id_of(socket), credential)
    assert record["cut"] == "credit" and record["usage"]["output_tokens"] in {2, 3}
    assert 0 < balance["posted"] < 1_000


async def test_a_response_beyond_its_bound_is_cut_where_the_money_ends(gateway: Stack, actor: Actor) -> None:
    """The upstream does not keep to the limit that was asked for."""
    told = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal told
        await tell(connection, "response.created", response={"id": "r"})
        while True:
            await tell(connection, "response.output_audio.delta", response_id="r", delta=SECOND)
            told += 1

    actor.script = script
    credential = gateway.buy(500)
    async with session(gateway, credential) as socket:
        events, closed = await read_to_end(socket)
    seconds = sum(event["type"] == "response.output_audio.delta" for event in events)
    assert closed.rcvd is not None and closed.rcvd.code == 1008
    balance = await asyncio.to_thread(gateway.settled, credential)
    record = gateway.record(request_id_of(socket), credential)
    assert record["usage"]["output_audio_tokens"] == seconds * 20 and record["basis"] == "counted"
    assert seconds * 20 * AUDIO_OUT <= balance["posted"] <= 500_000
    assert record["shortfall"] == {"amount_msat": 0}
    assert told < seconds + 100


async def test_a_paid_response_ends_before_the_session_that_cannot_pay_another(gateway: Stack, actor: Actor) -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.recv()
        await tell(connection, "response.created", response={"id": "r"})
        await asyncio.sleep(0.3)  # the client asks for another meanwhile
        await tell(connection, "response.output_text.delta", response_id="r", delta="all of it")
        await tell(connection, "response.done", response={"id": "r", "usage": usage(5, 0, 3, 0)})
        await silent(connection)

    actor.script = script
    credential = gateway.buy(300)
    async with session(gateway, credential) as socket:
        await socket.send('{"type":"response.create"}')
        await socket.send('{"type":"response.create","event_id":"second"}')
        await socket.send('{"type":"response.create","event_id":"third"}')
        events, closed = await read_to_end(socket)
    kinds = [event["type"] for event in events]
    assert kinds.count("error") == 1 and kinds[-1] == "response.done"
    assert next(event for event in events if event["type"] == "error")["error"]["event_id"] == "second"
    assert closed.rcvd is not None and closed.rcvd.code == 1008
    assert (await asyncio.to_thread(gateway.settled, credential))["posted"] == 5 * TEXT_IN + 3 * TEXT_OUT


@pytest.mark.parametrize(("code", "told"), [(1001, 1001), (4321, 4321), (3000, 3000)])
async def test_the_upstreams_end_is_passed_on(gateway: Stack, actor: Actor, code: int, told: int) -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.close(code, "that is all")

    actor.script = script
    async with session(gateway, gateway.buy(1_000)) as socket:
        _, closed = await read_to_end(socket)
    assert closed.rcvd is not None and (closed.rcvd.code, closed.rcvd.reason) == (told, "that is all")


async def test_an_upstream_that_breaks_off_leaves_what_was_shown_charged(gateway: Stack, actor: Actor) -> None:
    async def script(connection: ServerConnection) -> None:
        await tell(connection, "response.created", response={"id": "r"})
        await tell(connection, "response.output_text.delta", response_id="r", delta="half an answer")
        connection.transport.close()

    actor.script = script
    credential = gateway.buy(1_000)
    async with session(gateway, credential) as socket:
        events, closed = await read_to_end(socket)
    assert len(events) == 2 and closed.rcvd is not None and closed.rcvd.code == 1011
    await asyncio.to_thread(gateway.settled, credential)
    record = gateway.record(request_id_of(socket), credential)
    assert record["usage"]["output_tokens"] in {3, 4} and record["basis"] == "counted"


async def test_an_upstream_that_refuses_the_upgrade_is_502_and_costs_nothing(gateway: Stack, actor: Actor) -> None:
    actor.refuses = True
    credential = gateway.buy(1_000)
    try:
        with pytest.raises(InvalidStatus) as refused:
            async with session(gateway, credential):
                pass
    finally:
        actor.refuses = False
    assert refused.value.response.status_code == 502
    assert json.loads(bytes(refused.value.response.body or b""))["code"] == "upstream_failed"
    assert gateway.settled(credential)["posted"] == 0


async def test_a_client_that_reads_nothing_stops_the_upstream_and_not_the_memory(gateway: Stack, actor: Actor) -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while True:
            await connection.send("y" * MIB)
            sent += 1

    actor.script = flood
    before = memory_mib(gateway)
    async with session(gateway, gateway.buy(1_000), max_queue=1, compression=None) as socket:
        await socket.recv()
        before_sent = -1
        while sent != before_sent:  # until the upstream stands still
            before_sent = sent
            await asyncio.sleep(0.3)
        assert sent < 64
        assert memory_mib(gateway) - before < 40
        for _ in range(sent + 20):
            await socket.recv()
    assert await asyncio.to_thread(actor.gone.wait, 10)


def memory_mib(gateway: Stack) -> float:
    pid = (workers_of(gateway.process) or [gateway.process.pid])[0]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def test_a_session_ends_with_the_gateway_and_is_settled(parts: Parts, actor: Actor, tmp_path: Path) -> None:
    async def script(connection: ServerConnection) -> None:
        await tell(connection, "response.created", response={"id": "r"})
        await tell(connection, "response.output_text.delta", response_id="r", delta="one two")
        await silent(connection)

    actor.script = script
    upstreams = {"openai": {"dialect": "openai", "base_url": f"{actor.url}/v1", "api_key": "sk-upstream-key"}}
    with start_stack(tmp_path, parts, upstreams=upstreams, routes=[]) as stack:
        credential = await asyncio.to_thread(stack.buy, 1_000)
        async with session(stack, credential) as socket:
            await socket.recv()
            await socket.recv()
            stack.process.terminate()
            _, closed = await read_to_end(socket)
        assert closed.rcvd is not None and closed.rcvd.code in {1001, 1012}
        await asyncio.to_thread(stack.process.wait, 20)
        await asyncio.to_thread(stack.restart)
        until(lambda: stack.record(request_id_of(socket), credential)["state"] == "posted", what="the posting")
        assert stack.record(request_id_of(socket), credential)["usage"]["output_tokens"] == 2
