"""What a stream used: the upstream's last word where it spoke it, our count where it did not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stream_samples import MAKERS, Sample, chat, completions, event, gemini, messages, ollama, responses

from gateway.core.answers.registry import reader_for
from gateway.core.metering import StreamReader
from gateway.core.operations import Operation
from gateway.core.usage import Basis, Usage

WORDS = ["one ", "two ", "three "]
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def words(text: str) -> int:
    return len(text.split())


def make(operation: Operation = Operation.CHAT, *, strip: bool = False, content_type: str = "") -> StreamReader:
    return reader_for(
        operation, counter=words, strip_usage=strip, client_asked_usage=not strip, content_type=content_type
    )


def chunk(text: str = "", *, finish: str | None = None, **members: Any) -> bytes:
    return event({**HEAD, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **members})


def tokens(prompt: int, completion: int, **members: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **members}


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(
            chunk("a b") + chunk(finish="stop", usage=tokens(7, 9)) + DONE, id="Mistral: with the finish reason"
        ),
        pytest.param(
            chunk("a b") + chunk(finish="stop") + chunk(usage=tokens(7, 9)) + DONE, id="OpenRouter: before the end"
        ),
        pytest.param(
            chunk("a b") + chunk(finish="stop", x_groq={"usage": tokens(7, 9)}) + DONE,
            id="Groq: under a name of its own",
        ),
        pytest.param(
            chunk("a", usage=tokens(7, 1)) + chunk(" b", usage=tokens(7, 9)) + DONE, id="vLLM: running, to the end"
        ),
        pytest.param(
            chunk("a", usage=tokens(7, 1)) + chunk(" b", usage=tokens(7, 9)), id="vLLM: running, broken off behind it"
        ),
        pytest.param(
            chunk("a b") + event({**HEAD, "choices": None, "usage": tokens(7, 9)}) + DONE, id="choices of null"
        ),
    ],
)
@pytest.mark.parametrize("read_bytes", [1, 100, 10_000])
def test_usage_is_found_wherever_servers_put_it(stream: bytes, read_bytes: int) -> None:
    reader = make()
    for start in range(0, len(stream), read_bytes):
        reader.feed(stream[start : start + read_bytes])
    reader.close()
    usage, basis = reader.usage(input_bound_tokens=99)
    assert (usage.input_tokens, usage.output_tokens, basis) == (7, 9, Basis.REPORTED)


def test_running_usage_that_text_followed_is_not_the_last_word() -> None:
    reader = make()
    reader.feed(chunk("a", usage=tokens(7, 1)) + chunk(" b c d"))
    usage, basis = reader.usage(input_bound_tokens=99)
    assert (usage.input_tokens, usage.output_tokens, basis) == (7, 4, Basis.COUNTED)


def test_only_the_chunk_without_choices_is_taken_out() -> None:
    stream = chunk("a", usage=tokens(7, 1)) + chunk(finish="stop", usage=tokens(7, 9)) + DONE
    reader = make(strip=True)
    piece = reader.feed(stream)
    assert piece.forward + piece.tail == stream


def test_a_usage_chunk_that_cannot_be_believed_stays_here_too() -> None:
    reader = make(strip=True)
    broken = event({**HEAD, "choices": [], "usage": {"prompt_tokens": -1}})
    piece = reader.feed(chunk("a b") + broken + DONE)
    assert piece.forward + piece.tail == chunk("a b") + DONE
    assert reader.usage(input_bound_tokens=5) == (Usage(5, output_tokens=2), Basis.COUNTED)


def test_a_stream_without_usage_is_counted() -> None:
    sample = chat(WORDS, usage=False)
    reader = make()
    reader.feed(sample.data)
    assert reader.reported is None
    assert reader.usage(input_bound_tokens=5) == (Usage(5, output_tokens=3), Basis.COUNTED)


def test_usage_of_nothing_but_null_and_nonsense_is_counted() -> None:
    reader = make()
    reader.feed(chunk("a b") + event({**HEAD, "choices": [], "usage": tokens(-1, None)}) + DONE)  # type: ignore[arg-type]
    assert reader.usage(input_bound_tokens=5) == (Usage(5, output_tokens=2), Basis.COUNTED)


def test_anthropic_broken_off_half_way_pays_for_what_came() -> None:
    sample = messages(WORDS)
    reader = make(Operation.MESSAGES)
    reader.feed(sample.data[: sample.data.index(b"three")])
    assert not reader.close().ended
    usage, basis = reader.usage(input_bound_tokens=5)
    assert (usage.input_tokens, usage.cached_input_tokens) == (108, 100)
    assert (usage.output_tokens, basis) == (2, Basis.COUNTED)


def test_anthropics_last_usage_replaces_what_it_names_and_nothing_else() -> None:
    start = {"input_tokens": 10, "cache_creation_input_tokens": 20, "output_tokens": 1, "service_tier": "priority"}
    start |= {"cache_creation": {"ephemeral_1h_input_tokens": 20}}
    stop = {"input_tokens": 50, "output_tokens": 9, "server_tool_use": {"web_search_requests": 1}}
    reader = make(Operation.MESSAGES)
    reader.feed(event({"type": "message_start", "message": {"model": "claude", "usage": start}}))
    reader.feed(event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": stop}))
    usage, basis = reader.usage(input_bound_tokens=0)
    expected = Usage(70, 0, 20, 20, output_tokens=9, tool_calls=(("web_search", 1),), service_tier="priority")
    assert (usage, basis) == (expected, Basis.REPORTED)


def test_gemini_broken_off_half_way_has_the_usage_up_to_there() -> None:
    sample = gemini(WORDS)
    reader = make(Operation.STREAM_GENERATE)
    reader.feed(sample.data[: sample.data.index(b"three")])
    assert not reader.close().ended
    usage, basis = reader.usage(input_bound_tokens=5)
    assert (usage.input_tokens, usage.output_tokens, basis) == (11, 2, Basis.REPORTED)


def test_geminis_thoughts_are_paid_when_the_answer_is_cut() -> None:
    reader = make(Operation.STREAM_GENERATE)
    used = {"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 30}
    first = event({"candidates": [{"content": {"parts": [{"text": "a b"}]}}], "usageMetadata": used})
    second = event({"candidates": [{"content": {"parts": [{"text": " c d"}]}}], "usageMetadata": used})
    reader.feed(first)
    assert reader.fit(reader.feed(second).forward, 2) == b""
    usage, basis = reader.usage(input_bound_tokens=9)
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens, basis) == (4, 32, 30, Basis.COUNTED)


def test_a_response_that_failed_is_an_error_and_has_its_usage() -> None:
    reader = make(Operation.RESPONSES)
    failed = {"id": "r", "model": "gpt-5", "usage": {"input_tokens": 3, "output_tokens": 0}, "error": {"code": "x"}}
    piece = reader.feed(event({"type": "response.failed", "response": failed}, "response.failed"))
    assert piece.ended
    assert reader.error
    assert reader.usage(input_bound_tokens=9) == (Usage(3), Basis.REPORTED)


@pytest.mark.parametrize(
    ("operation", "stream"),
    [
        (Operation.CHAT, b'data: {"error":{"message":"overloaded"}}\n\n'),
        (Operation.MESSAGES, event({"type": "error", "error": {"type": "overloaded_error"}}, "error")),
        (Operation.RESPONSES, event({"type": "error", "message": "no"}, "error")),
        (Operation.STREAM_GENERATE, event({"error": {"code": 503}}, end="\r\n")),
        (Operation.OLLAMA_CHAT, b'{"error":"out of memory"}\n'),
        (Operation.TRANSCRIPTIONS, event({"type": "error", "error": {"message": "no"}})),
    ],
)
def test_an_error_in_the_stream_is_seen(operation: Operation, stream: bytes) -> None:
    reader = make(operation)
    assert reader.feed(stream).forward == stream
    assert reader.error


@pytest.mark.parametrize("name", MAKERS)
def test_text_that_speaks_of_errors_is_none(name: str) -> None:
    sample = MAKERS[name](['"error"', 'an {"error": {"message": 1}}'])
    reader = make(sample.operation, content_type=sample.content_type)
    reader.feed(sample.data)
    assert not reader.error


def test_everything_that_is_visible_is_counted() -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "one"},
        {"reasoning_content": "two three"},
        {"reasoning": "four"},
        {"refusal": "five"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": " six"}]}]},
        {"tool_calls": [{"index": 0, "function": {"name": "seven", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": " eight"}}, {"index": 1, "function": {"name": "nine"}}]},
        {"function_call": {"name": "ten", "arguments": " eleven"}},
        {"audio": {"transcript": "twelve"}},
    ]
    reader = make()
    for delta in deltas:
        reader.feed(event({**HEAD, "choices": [{"index": 0, "delta": delta}]}))
    # "five" and " six" are of two channels, "two three" and "four" of one without a space between.
    assert reader.count() == 11


@pytest.mark.parametrize("name", ["chat", "messages", "responses", "gemini", "ollama", "completions"])
@pytest.mark.parametrize("members", [{}, {"obfuscation": True}], ids=["plain", "obfuscated"])
def test_streams_of_one_form_are_counted_like_any_other(name: str, members: dict[str, Any]) -> None:
    texts = [f" w{number}" for number in range(300)]
    sample = MAKERS[name](texts, **members) if name == "chat" else MAKERS[name](texts)
    at_once, one_by_one = (make(sample.operation, content_type=sample.content_type) for _ in range(2))
    at_once.feed(sample.data)
    for start in range(0, len(sample.data), 113):
        one_by_one.feed(sample.data[start : start + 113])
        one_by_one.count()
    assert at_once.count() == one_by_one.count() == 300


def test_half_of_a_surrogate_pair_loses_no_text() -> None:
    events = [chunk(f" w{number}") for number in range(20)]
    events[12] = events[12].replace(b" w12", b" \\ud83d")
    reader = make()
    for part in events:
        reader.feed(part)
    assert reader.count() == 20


def test_images_report_with_the_finished_one() -> None:
    used = {"input_tokens": 10, "output_tokens": 272, "input_tokens_details": {"text_tokens": 10, "image_tokens": 0}}
    partial = event({"type": "image_generation.partial_image", "b64_json": "A" * 100_000})
    last = event({"type": "image_generation.completed", "b64_json": "B" * 100_000, "usage": used})
    reader = make(Operation.IMAGES_GENERATIONS)
    out = b"".join(reader.feed((partial + last)[start : start + 8192]).forward for start in range(0, 210_000, 8192))
    assert out == partial + last
    assert reader.close().ended
    usage, basis = reader.usage(input_bound_tokens=1)
    assert (usage.output_image_tokens, basis, reader.count()) == (272, Basis.REPORTED, 0)


def test_speech_passes_and_reports_only_as_events() -> None:
    sound = make(Operation.SPEECH, content_type="audio/mpeg")
    assert sound.feed(b"\xff\xfb\x90").forward == b"\xff\xfb\x90"
    assert sound.close().ended
    assert sound.usage(input_bound_tokens=3)[1] is Basis.ESTIMATED
    spoken = make(Operation.SPEECH, content_type="text/event-stream")
    piece = spoken.feed(event({"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101}}))
    assert piece.ended
    assert spoken.usage(input_bound_tokens=3) == (Usage(14, output_tokens=101), Basis.REPORTED)


def test_the_served_model_is_known_from_the_stream() -> None:
    for sample, model in [
        (chat(WORDS, usage=False), "gpt-4o-2024-08-06"),
        (completions(WORDS), "davinci-002"),
        (messages(WORDS), "claude-sonnet-4-5"),
        (responses(WORDS), "gpt-5"),
        (gemini(WORDS), "gemini-2.5-flash"),
        (ollama(WORDS), "llama3.2"),
    ]:
        reader = make(sample.operation, content_type=sample.content_type)
        reader.feed(sample.data)
        assert reader.model == model


def test_an_error_answer_of_geminis_array_is_an_array() -> None:
    data = json.dumps([{"error": {"code": 404}}]).encode()
    reader = make(Operation.STREAM_GENERATE, content_type="application/json")
    assert reader.feed(data).forward == data
    assert reader.error


def test_raw_streams_pass() -> None:
    reader = make(Operation.RAW)
    assert reader.feed(b"anything").forward == b"anything"
    assert reader.usage(input_bound_tokens=3)[1] is Basis.REPORTED


def test_a_sample_is_what_it_says() -> None:
    for make_sample in MAKERS.values():
        sample: Sample = make_sample(WORDS)
        assert sample.data.endswith(sample.tail)
