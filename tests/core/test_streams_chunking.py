"""However the network cuts a stream: the same bytes out, the same usage, the same count."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_samples import MAKERS, Sample, chat, event, messages

from gateway.core.answers.reading import EventReader
from gateway.core.answers.registry import reader_for
from gateway.core.metering import StreamReader
from gateway.core.operations import Operation
from gateway.core.usage import Basis

# Words, and everything that looks like the marks that the readers search for.
HOSTILE = [
    "hello",
    " world",
    "data: [DONE]\n\n",
    '"usage":{"prompt_tokens":1,"completion_tokens":2}',
    '{"error":{"message":"no"}}',
    "\r\n\r\n",
    "event: message_stop",
    '"type":"response.completed"',
    '"done":true',
    "]}],[{",
    "\\",
    '"',
    "é漢字",
    "\u2028\x85\x0b",
    "x" * 300,
    "",
]
TEXTS = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12), max_size=14)


def words(text: str) -> int:
    """A counter that depends on where a text is cut about as a vocabulary does."""
    return len(text.split())


def make(sample: Sample, *, strip: bool = False) -> StreamReader:
    return reader_for(
        sample.operation,
        counter=words,
        strip_usage=strip,
        client_asked_usage=not strip,
        content_type=sample.content_type,
    )


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(position % (len(data) + 1) for position in positions)})
    return [data[start:end] for start, end in pairwise(bounds)]


def run(reader: StreamReader, chunks: list[bytes], *, count_at: int = -1) -> tuple[bytes, bytes]:
    """Forward and tail of a whole stream."""
    forward = tail = b""
    for number, chunk in enumerate(chunks):
        piece = reader.feed(chunk)
        assert not (piece.tail and not piece.ended)
        forward += piece.forward
        tail += piece.tail
        if number == count_at:
            assert reader.count() <= reader.output_bound()
    piece = reader.close()
    return forward + piece.forward, tail + piece.tail


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=TEXTS, positions=st.lists(st.integers(0, 1 << 20), max_size=40), count_at=st.integers(-1, 10))
def test_any_chunking_gives_the_same(
    name: str, end: str, texts: list[str], positions: list[int], count_at: int
) -> None:
    sample = MAKERS[name](texts, end=end)
    whole = make(sample)
    assert run(whole, [sample.data]) == (sample.data.removesuffix(sample.tail), sample.tail)
    reader = make(sample)
    assert run(reader, cut(sample.data, positions), count_at=count_at) == (
        sample.data.removesuffix(sample.tail),
        sample.tail,
    )
    assert reader.count() == whole.count()
    assert reader.model == whole.model
    assert not reader.error
    usage, basis = reader.usage(input_bound_tokens=5)
    assert (usage, basis) == whole.usage(input_bound_tokens=5)
    assert (usage.input_tokens, usage.output_tokens, basis) == (
        sample.input_tokens,
        sample.output_tokens,
        Basis.REPORTED,
    )


@pytest.mark.parametrize("name", ["chat", "completions"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, positions=st.lists(st.integers(0, 1 << 20), max_size=40))
def test_the_usage_chunk_is_taken_out_and_nothing_else(
    name: str, end: str, texts: list[str], positions: list[int]
) -> None:
    sample = MAKERS[name](texts, end=end)
    reader = make(sample, strip=True)
    forward, tail = run(reader, cut(sample.data, positions))
    before, chunk, after = sample.data.rpartition(sample.usage_chunk)
    assert chunk
    assert forward + tail == before + after
    assert reader.usage(input_bound_tokens=0)[0].output_tokens == sample.output_tokens


@settings(max_examples=80, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(
            [
                b"\xef\xbb\xbf",
                b": comment",
                b"",
                b"data:{}",
                b"data: {",
                b"data: }",
                b"event: error",
                b"id: 1",
                b"data",
                b'data:{"usage":{"prompt_tokens":3,"completion_tokens":4},"choices":[]}',
                b'data: {"choices":[{"index":0,"delta":{"content":"one two"}}]}',
                b"data: [DONE]",
                b"\x01\x02\xff",
            ]
        ),
        max_size=16,
    ),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    positions=st.lists(st.integers(0, 1 << 10), max_size=20),
    strip=st.booleans(),
)
def test_lines_of_any_kind_come_out_as_they_came(
    lines: list[bytes], end: bytes, positions: list[int], strip: bool
) -> None:
    data = end.join(lines)
    sample = Sample(Operation.CHAT, data, 0, 0, b"")
    whole, reader = make(sample, strip=strip), make(sample, strip=strip)
    expected = run(whole, [data])
    assert run(reader, cut(data, positions)) == expected
    assert reader.usage(input_bound_tokens=1) == whole.usage(input_bound_tokens=1)
    assert reader.count() == whole.count()
    if not strip:
        assert b"".join(expected) == data


def test_every_way_to_cut_once_gives_the_same() -> None:
    sample = chat(["Hello", " there", "\n\n"], obfuscation=True)
    for position in range(len(sample.data)):
        reader = make(sample, strip=True)
        forward, tail = run(reader, [sample.data[:position], sample.data[position:]])
        assert forward + tail == sample.data.replace(sample.usage_chunk, b"")


def test_a_last_event_without_its_blank_line_is_read() -> None:
    for sample in (chat(["a"]), messages(["b"])):
        data = sample.data.rstrip(b"\n")
        reader = make(sample)
        forward, tail = run(reader, [data[:100], data[100:]])
        assert forward + tail == data
        assert tail == sample.tail.rstrip(b"\n")
        assert reader.usage(input_bound_tokens=0)[1] is Basis.REPORTED


def test_data_over_several_lines_is_one_event() -> None:
    data = b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":3,\ndata: "completion_tokens":4}}\n\ndata: [DONE]\n\n'
    reader = make(Sample(Operation.CHAT, data, 3, 4, b""))
    run(reader, [data])
    assert reader.usage(input_bound_tokens=0)[0].output_tokens == 4


def test_an_event_of_half_a_mebibyte_in_small_reads_is_kept_together() -> None:
    big = event({"choices": [{"index": 0, "delta": {"content": "y" * 500_000}}]})
    reader = make(chat([]))
    pieces = [reader.feed(big[start : start + 4096]) for start in range(0, len(big), 4096)]
    assert [piece.forward for piece in pieces if piece.forward] == [big]


@pytest.mark.parametrize("read_bytes", [4096, 65536, 10_000_000])
def test_an_event_beyond_the_limit_passes_unread_and_the_stream_goes_on(read_bytes: int) -> None:
    sample = chat(["seen", " too"])
    first = sample.data.index(b"\n\n") + 2
    big = event({"choices": [{"index": 0, "delta": {"content": 'y"usage"' * 200_000}}]})
    data = sample.data[:first] + big + sample.data[first:]
    reader = make(sample, strip=True)
    chunks = [data[start : start + read_bytes] for start in range(0, len(data), read_bytes)]
    forward, tail = run(reader, chunks)
    assert forward + tail == data.replace(sample.usage_chunk, b"")
    assert reader.usage(input_bound_tokens=0)[0].output_tokens == 77
    assert reader.count() == 2


def test_what_comes_after_the_end_belongs_to_the_tail() -> None:
    sample = chat(["a"])
    reader = make(sample)
    _, tail = run(reader, [sample.data, b": late\n\n"])
    assert tail == sample.tail + b": late\n\n"


def test_the_bound_is_never_below_the_count_and_near_it() -> None:
    pick = random.Random(7)
    sample = chat([pick.choice(HOSTILE[:2]) for _ in range(400)], obfuscation=True)
    reader = make(sample)
    assert isinstance(reader, EventReader)
    for piece in sample.data.split(b"\n\n")[:-1]:
        reader.feed(piece + b"\n\n")
        if reader.output_bound() > 100:
            bound = reader.output_bound()
            assert reader.count() <= bound
    # 400 tokens of at most six bytes, of which the bound knows most to be six bytes.
    reader.count()
    for text in ("hello", " world") * 20:
        before = reader.output_bound()
        reader.feed(chat([text], obfuscation=True).data.split(b"\n\n")[1] + b"\n\n")
        assert reader.output_bound() - before <= len(text)
