"""An upstream that answers with fixed bytes, for measuring what stands in front of it.

The simulated upstream speaks every dialect and counts what it sends; that costs more than the gateways that are
compared. This one looks for one word in the request and writes: a raw protocol, a few microseconds a request. The word
stands in the body, because some gateways pass on neither path nor headers:

* `bench-json`: one JSON answer of about 600 bytes
* `bench-burst`: a stream of 203 chunks of 250 bytes, in one write
* `bench-paced-<ms>x<chunks>`: a stream of such chunks, one every so many milliseconds

`python -m gateway.simulators.fixed_upstream` prints its port and serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

CHUNK_BYTES = 250
BURST_CHUNKS = 203
END = b"data: [DONE]\n\n"
# A request of a benchmark has a few hundred bytes; whatever is longer was not meant for us.
GREATEST_REQUEST_BYTES = 65_536
_LONGEST_STREAM_CHUNKS = 100_000

_WORD = re.compile(rb"bench-(json|burst|paced-(\d{1,5})x(\d{1,6}))")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_INPUT_TOKENS = 70
_JSON_TOKENS = 90
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
)
_STREAM_END = b"0\r\n\r\n"
_NOT_OURS = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def _usage(output_tokens: int) -> bytes:
    total = _INPUT_TOKENS + output_tokens
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (_INPUT_TOKENS, output_tokens, total)


def _json_answer() -> bytes:
    text = b"A toll booth takes the fare of those who pass, and lets them go on. " * 4
    body = (
        b'{"id":"chatcmpl-bench","object":"chat.completion","created":1750000000,"model":"gpt-4o-mini",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":%s,"system_fingerprint":"fp_bench"}' % (text, _usage(_JSON_TOKENS))
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _event() -> bytes:
    """One token in one event, filled up to the size of a chunk as providers send it."""
    frame = (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1750000000,"model":"gpt-4o-mini",'
        b'"system_fingerprint":"fp_%s","choices":[{"index":0,"delta":{"content":" toll"},"finish_reason":null}]}\n\n'
    )
    return frame % (b"0" * (CHUNK_BYTES - len(frame) + len(b"%s")))


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _last_events(chunks: int) -> bytes:
    finish = (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1750000000,"model":"gpt-4o-mini",'
        b'"choices":[%s],"usage":%s}\n\n'
    )
    stop = finish % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b"null")
    return stop + finish % (b"", _usage(chunks)) + END


_JSON = _json_answer()
_CHUNK = _framed(_event())
_BURST = _STREAM_HEAD + _CHUNK * BURST_CHUNKS + _framed(_last_events(BURST_CHUNKS)) + _STREAM_END


class Slots:
    """Spreads paced streams over their interval, a millisecond apart, in the same way whoever asks and whenever.

    How many pieces come at once decides what a piece costs; it must not depend on how fast a subject opens streams.
    """

    def __init__(self) -> None:
        self._next = 0
        self._open = 0

    def take(self, now_s: float, interval_s: float) -> float:
        """The instant to count the intervals of one more stream from."""
        slot_ms = self._next % max(round(interval_s * 1000), 1)
        self._next += 1
        self._open += 1
        return now_s - now_s % interval_s + slot_ms / 1000

    def give_back(self) -> None:
        """A stream has ended. After the last one the slots begin anew."""
        self._open -= 1
        if self._open == 0:
            self._next = 0


class FixedAnswers(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: Slots) -> None:
        self._loop = loop
        self._slots = slots
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self._chunks = 0
        self._interval_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._slots.give_back()

    def data_received(self, data: bytes) -> None:
        request = self._pending + data if self._pending else data
        self._pending = b""
        head_end = request.find(b"\r\n\r\n") + 4
        if head_end < 4:
            self._keep(request)
            return
        length = _LENGTH.search(request, 0, head_end)
        if len(request) < head_end + (int(length[1]) if length else 0):
            self._keep(request)
            return
        self._answer(_WORD.search(request, head_end))

    def _keep(self, request: bytes) -> None:
        self._pending = request
        if len(request) > GREATEST_REQUEST_BYTES:
            self._refuse()

    def _answer(self, word: re.Match[bytes] | None) -> None:
        if self._transport is None:
            return
        if word is None:
            self._refuse()
        elif word[1] == b"json":
            self._transport.write(_JSON)
        elif word[1] == b"burst":
            self._transport.write(_BURST)
        else:
            self._interval_s = max(int(word[2]), 1) / 1000
            self._left = self._chunks = min(int(word[3]), _LONGEST_STREAM_CHUNKS)
            self._transport.write(_STREAM_HEAD + _CHUNK)
            began_s = self._slots.take(self._loop.time(), self._interval_s)
            self._timer = self._loop.call_at(began_s + self._interval_s, self._next, began_s)

    def _next(self, began_s: float) -> None:
        """Keeps to the schedule: a late timer does not move those after it."""
        if self._transport is None:
            return
        self._left -= 1
        if self._left <= 0:
            self._transport.write(_framed(_last_events(self._chunks)) + _STREAM_END)
            self._timer = None
            self._slots.give_back()
            return
        self._transport.write(_CHUNK)
        sent = self._chunks - self._left
        self._timer = self._loop.call_at(began_s + (sent + 1) * self._interval_s, self._next, began_s)

    def _refuse(self) -> None:
        if self._transport is not None:
            self._transport.write(_NOT_OURS)
            self._transport.close()


async def serve_fixed(host: str = "127.0.0.1", port: int = 0) -> asyncio.Server:
    """Start serving; the caller closes the server."""
    loop = asyncio.get_running_loop()
    slots = Slots()
    return await loop.create_server(lambda: FixedAnswers(loop, slots), host, port, backlog=4_096)


async def _main() -> None:
    server = await serve_fixed()
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
