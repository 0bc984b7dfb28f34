"""An upstream that answers with what was recorded: the answer is chosen by a header that the relay forwards.

It answers as it was recorded and heeds nothing that the request says; what came is kept, so that a test can look at it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

ID_HEADER = "x-recording-id"
# Streams go out in pieces that cut events anywhere.
PIECE_BYTES = 700
_READY_S = 10


class Recorded(NamedTuple):
    """One answer."""

    status: int
    content_type: str
    body: bytes

    @property
    def streams(self) -> bool:
        """Whether it is sent piece by piece."""
        return "event-stream" in self.content_type or "ndjson" in self.content_type


class Came(NamedTuple):
    """One request as it arrived."""

    target: str
    body: bytes


@dataclass
class Replay:
    """A running replay server. `answers` may be changed while it runs."""

    answers: dict[str, Recorded]
    url: str = ""
    came: dict[str, Came] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request_line, *lines = head.rstrip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                identifier = headers.get(ID_HEADER, "")
                self.came[identifier] = Came(request_line.split(" ")[1], body)
                await _send(writer, self.answers[identifier])
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


async def _send(writer: asyncio.StreamWriter, answer: Recorded) -> None:
    head = f"HTTP/1.1 {answer.status} Recorded\r\ncontent-type: {answer.content_type}\r\n"
    if not answer.streams:
        writer.write(f"{head}content-length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
        return
    writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
    for at in range(0, len(answer.body), PIECE_BYTES):
        piece = answer.body[at : at + PIECE_BYTES]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")


@contextmanager
def running_replay(answers: Mapping[str, Recorded]) -> Iterator[Replay]:
    """A replay server in a thread of its own."""
    replay = Replay(dict(answers))
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    over: asyncio.Future[None] = loop.create_future()

    async def run() -> None:
        server = await asyncio.start_server(replay.serve, "127.0.0.1", 0)
        replay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await over
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(_READY_S)
        yield replay
    finally:
        loop.call_soon_threadsafe(over.set_result, None)
        thread.join(_READY_S)
        loop.close()
