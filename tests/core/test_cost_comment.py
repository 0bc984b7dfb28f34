"""The line that tells the cost: seen by nobody who does not look for it, and gone without a trace when taken out."""

from __future__ import annotations

import json
from collections.abc import Callable

import anthropic
import httpx2
import openai
import pytest
from stream_samples import Sample, chat, messages, responses

from gateway.core.answers.registry import reader_for
from gateway.core.cost_comment import place_comment, sse_comment, without_comments

COMMENT = sse_comment(
    request_id="req_00abc",
    cost={"amount": "0.001234", "currency": "USD"},
    balance={"amount_msat": 12},
    usage={"input_tokens": 1, "output_tokens": 2},
    final=True,
    cut=None,
)


def letters(text: str) -> int:
    return len(text)


def with_comment(sample: Sample) -> bytes:
    reader = reader_for(sample.operation, counter=letters, strip_usage=False, client_asked_usage=True)
    piece, last = reader.feed(sample.data), reader.close()
    return piece.forward + last.forward + place_comment(COMMENT, piece.tail + last.tail)


def client(data: bytes) -> httpx2.Client:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=data)

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def test_the_comment_is_one_line_of_json() -> None:
    assert COMMENT.startswith(b": farebox {")
    assert COMMENT.count(b"\n") == 1
    assert json.loads(COMMENT.removeprefix(b": farebox ")) == {
        "request_id": "req_00abc",
        "cost": {"amount": "0.001234", "currency": "USD"},
        "balance": {"amount_msat": 12},
        "usage": {"input_tokens": 1, "output_tokens": 2},
        "final": True,
        "cut": None,
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("make", [chat, messages, responses])
def test_it_stands_directly_before_the_last_event_and_comes_out_again(make: Callable[..., Sample], end: str) -> None:
    sample = make(["a", ": farebox b"], end=end)
    stream = with_comment(sample)
    assert stream == sample.data.removesuffix(sample.tail) + COMMENT + sample.tail
    assert without_comments(stream) == sample.data


def test_of_closing_events_it_stands_before_the_last() -> None:
    tail = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'
    assert place_comment(COMMENT, tail) == b'data: {"choices":[]}\n\n' + COMMENT + b"data: [DONE]\n\n"
    assert place_comment(COMMENT, tail + b": late\n\n") == place_comment(COMMENT, tail) + b": late\n\n"
    assert place_comment(COMMENT, b"") == COMMENT


def test_the_openai_sdk_does_not_see_it() -> None:
    with openai.OpenAI(
        api_key="none", base_url="http://x/v1", http_client=client(with_comment(chat(["a", "b"])))
    ) as sdk:
        chunks = list(sdk.chat.completions.create(model="m", messages=[], stream=True))
    assert [choice.delta.content for chunk in chunks for choice in chunk.choices] == ["", "a", "b", None]
    with openai.OpenAI(
        api_key="none", base_url="http://x/v1", http_client=client(with_comment(responses(["a"])))
    ) as sdk:
        assert list(sdk.responses.create(model="m", input="x", stream=True))[-1].type == "response.completed"


def test_the_anthropic_sdk_does_not_see_it() -> None:
    sdk = anthropic.Anthropic(
        api_key="none", base_url="http://x", http_client=client(with_comment(messages(["a", "b"])))
    )
    with sdk, sdk.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
        assert stream.get_final_text() == "ab"
