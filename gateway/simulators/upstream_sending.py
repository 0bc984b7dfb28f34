"""How the simulated upstream hands an answer to the socket: paced, in a burst, stalled, broken off.

Every piece is a write of its own unless a burst was asked for. A client that hangs up is noticed between two pieces,
also in the middle of a pause, and the record then tells how far the answer had come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

from starlette.types import Receive, Send

from gateway.simulators.upstream_log import Record
from gateway.simulators.upstream_orders import Answer, Piece, Ready, Wish

# An unpaced stream gives way this often, so that a million tokens do not starve the loop and hang-ups are noticed.
PIECES_A_TURN = 16


class Watch:
    """Watches `receive` for the hang-up while an answer goes out."""

    hang_up = "http.disconnect"

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive
        self._sleeper: asyncio.Future[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while (await self._receive())["type"] != self.hang_up:
            continue
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def pause(self, seconds: float | None) -> None:
        """Wait so long, or until the client has gone; None waits for that alone."""
        if self.gone:
            return
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        self._task.cancel()


async def send_answer(answer: Answer, wish: Wish, record: Record, receive: Receive, send: Send) -> None:
    """Send it as wished. Returns without completing the response where the fault is to break off: the server then
    closes the connection."""
    if answer.whole and not wish.delay_s and not wish.fault_at and wish.fault not in {"stall", "close"}:
        ready = answer.ready or _made_ready(answer)
        await send(ready.start)
        await send(ready.body)
        record.sent_whole(ready.length, ready.digest, answer.output_tokens)
        return
    watch = Watch(receive)
    try:
        await _send_watched(answer, wish, record, watch, send)
    except asyncio.CancelledError:
        record.cut()
        raise
    finally:
        watch.close()


async def _send_watched(answer: Answer, wish: Wish, record: Record, watch: Watch, send: Send) -> None:
    if wish.delay_s:
        await watch.pause(wish.delay_s)
        if watch.gone:
            record.cut()
            return
    pieces: Iterable[Piece] = answer.pieces
    length = None
    if answer.whole:
        body = b"".join(data for data, _ in answer.pieces)
        length = len(body)
        pieces = _divided(body, answer.output_tokens, wish)
    await send(_start(answer, length))
    fails = wish.fault in {"stall", "close"}
    if fails:
        pieces = _until(pieces, wish.fault_at)
    if wish.burst:
        gathered = list(pieces)
        pieces = [(b"".join(data for data, _ in gathered), sum(tokens for _, tokens in gathered))]
    await _send_pieces(pieces, 0.0 if answer.whole else wish.interval_s, record, watch, send)
    if watch.gone:
        record.cut()
    elif fails and wish.fault == "stall" and record.tokens_sent < answer.output_tokens:
        await watch.pause(None)
        record.cut()
    elif not (fails and record.tokens_sent < answer.output_tokens):
        await send({"type": "http.response.body", "body": b""})


async def _send_pieces(pieces: Iterable[Piece], interval_s: float, record: Record, watch: Watch, send: Send) -> None:
    for place, (data, tokens) in enumerate(pieces):
        if interval_s and tokens:
            await watch.pause(interval_s)
        elif place % PIECES_A_TURN == 0:
            await asyncio.sleep(0)
        if watch.gone:
            return
        await send({"type": "http.response.body", "body": data, "more_body": True})
        record.sent(data, tokens)


def _until(pieces: Iterable[Piece], tokens_most: int) -> Iterator[Piece]:
    """Pieces until so many tokens have gone out; all of them if there are fewer tokens."""
    sent = 0
    for data, tokens in pieces:
        if sent >= tokens_most and (tokens or tokens_most == 0):
            return
        sent += tokens
        yield data, tokens


def _divided(body: bytes, tokens: int, wish: Wish) -> list[Piece]:
    """A whole body in two pieces, where a fault is to strike in its middle."""
    if wish.fault not in {"stall", "close"} or wish.fault_at >= tokens:
        return [(body, tokens)]
    place = len(body) * wish.fault_at // tokens
    return [(body[:place], wish.fault_at), (body[place:], tokens - wish.fault_at)]


def _made_ready(answer: Answer) -> Ready:
    """A whole answer as messages, kept with it: short answers repeat."""
    body = b"".join(data for data, _ in answer.pieces)
    message = {"type": "http.response.body", "body": body}
    answer.ready = Ready(_start(answer, len(body)), message, len(body), sha256(body).hexdigest())
    return answer.ready


def _start(answer: Answer, length: int | None) -> dict[str, Any]:
    headers = [(b"content-type", answer.media_type), *answer.headers]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": answer.status, "headers": headers}
