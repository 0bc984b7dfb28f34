"""The official `google-genai` client through the gateway: base URL and key changed, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from e2e.stack import Stack
from google import genai
from google.genai import errors, types

MODEL = "gemini-2.5-flash"
SAID = "What is a toll booth for?"
WISH = {"x-sim-output-tokens": "30"}


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return stack.buy(20_000)


def google(stack: Stack, key: str) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=stack.base_url))


@pytest.fixture
def client(stack: Stack, key: str) -> Iterator[genai.Client]:
    client = google(stack, key)
    yield client
    client.close()


def config(**members: Any) -> types.GenerateContentConfig:
    wish = WISH | members.pop("headers", {})
    return types.GenerateContentConfig(http_options=types.HttpOptions(headers=wish), **members)


TOOLS: Any = [
    types.Tool(
        function_declarations=[
            types.FunctionDeclaration(
                name="look_up",
                description="Looks something up",
                parameters_json_schema={"type": "object", "properties": {"text": {"type": "string"}}},
            )
        ]
    )
]


def test_google_answers_whole(client: genai.Client) -> None:
    answer = client.models.generate_content(model=MODEL, contents=SAID, config=config())
    assert answer.text and answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 30


def test_google_streams(client: genai.Client) -> None:
    chunks = list(client.models.generate_content_stream(model=MODEL, contents=SAID, config=config()))
    assert len("".join(chunk.text or "" for chunk in chunks).split()) == 30


def test_google_calls_tools(client: genai.Client) -> None:
    answer = client.models.generate_content(
        model=MODEL, contents=SAID, config=config(tools=TOOLS, headers={"x-sim-tool": "1"})
    )
    assert answer.function_calls and answer.function_calls[0].name == "look_up"


def test_google_streams_tools(client: genai.Client) -> None:
    chunks = client.models.generate_content_stream(
        model=MODEL, contents=SAID, config=config(tools=TOOLS, headers={"x-sim-tool": "1"})
    )
    assert any(chunk.function_calls for chunk in chunks)


def test_google_sees_images(client: genai.Client) -> None:
    picture = types.Part.from_bytes(data=b"\x89PNG" * 50, mime_type="image/png")
    answer = client.models.generate_content(
        model=MODEL, contents=[picture, "What is this?"], config=config(max_output_tokens=20)
    )
    assert answer.usage_metadata is not None and answer.usage_metadata.candidates_token_count == 20


def test_google_embeds(client: genai.Client, stack: Stack, key: str) -> None:
    before = stack.balance(key)["posted"]
    answer = client.models.embed_content(model="gemini-embedding-001", contents=["one two", "three"])
    assert answer.embeddings is not None and len(answer.embeddings) == 2
    assert stack.balance(key)["posted"] > before


def test_google_counts_tokens_for_nothing(client: genai.Client, stack: Stack, key: str) -> None:
    before = stack.balance(key)
    counted = client.models.count_tokens(model=MODEL, contents=SAID)
    assert counted.total_tokens and stack.balance(key) == before


def test_google_lists_models_in_its_own_shape(client: genai.Client) -> None:
    assert all((model.name or "").startswith("models/") for model in client.models.list())


def test_google_makes_images(client: genai.Client, stack: Stack, key: str) -> None:
    before = stack.balance(key)["posted"]
    answer = client.models.generate_content(model="gemini-2.5-flash-image", contents="A toll booth", config=config())
    assert answer.usage_metadata is not None
    assert stack.balance(key)["posted"] > before


def test_google_shows_the_refusal(stack: Stack) -> None:
    client = google(stack, "AIza-somebodys-own")
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model=MODEL, contents=SAID)
    client.close()
    assert caught.value.code == 402 and "paid" in (caught.value.message or "")


# The client's own class derives from aiohttp's session, which aiohttp discourages.
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_google_async_answers_and_streams(stack: Stack, key: str) -> None:
    client = google(stack, key)
    answer = await client.aio.models.generate_content(model=MODEL, contents=SAID, config=config())
    assert answer.usage_metadata is not None and answer.usage_metadata.candidates_token_count == 30
    chunks = await client.aio.models.generate_content_stream(model=MODEL, contents=SAID, config=config())
    assert len("".join([chunk.text or "" async for chunk in chunks]).split()) == 30
    await client.aio.aclose()
    client.close()
