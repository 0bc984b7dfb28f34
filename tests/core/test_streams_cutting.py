"""A stream that is cut where the money ends: whole events, never a token too many, and an end that the SDKs accept."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_samples import (
    MAKERS,
    Sample,
    chat,
    completions,
    event,
    gemini,
    gemini_array,
    messages,
    ollama,
    responses,
    transcript,
)

from gateway.core.answers.registry import reader_for
from gateway.core.metering import StreamReader
from gateway.core.operations import Operation
from gateway.core.usage import Basis, Usage

WORDS = [f"word{number} " for number in range(12)]


def words(text: str) -> int:
    return len(text.split())


def make(sample: Sample, *, asked: bool = True) -> StreamReader:
    return reader_for(
        sample.operation,
        counter=words,
        strip_usage=not asked,
        client_asked_usage=asked,
        content_type=sample.content_type,
    )


def stream_until(
    sample: Sample, most: int, *, reads: list[int] | None = None, asked: bool = True
) -> tuple[bytes, bytes, StreamReader]:
    """What the relay does: pieces go out while the count is within `most`, the first one beyond is cut. Gives what was
    delivered, the closing events, the reader."""
    reader = make(sample, asked=asked)
    delivered, at = b"", 0
    for number in range(10_000):
        size = (reads or [100])[number % len(reads or [100])]
        piece = reader.feed(sample.data[at : at + size])
        at += size
        if reader.output_bound() > most and reader.count() > most:
            delivered += reader.fit(piece.forward, most)
            reader.usage(input_bound_tokens=11)
            return delivered, reader.closing(), reader
        delivered += piece.forward
        if at >= len(sample.data):
            break
    return delivered + piece.tail, b"", reader


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=40, deadline=None)
@given(counted=st.booleans(), reads=st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_what_was_delivered_is_what_came_before_the_piece_that_waits(
    name: str, counted: bool, reads: list[int]
) -> None:
    sample = MAKERS[name](WORDS)
    reader, at, before = make(sample), 0, 0
    for number in range(10_000):
        size = reads[number % len(reads)]
        piece = reader.feed(sample.data[at : at + size])
        at += size
        if counted:
            reader.count()
        if piece.forward:
            assert reader.count_without(piece.forward) == before
            assert reader.count_without(piece.forward) == before, "asking changes nothing"
            before = reader.count()
        if at >= len(sample.data):
            break
    assert before == reader.count() == len(WORDS)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, deadline=None)
@given(most=st.integers(0, 11), reads=st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_the_cut_is_the_longest_run_of_whole_events_within_the_limit(name: str, most: int, reads: list[int]) -> None:
    sample = MAKERS[name](WORDS)
    delivered, _, reader = stream_until(sample, most, reads=reads)
    assert sample.data.startswith(delivered)
    assert reader.count() == reader.output_bound() == most
    again = make(sample)
    again.feed(delivered)
    assert again.count() == most
    usage, basis = reader.usage(input_bound_tokens=11)
    assert (usage.output_tokens, basis) == (most, Basis.COUNTED)


def test_a_cut_without_a_count_before_it_is_the_same() -> None:
    sample = chat(WORDS)
    reader = make(sample)
    piece = reader.feed(sample.data[: sample.data.rindex(b"word11")])
    fits = reader.fit(piece.forward, 4)
    assert fits.count(b"word") == 4
    assert reader.count() == 4


def test_two_pieces_that_wait_together_are_cut_as_one() -> None:
    events = [part + b"\n\n" for part in chat(WORDS).data.split(b"\n\n")[:-1]]
    reader = make(chat([]))
    reader.feed(events[0] + events[1])
    first = reader.feed(events[2] + events[3]).forward
    assert reader.count() == 3
    second = reader.feed(events[4] + events[5]).forward
    assert reader.count() == 5
    assert reader.fit(first + second, 4) == b"".join(events[2:5])
    assert reader.count() == 4


def test_nothing_fits_gives_all_of_the_piece_back() -> None:
    sample = messages(WORDS)
    reader = make(sample)
    piece = reader.feed(sample.data[:900])
    reader.count()
    assert reader.fit(piece.forward, 0).endswith(event(json.loads(BLOCK_START), "content_block_start"))
    assert reader.count() == 0


BLOCK_START = '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'


def transport(data: bytes, content_type: str) -> httpx2.Client:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, content=data)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def openai_client(data: bytes) -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url="http://x/v1", http_client=transport(data, "text/event-stream"))


@pytest.mark.parametrize("most", [0, 1, 7])
@pytest.mark.parametrize("asked", [True, False])
def test_the_openai_sdk_reads_a_cut_chat_stream(most: int, asked: bool) -> None:
    delivered, closing, _ = stream_until(chat(WORDS, choices=2), most * 2, reads=[5000], asked=asked)
    with openai_client(delivered + closing) as client:
        chunks = list(client.chat.completions.create(model="m", messages=[], stream=True))
    texts = {0: "", 1: ""}
    finished = {}
    for chunk in chunks:
        assert (chunk.id, chunk.model, chunk.created) == ("chatcmpl-7", "gpt-4o-2024-08-06", 1754432626)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason
    assert texts == {0: "".join(WORDS[:most]), 1: "".join(WORDS[:most])}
    assert finished == {0: "length", 1: "length"}
    usage = chunks[-1].usage
    assert (usage is not None) == asked
    if usage is not None:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, most * 2, 11 + most * 2)
    assert closing.endswith(b"data: [DONE]\n\n")


def test_a_choice_that_has_finished_is_not_finished_again() -> None:
    sample = chat(WORDS[:3], choices=2)
    reader = make(sample)
    end = sample.data.index(b'"stop"') + 1
    end = sample.data.index(b"\n\n", end) + 2
    reader.feed(sample.data[:end])
    reader.count()
    closing = reader.closing()
    assert closing.count(b'"length"') == 1
    assert b'"index":1' in closing


def test_the_openai_sdk_reads_a_cut_tool_call() -> None:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}

    def chunk(call: dict[str, Any]) -> bytes:
        return event({**head, "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}}]})

    parts = [chunk({"id": "t", "type": "function", "function": {"name": "find", "arguments": ""}})]
    parts += [chunk({"function": {"arguments": f" {number}"}}) for number in range(9)]
    delivered, closing, reader = stream_until(Sample(Operation.CHAT, b"".join(parts), 0, 0, b""), 5)
    with openai_client(delivered + closing) as client:
        chunks = list(client.chat.completions.create(model="m", messages=[], stream=True))
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert "".join(call.function.arguments or "" for call in calls if call.function) == " 0 1 2 3"
    assert reader.count() == 5
    assert chunks[-2].choices[0].finish_reason == "length"


def test_the_openai_sdk_reads_a_cut_text_completion() -> None:
    delivered, closing, _ = stream_until(completions(WORDS), 2)
    with openai_client(delivered + closing) as client:
        chunks = list(client.completions.create(model="m", prompt="", stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "word0 word1 "
    assert chunks[-2].choices[0].finish_reason == "length"


@pytest.mark.parametrize("most", [0, 1, 7])
def test_the_anthropic_sdk_reads_a_cut_message(most: int) -> None:
    delivered, closing, _ = stream_until(messages(WORDS), most)
    client = anthropic.Anthropic(
        api_key="none", base_url="http://x", http_client=transport(delivered + closing, "text/event-stream")
    )
    with client, client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        message = stream.get_final_message()
    assert "".join(block.text for block in message.content if block.type == "text") == "".join(WORDS[:most])
    assert message.stop_reason == "max_tokens"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (8, 100)
    assert message.usage.output_tokens == most


def test_the_anthropic_sdk_reads_a_message_cut_before_its_start_and_in_a_tool_call() -> None:
    reader = make(messages([]))
    reader.feed(b": nothing yet\n\n")
    reader.usage(input_bound_tokens=3)
    client = anthropic.Anthropic(
        api_key="none", base_url="http://x", http_client=transport(reader.closing(), "text/event-stream")
    )
    with client, client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        assert stream.get_final_message().stop_reason == "max_tokens"
    start = messages([]).data.split(b"event: content_block_start")[0]
    block = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}
    start += event({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start")
    delta = {"type": "input_json_delta", "partial_json": '{"a": "b c'}
    start += event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    reader = make(messages([]))
    reader.feed(start)
    client = anthropic.Anthropic(
        api_key="none", base_url="http://x", http_client=transport(start + reader.closing(), "text/event-stream")
    )
    with client, client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        message = stream.get_final_message()
    assert message.content[0].type == "tool_use"
    assert message.stop_reason == "max_tokens"


@pytest.mark.parametrize("most", [0, 1, 7])
def test_the_openai_sdk_reads_a_cut_response(most: int) -> None:
    delivered, closing, _ = stream_until(responses(WORDS), most)
    with openai_client(delivered + closing) as client:
        events = list(client.responses.create(model="m", input="x", stream=True))
    said = "".join(WORDS[:most])
    assert "".join(item.delta for item in events if item.type == "response.output_text.delta") == said
    assert [item.sequence_number for item in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert (last.response.status, last.response.output_text) == ("incomplete", said)
    assert last.response.usage is not None
    assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == (11, most)
    with openai_client(delivered + closing) as client, client.responses.stream(model="m", input="x") as stream:
        assert [item.type for item in stream][-1] == "response.incomplete"


@pytest.mark.parametrize("most", [0, 1, 7])
def test_the_google_sdk_reads_a_cut_stream(most: int) -> None:
    delivered, closing, _ = stream_until(gemini(WORDS), most)
    options = genai.types.HttpOptions(
        base_url="http://x", httpx_client=transport(delivered + closing, "text/event-stream")
    )
    client = genai.Client(api_key="none", http_options=options)
    chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="x"))
    assert "".join(chunk.text or "" for chunk in chunks) == "".join(WORDS[:most])
    candidates = chunks[-1].candidates
    assert candidates is not None
    assert candidates[0].finish_reason == genai.types.FinishReason.MAX_TOKENS
    used = chunks[-1].usage_metadata
    assert used is not None
    assert (used.prompt_token_count, used.candidates_token_count) == (11, most)


@pytest.mark.parametrize("most", [0, 7])
def test_a_cut_array_is_an_array(most: int) -> None:
    delivered, closing, _ = stream_until(gemini_array(WORDS), most)
    elements = json.loads(delivered + closing)
    assert elements[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert len(elements) == most + 1


@pytest.mark.parametrize("most", [0, 7])
def test_cut_lines_end_with_done(most: int) -> None:
    delivered, closing, _ = stream_until(ollama(WORDS), most)
    lines = [json.loads(line) for line in (delivered + closing).splitlines()]
    assert [line["done"] for line in lines] == [False] * most + [True]
    assert lines[-1]["done_reason"] == "length"
    assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (11, most)


def test_a_cut_transcript_is_done_with_what_was_delivered() -> None:
    delivered, closing, _ = stream_until(transcript(WORDS), 2)
    assert json.loads(closing.removeprefix(b"data: "))["text"] == "word0 word1 "
    assert delivered.count(b"word") == 2


def test_a_report_far_above_what_was_seen_is_not_plausible() -> None:
    sample = chat(["a b c "] * 100)
    reader = make(sample)
    reader.feed(sample.data)
    assert reader.plausible(Usage(output_tokens=150))
    assert reader.plausible(Usage(output_tokens=300 + 75 + 32))
    assert reader.plausible(Usage(output_tokens=5000, reasoning_tokens=4800))
    assert not reader.plausible(Usage(output_tokens=300 + 75 + 33))


def test_every_block_may_bring_tokens_that_no_event_shows() -> None:
    def block(index: int) -> bytes:
        return b"".join(
            event(value, str(value["type"]))
            for value in (
                {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": "a " * 40}},
                {"type": "content_block_stop", "index": index},
            )
        )

    sample = messages([])
    reader = make(sample)
    reader.feed(block(0) + block(1) + block(2))
    assert reader.plausible(Usage(output_tokens=120 + 30 + 32 + 2 * 32))
    assert not reader.plausible(Usage(output_tokens=120 + 30 + 32 + 2 * 32 + 1))
