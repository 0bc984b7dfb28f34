"""The official `openai` client through the gateway: base URL and key changed, nothing else."""

from __future__ import annotations

import io
from typing import Any

import openai
import pytest
from e2e.stack import MODEL, Stack
from openai import AsyncOpenAI, OpenAI

SAID: Any = [{"role": "user", "content": "What is a toll booth for?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}
WISH = {"x-sim-output-tokens": "30"}


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return stack.buy(20_000)


@pytest.fixture
def client(stack: Stack, key: str) -> Any:
    with OpenAI(base_url=f"{stack.base_url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_openai_answers_whole(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=SAID, extra_headers=WISH)
    assert answer.choices[0].message.content and answer.usage is not None
    assert answer.usage.completion_tokens == 30


def test_openai_tells_cost_and_balance_in_headers(client: OpenAI, stack: Stack, key: str) -> None:
    before = stack.balance(key)["available"]
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=SAID, extra_headers=WISH)
    after = stack.balance(key)["available"]
    assert raw.headers["farebox-cost"] == f"amount_msat={before - after}" and before > after
    assert raw.headers["farebox-balance"] == f"amount_msat={after}"


def test_openai_streams(client: OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=SAID, stream=True, extra_headers=WISH)
    chunks = list(stream)
    assert all(chunk.choices for chunk in chunks), "a usage chunk came that nobody had asked for"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_streams_usage_when_asked(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=SAID, stream=True, stream_options={"include_usage": True}, extra_headers=WISH
    )
    last = list(stream)[-1]
    assert not last.choices and last.usage is not None and last.usage.completion_tokens == 30


def test_openai_calls_tools(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=SAID, tools=[TOOL], extra_headers=WISH | {"x-sim-tool": "1"}
    )
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "look_up"


def test_openai_streams_tools(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=SAID, tools=[TOOL], stream=True, extra_headers=WISH | {"x-sim-tool": "1"}
    )
    deltas: Any = [chunk.choices[0].delta for chunk in stream]
    assert any(delta.tool_calls for delta in deltas)


def test_openai_sees_images_in_messages(client: OpenAI) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}
    said: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    answer = client.chat.completions.create(model=MODEL, messages=said, max_tokens=20)
    assert answer.usage is not None and answer.usage.completion_tokens == 20


def test_openai_responses(client: OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Hello there", extra_headers=WISH)
    assert answer.output_text and answer.usage is not None and answer.usage.output_tokens == 30


def test_openai_streams_responses(client: OpenAI) -> None:
    events = list(client.responses.create(model=MODEL, input="Hello there", stream=True, extra_headers=WISH))
    assert events[-1].type == "response.completed"


def test_openai_legacy_completions(client: OpenAI) -> None:
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once upon a time", max_tokens=12)
    assert answer.usage is not None and answer.usage.completion_tokens == 12


def test_openai_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["one two", "three"])
    assert len(answer.data) == 2 and answer.usage.prompt_tokens == 3


def test_openai_makes_images(client: OpenAI, stack: Stack, key: str) -> None:
    before = stack.balance(key)["posted"]
    answer = client.images.generate(model="gpt-image-1", prompt="A toll booth", size="1024x1024", quality="low")
    assert answer.data and answer.data[0].b64_json
    assert stack.balance(key)["posted"] > before


def test_openai_transcribes(client: OpenAI, stack: Stack, key: str) -> None:
    before = stack.balance(key)["posted"]
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", io.BytesIO(b"\0" * 64_000), "audio/wav")
    )
    assert answer.text
    assert stack.balance(key)["posted"] > before


def test_openai_speaks(client: OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Hello") as answer:
        assert answer.read()


def test_openai_lists_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()]


def test_openai_shows_the_refusal_without_trying_again(stack: Stack) -> None:
    seen = len(stack.sim_log())
    with OpenAI(base_url=f"{stack.base_url}/v1", api_key="sk-somebodys-own-key") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=MODEL, messages=SAID)
    assert caught.value.status_code == 402 and "paid" in caught.value.message
    assert caught.value.body["code"] == "payment_required"  # type: ignore[index]
    assert len(stack.sim_log()) == seen


def test_openai_says_which_model_has_no_price(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody-knows-this", messages=SAID)
    assert caught.value.code == "unknown_model"


async def test_openai_async_answers_and_streams(stack: Stack, key: str) -> None:
    async with AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=key, max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=SAID, extra_headers=WISH)
        assert answer.usage is not None and answer.usage.completion_tokens == 30
        stream = await client.chat.completions.create(model=MODEL, messages=SAID, stream=True, extra_headers=WISH)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert len(text.split()) == 30
