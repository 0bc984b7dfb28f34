"""Answers and streams at their edges: strange members, other forms of text, cuts inside tools and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stream_samples import chat, event, messages, ollama, responses

from gateway.core.answers.registry import answer_text, reader_for, usage_of_answer
from gateway.core.metering import StreamReader
from gateway.core.operations import Operation as Op
from gateway.core.usage import Basis, Usage


def words(text: str) -> int:
    return len(text.split())


def make(operation: Op, *, content_type: str = "") -> StreamReader:
    return reader_for(operation, counter=words, strip_usage=False, client_asked_usage=True, content_type=content_type)


GROUNDED = {
    "groundingMetadata": {
        "webSearchQueries": ["a"],
        "groundingChunks": [{"maps": {"uri": "x"}}, {"retrievedContext": {"uri": "y"}}],
    },
    "urlContextMetadata": {"urlMetadata": [{}, {}]},
    "content": {"parts": [{"executableCode": {"code": "print(1)"}}, 7]},
}
RAN = (("code_execution", 1), ("file_search", 1), ("google_maps", 1), ("google_search", 1), ("url_context", 2))


@pytest.mark.parametrize(
    ("operation", "body", "usage"),
    [
        (Op.MESSAGES, {"usage": 3}, None),
        (Op.MESSAGES, {"usage": {"input_tokens": 3}}, None),
        (Op.EMBEDDINGS, {"usage": {"prompt_tokens": 2}}, Usage(2)),
        (Op.CHAT, {"usage": {"completion_tokens": 2, "total_tokens": 5}}, Usage(3, output_tokens=2)),
        (Op.RESPONSES, {"usage": None}, None),
        (Op.GENERATE, {"usageMetadata": {"candidatesTokenCount": 3}}, None),
        (
            Op.GENERATE,
            {"candidates": [GROUNDED, 7], "usageMetadata": {"promptTokenCount": 3}},
            Usage(3, tool_calls=RAN),
        ),
        (
            Op.IMAGES_EDITS,
            {
                "data": [{}],
                "usage": {
                    "input_tokens": 1,
                    "output_tokens": 9,
                    "output_tokens_details": {"image_tokens": 7, "text_tokens": 2},
                },
            },
            Usage(1, output_tokens=9, output_image_tokens=7, images=1),
        ),
        (Op.TRANSCRIPTIONS, {"text": "x"}, None),
        (Op.TRANSCRIPTIONS, {"usage": {"type": "duration", "seconds": -1}}, None),
        (Op.CHAT, {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": -1}}, Usage(1, output_tokens=1)),
    ],
)
def test_strange_answers_mean_this_usage(operation: Op, body: dict[str, Any], usage: Usage | None) -> None:
    assert usage_of_answer(operation, json.dumps(body).encode()) == usage


@pytest.mark.parametrize(
    ("operation", "body", "text"),
    [
        (Op.MESSAGES, {"content": [7, {"text": "a"}]}, "a"),
        (Op.CHAT, {"choices": [7, {"message": 7}]}, ""),
        (Op.GENERATE, {"candidates": [GROUNDED]}, "print(1)"),
        (Op.OLLAMA_CHAT, {"message": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}}, 'f{"a":1}'),
        (Op.CHAT, [], ""),
        (Op.LISTING, {"text": "x"}, ""),
    ],
)
def test_strange_answers_have_this_text(operation: Op, body: Any, text: str) -> None:
    assert answer_text(operation, json.dumps(body).encode()) == text


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        (Op.CHAT, {"choices": [7, {"index": True, "delta": None}], "usage": {"prompt_tokens": None}}),
        (Op.MESSAGES, {"type": "message_delta", "delta": {}, "usage": {"output_tokens": None}}),
        (Op.MESSAGES, {"type": "message_limit_is_near"}),
        (Op.RESPONSES, {"type": 7, "sequence_number": "x", "response": 7}),
        (Op.RESPONSES, {"response": {}}),
        (Op.STREAM_GENERATE, {"candidates": 7, "usageMetadata": 7}),
        (Op.TRANSCRIPTIONS, {"type": "transcript.text.delta", "delta": 7}),
        (Op.IMAGES_EDITS, {"type": "image_edit.completed"}),
    ],
)
def test_an_event_of_strange_members_passes_and_says_nothing(operation: Op, payload: dict[str, Any]) -> None:
    reader = make(operation)
    data = event(payload) + b"data: transcript.text.done response.completed\n\n"
    assert reader.feed(data).forward == data
    assert (reader.reported, reader.count(), reader.error) == (None, 0, False)


def test_a_line_that_is_no_json_passes() -> None:
    reader = make(Op.OLLAMA_CHAT)
    data = b'{"message":{"content":"a"}}\n"done":true\r\n'
    assert reader.feed(data).forward == data
    assert reader.count() == 1


def test_an_endless_line_passes_unread_and_the_stream_goes_on() -> None:
    sample = ollama(["a ", "b "])
    data = b'{"message":{"content":"' + b"x" * 1_500_000 + b'"}}\n' + sample.data
    reader = make(Op.OLLAMA_CHAT)
    pieces = [reader.feed(data[start : start + 65536]) for start in range(0, len(data), 65536)]
    assert b"".join(piece.forward + piece.tail for piece in pieces) == data
    assert reader.usage(input_bound_tokens=0)[1] is Basis.REPORTED


def test_an_event_too_long_to_read_that_never_ends_comes_out() -> None:
    data = b"data: " + b"x" * 1_200_000
    reader = make(Op.CHAT)
    pieces = [reader.feed(data[start : start + 300_000]) for start in range(0, len(data), 300_000)]
    assert b"".join(piece.forward for piece in pieces) + reader.close().forward == data


def test_a_generate_stream_cut_before_its_first_line_closes_in_its_own_form() -> None:
    reader = make(Op.OLLAMA_GENERATE)
    assert json.loads(reader.closing())["response"] == ""


def test_geminis_searches_and_cache_are_told_where_it_is_cut() -> None:
    used = {"promptTokenCount": 9, "cachedContentTokenCount": 4, "candidatesTokenCount": 1, "thoughtsTokenCount": 2}
    reader = make(Op.STREAM_GENERATE)
    for _ in range(2):
        reader.feed(event({"candidates": [{**GROUNDED, "index": 0}], "usageMetadata": used}))
    usage, _ = reader.usage(input_bound_tokens=0)
    assert usage.tool_calls == RAN
    closing = json.loads(reader.closing().removeprefix(b"data: "))
    assert closing["usageMetadata"]["cachedContentTokenCount"] == 4
    assert closing["usageMetadata"]["thoughtsTokenCount"] == 2


def test_a_blocked_prompt_is_a_whole_answer() -> None:
    reader = make(Op.STREAM_GENERATE)
    reader.feed(event({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}))
    assert reader.close().ended
    assert reader.usage(input_bound_tokens=0) == (Usage(9), Basis.REPORTED)


def test_a_message_that_has_said_why_it_stops_is_only_stopped() -> None:
    sample = messages(["a"])
    reader = make(Op.MESSAGES)
    reader.feed(sample.data.removesuffix(sample.tail))
    assert reader.closing() == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def cut_response(*more: dict[str, Any]) -> list[dict[str, Any]]:
    """The closing events of a response cut behind these."""
    created = responses([]).data.split(b"\n\n")[0] + b"\n\n"
    reader = make(Op.RESPONSES)
    reader.feed(created + b"".join(event(value, str(value["type"])) for value in more))
    return [json.loads(part.split(b"data: ")[1]) for part in reader.closing().split(b"\n\n") if part]


def test_a_response_cut_in_a_call_keeps_the_arguments_so_far() -> None:
    item = {
        "id": "fc_1",
        "type": "function_call",
        "name": "f",
        "call_id": "c",
        "arguments": "",
        "status": "in_progress",
    }
    events = cut_response(
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "fc_1", "delta": '{"a":'},
    )
    assert [value["type"] for value in events] == ["response.output_item.done", "response.incomplete"]
    assert events[0]["item"]["arguments"] == '{"a":'
    assert events[-1]["response"]["output"] == [{**item, "arguments": '{"a":', "status": "incomplete"}]


def test_a_response_cut_in_a_refusal_keeps_what_was_done_before() -> None:
    thought = {"id": "rs_1", "type": "reasoning", "summary": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "status": "in_progress"}
    place = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    events = cut_response(
        {"type": "response.output_item.added", "output_index": 0, "item": thought},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "item_id": "rs_1", "delta": "hm"},
        {"type": "response.output_item.added", "output_index": 1, "item": item},
        {"type": "response.refusal.delta", **place, "delta": "I will"},
        {"type": "response.refusal.delta", **place, "delta": " not"},
    )
    kinds = ["output_item.done", "refusal.done", "content_part.done", "output_item.done", "incomplete"]
    assert [value["type"] for value in events] == [f"response.{kind}" for kind in kinds]
    output = events[-1]["response"]["output"]
    assert output[0] == {**thought, "status": "incomplete"}
    assert output[1]["content"] == [{"type": "refusal", "refusal": "I will not"}]


def test_a_picture_and_a_sound_have_no_closing_events() -> None:
    assert make(Op.IMAGES_EDITS).closing() == b""
    assert make(Op.SPEECH, content_type="text/event-stream").closing() == b""
    sound = make(Op.SPEECH)
    assert (sound.closing(), sound.fit(b"x", 0), sound.output_bound(), sound.count()) == (b"", b"x", 0, 0)
    assert sound.plausible(Usage())


def test_a_choice_without_text_changes_nothing_that_was_learned() -> None:
    events = [part + b"\n\n" for part in chat([f" w{number}" for number in range(12)]).data.split(b"\n\n")[:-3]]
    odd = [b'data: {"choices":[]}\n\n', b'data: {"choices":[{"index":5,"delta":{"content":" x"}}]}\n\n', b"data: 7\n\n"]
    reader = make(Op.CHAT)
    reader.feed(b"".join([*events[:8], *odd, *events[8:]]))
    assert reader.count() == 13


def test_broken_strings_of_the_usual_form_lose_nothing_else() -> None:
    events = [part + b"\n\n" for part in chat([f" w{number}" for number in range(12)]).data.split(b"\n\n")[:-3]]
    events[9] = events[9].replace(b" w8", b" w8\\q")
    reader = make(Op.CHAT)
    for part in events:
        reader.feed(part)
    assert reader.count() == 11
    assert reader.fit(b"not what was fed", 3) == b""
