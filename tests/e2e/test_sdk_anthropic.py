"""The official `anthropic` client through the gateway: base URL and key changed, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from e2e.stack import Stack

MODEL = "claude-haiku-4-5"
SAID: Any = [{"role": "user", "content": "What is a toll booth for?"}]
TOOL: Any = {
    "name": "look_up",
    "description": "Looks something up",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
WISH = {"x-sim-output-tokens": "30"}
LIMIT = 200


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return stack.buy(20_000)


@pytest.fixture
def client(stack: Stack, key: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=stack.base_url, api_key=key, max_retries=0) as client:
        yield client


def test_anthropic_answers_whole(client: Anthropic) -> None:
    answer: Any = client.messages.create(model=MODEL, max_tokens=LIMIT, messages=SAID, extra_headers=WISH)
    assert answer.content[0].text and answer.usage.output_tokens == 30


def test_anthropic_streams(client: Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=LIMIT, messages=SAID, extra_headers=WISH) as stream:
        assert len("".join(stream.text_stream).split()) == 30
        assert stream.get_final_message().usage.output_tokens == 30


def test_anthropic_streams_raw_events(client: Anthropic) -> None:
    events = list(client.messages.create(model=MODEL, max_tokens=LIMIT, messages=SAID, stream=True, extra_headers=WISH))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")


def test_anthropic_calls_tools(client: Anthropic) -> None:
    answer: Any = client.messages.create(
        model=MODEL, max_tokens=LIMIT, messages=SAID, tools=[TOOL], extra_headers=WISH | {"x-sim-tool": "1"}
    )
    assert [block.name for block in answer.content if block.type == "tool_use"] == ["look_up"]


def test_anthropic_streams_tools(client: Anthropic) -> None:
    wish = WISH | {"x-sim-tool": "1"}
    with client.messages.stream(
        model=MODEL, max_tokens=LIMIT, messages=SAID, tools=[TOOL], extra_headers=wish
    ) as stream:
        final: Any = stream.get_final_message()
    assert [block.name for block in final.content if block.type == "tool_use"] == ["look_up"]


def test_anthropic_sees_images(client: Anthropic) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 400}}
    said: Any = [{"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}]
    assert client.messages.create(model=MODEL, max_tokens=20, messages=said).usage.output_tokens == 20


def test_anthropic_counts_tokens_for_nothing(client: Anthropic, stack: Stack, key: str) -> None:
    before = stack.balance(key)
    assert client.messages.count_tokens(model=MODEL, messages=SAID).input_tokens > 0
    assert stack.balance(key) == before


def test_anthropic_lists_models_in_its_own_shape(client: Anthropic) -> None:
    assert all(model.type == "model" for model in client.models.list())


def test_anthropic_shows_the_refusal(stack: Stack) -> None:
    with Anthropic(base_url=stack.base_url, api_key="sk-ant-somebodys-own") as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(model=MODEL, max_tokens=LIMIT, messages=SAID)
    assert caught.value.status_code == 402 and "paid" in str(caught.value.body)


async def test_anthropic_async_answers_and_streams(stack: Stack, key: str) -> None:
    async with AsyncAnthropic(base_url=stack.base_url, api_key=key, max_retries=0) as client:
        answer: Any = await client.messages.create(model=MODEL, max_tokens=LIMIT, messages=SAID, extra_headers=WISH)
        assert answer.usage.output_tokens == 30
        async with client.messages.stream(model=MODEL, max_tokens=LIMIT, messages=SAID, extra_headers=WISH) as stream:
            assert len((await stream.get_final_text()).split()) == 30
