"""What reading a stream costs, in microseconds of CPU. Not a test: times depend on the machine.

python tests/bench/bench_streams.py
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stream_samples import MAKERS

from gateway.adapters.tokens import Vocabularies
from gateway.core.answers.registry import reader_for
from gateway.core.metering import StreamReader, TextCounter
from gateway.core.operations import Operation

CHUNK = (
    b'data: {"id":"chatcmpl-123456789","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
    b'"service_tier":"default","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}],"usage":null}\n\n'
)
END = (
    b'data: {"id":"chatcmpl-123456789","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",'
    b'"choices":[],"usage":{"prompt_tokens":53,"completion_tokens":203,"total_tokens":256}}\n\ndata: [DONE]\n\n'
)
WORDS = [b" hello", b" streaming", b" world", b",", b" tokens", b" of", b" text", b"."]
EVENTS = [CHUNK % WORDS[number % len(WORDS)] for number in range(203)]


def best_us(run: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(run, number=number, repeat=7)) / number * 1e6


def reader(counter: TextCounter) -> StreamReader:
    return reader_for(Operation.CHAT, counter=counter, strip_usage=True, client_asked_usage=False)


def paced(counter: TextCounter, *, paid_tokens: int) -> float:
    """Per chunk: fed one by one, the bound looked at, counted where it is beyond what is paid."""

    def run() -> None:
        one = reader(counter)
        for event in EVENTS:
            one.feed(event)
            if one.output_bound() > paid_tokens:
                one.count()
        one.feed(END)
        one.usage(input_bound_tokens=100)

    return best_us(run, 20) / len(EVENTS)


def main() -> None:
    counter = Vocabularies().counter_for("gpt-4o", "openai")
    counter("load the vocabulary")
    burst, burst_with_end = b"".join(EVENTS), b"".join([*EVENTS, END])
    fresh = reader(counter)
    rows = [
        ("make a reader", best_us(lambda: reader(counter), 2000)),
        ("a chunk alone (first 16 KiB of a stream)", best_us(lambda: [reader(counter).feed(EVENTS[0])], 2000)),
        ("a chunk of an endless stream, all told", best_us(lambda: fresh.feed(EVENTS[0]), 5000)),
        ("a paced chunk, 1,024 tokens paid", paced(counter, paid_tokens=1024)),
        ("a paced chunk, counted every time", paced(counter, paid_tokens=-1)),
        (f"a burst of 203 chunks, {len(burst)} bytes", best_us(lambda: reader(counter).feed(burst), 100)),
        ("the same with usage and end", best_us(lambda: reader(counter).feed(burst_with_end), 100)),
        ("the same, and counted", best_us(lambda: _count(reader(counter), burst), 50)),
    ]
    for name, microseconds in rows:
        print(f"{microseconds:9.2f} us  {name}")
    for name, make in MAKERS.items():
        sample = make([f" word{number % 10}" for number in range(200)])

        def whole(
            sample_data: bytes = sample.data, operation: Operation = sample.operation, kind: str = sample.content_type
        ) -> None:
            one = reader_for(operation, counter=counter, strip_usage=False, client_asked_usage=True, content_type=kind)
            for start in range(0, len(sample_data), 250):
                one.feed(sample_data[start : start + 250])
            one.close()
            one.usage(input_bound_tokens=1)

        reads = -(-len(sample.data) // 250)
        print(f"{best_us(whole, 10) / reads:9.2f} us  a read of 250 bytes across events: {name}")


def _count(one: StreamReader, data: bytes) -> int:
    one.feed(data)
    return one.count()


if __name__ == "__main__":
    main()
