"""The simulated upstream speaks the real dialects: the official SDKs read it, and its log is the truth."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from websockets.asyncio.client import connect

from gateway.simulators.upstream_serving import spawned_upstream
from gateway.simulators.upstream_words import WORDS, text

QUESTION: Any = [{"role": "user", "content": "How are you today?"}]
TOOL = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
CHAT: Any = {"model": "gpt-4o-mini", "messages": QUESTION}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with spawned_upstream() as url:
        yield url


@pytest.fixture
def raw(base_url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=base_url, timeout=20) as client:
        yield client


@pytest.fixture
def chatgpt(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="sk-upstream", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(base_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=base_url, api_key="sk-ant", max_retries=0) as client:
        yield client


@pytest.fixture
async def gemini(base_url: str) -> AsyncIterator[genai.Client]:
    client = genai.Client(api_key="AIza", http_options=types.HttpOptions(base_url=base_url))
    yield client
    await client.aio.aclose()
    client.close()


def log_of(raw: httpx2.Client, request_id: str) -> dict[str, Any]:
    found = raw.get("/sim/log", params={"request_id": request_id}).json()
    assert len(found) == 1
    record: dict[str, Any] = found[0]
    return record


def ended_log_of(raw: httpx2.Client, request_id: str, within_s: float = 5.0) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while (record := log_of(raw, request_id))["ended_at"] is None:
        assert time.monotonic() < until, record
        time.sleep(0.01)
    return record


# The vocabulary


# The package reads its vocabularies by a call that Python 3.11 deprecates.
@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")
@pytest.mark.parametrize("vocabulary", ["o200k_base", "cl100k_base"])
def test_every_word_is_one_token_alone_and_in_any_company(vocabulary: str) -> None:
    encoding = importlib.import_module("bpe_openai").get_encoding(vocabulary)
    assert len(WORDS) == len(set(WORDS)) == 128
    assert all(len(encoding.encode(word)) == 1 and len(word) == 4 for word in WORDS)
    for seed in range(20):
        said = text(bytes([seed]), 5_000)
        assert len(encoding.encode(said)) == len(said) // 4 == 5_000


# OpenAI


def test_openai_chat_counts_what_it_says(chatgpt: openai.OpenAI) -> None:
    answer = chatgpt.chat.completions.create(model="gpt-4o", messages=QUESTION, max_tokens=7)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 7)
    assert len(answer.choices[0].message.content or "") == 7 * 4
    assert answer.choices[0].finish_reason == "length"


def test_openai_stream_tells_usage_only_when_asked(chatgpt: openai.OpenAI) -> None:
    def chunks(**options: Any) -> list[Any]:
        return list(chatgpt.chat.completions.create(**CHAT, stream=True, **options))

    plain = chunks(extra_headers={"x-sim-output-tokens": "5"})
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain).count(" ") == 5
    assert plain[-1].choices[0].finish_reason == "stop"
    asked = chunks(stream_options={"include_usage": True}, max_completion_tokens=5)
    assert asked[-1].choices == [] and asked[-1].usage.completion_tokens == 5


def test_openai_stream_members_are_exactly_openais(raw: httpx2.Client) -> None:
    def events(**more: Any) -> list[dict[str, Any]]:
        lines = raw.post("/v1/chat/completions", json=CHAT | {"stream": True} | more).text.split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]

    assert not any("usage" in event for event in events())
    asked = events(stream_options={"include_usage": True})
    assert [event["usage"] is None for event in asked] == [True] * (len(asked) - 1) + [False]


def test_openai_tools_streamed_and_not(chatgpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look_up", "parameters": TOOL}}]
    wish = {"x-sim-tool": "1", "x-sim-output-tokens": "6"}
    whole: Any = chatgpt.chat.completions.create(**CHAT, tools=tools, extra_headers=wish)
    call = whole.choices[0].message.tool_calls[0].function
    assert call.name == "look_up" and whole.choices[0].finish_reason == "tool_calls"
    with chatgpt.chat.completions.stream(**CHAT, tools=tools, extra_headers=wish) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert len(json.loads(streamed[0].function.arguments)["text"]) == len(json.loads(call.arguments)["text"]) == 24


def test_openai_choices_are_counted_all(chatgpt: openai.OpenAI) -> None:
    answer = chatgpt.chat.completions.create(**CHAT, n=3, max_tokens=4)
    assert answer.usage.completion_tokens == 12
    assert len({choice.message.content for choice in answer.choices}) == 3
    stream = chatgpt.chat.completions.create(**CHAT, n=3, max_tokens=4, stream=True)
    assert {chunk.choices[0].index for chunk in stream} == {0, 1, 2}


def test_openai_completions_and_responses(chatgpt: openai.OpenAI) -> None:
    old = chatgpt.completions.create(model="gpt-3.5-turbo-instruct", prompt="one two", max_tokens=3)
    assert old.usage is not None and old.usage.total_tokens == 5
    whole = chatgpt.responses.create(model="gpt-5", input="one two", extra_headers={"x-sim-reasoning-tokens": "60"})
    assert whole.usage is not None and whole.status == "completed"
    assert whole.usage.output_tokens_details.reasoning_tokens == 60
    assert len(whole.output_text) == 4 * 4
    with chatgpt.responses.stream(model="gpt-5", input="one two", max_output_tokens=5) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response() if kinds[-1] == "response.completed" else None
    assert kinds.count("response.output_text.delta") == 5 and kinds[-1] == "response.incomplete" and final is None
    counted = chatgpt.responses.input_tokens.count(model="gpt-5", input="one two three")
    assert counted.input_tokens == 3
    assert chatgpt.responses.compact(model="gpt-5", input="one two").usage.input_tokens == 2


def test_openai_responses_call_tools(chatgpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "look_up", "parameters": TOOL, "strict": False}]
    with chatgpt.responses.stream(
        model="gpt-5", input="x", tools=tools, extra_headers={"x-sim-tool": "1", "x-sim-output-tokens": "3"}
    ) as stream:
        item: Any = stream.get_final_response().output[0]
    assert item.name == "look_up" and len(json.loads(item.arguments)["text"]) == 12


def test_openai_embeddings_images_and_audio(chatgpt: openai.OpenAI) -> None:
    vectors = chatgpt.embeddings.create(model="text-embedding-3-small", input=["one two", "three"], dimensions=8)
    assert [len(item.embedding) for item in vectors.data] == [8, 8] and vectors.usage.total_tokens == 3
    drawn = chatgpt.images.generate(model="gpt-image-1", prompt="a small cat", n=2, quality="low")
    assert drawn.data is not None and base64.b64decode(drawn.data[0].b64_json or "").startswith(b"\x89PNG")
    assert drawn.usage is not None and (drawn.usage.input_tokens, drawn.usage.output_tokens) == (3, 544)
    edited = chatgpt.images.edit(model="gpt-image-1", prompt="bigger", image=("a.png", b"x" * 99, "image/png"))
    assert edited.usage is not None and edited.usage.output_tokens == 1_056
    upload = ("a.wav", b"\0" * 64_000, "audio/wav")
    heard: Any = chatgpt.audio.transcriptions.create(model="whisper-1", file=upload)
    assert (heard.usage.type, heard.usage.seconds) == ("duration", 2)
    events: Any = list(chatgpt.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload, stream=True))
    assert events[-1].usage.total_tokens == 20 + 64 and len(events) == 65
    assert len(chatgpt.audio.speech.create(model="tts-1", voice="alloy", input="hello").read()) == 5 * 64


def test_openai_images_stream_half_drawn_and_finished(chatgpt: openai.OpenAI) -> None:
    asked: Any = {"model": "gpt-image-1", "prompt": "a small cat", "stream": True, "partial_images": 2}
    drawn: Any = list(chatgpt.images.generate(**asked, quality="low"))
    assert [event.type for event in drawn] == [
        "image_generation.partial_image", "image_generation.partial_image", "image_generation.completed",
    ]  # fmt: skip
    assert [event.partial_image_index for event in drawn[:2]] == [0, 1]
    assert base64.b64decode(drawn[-1].b64_json).startswith(b"\x89PNG")
    assert (drawn[-1].usage.input_tokens, drawn[-1].usage.output_tokens) == (3, 272 + 2 * 100)
    edited: Any = list(chatgpt.images.edit(**asked, image=("a.png", b"x" * 99, "image/png")))
    assert edited[-1].type == "image_edit.completed" and edited[-1].usage.output_tokens == 1_056 + 2 * 100
    whole: Any = chatgpt.images.generate(model="dall-e-3", prompt="a cat", extra_body={"stream": True})
    assert whole.data and whole.usage is None


def test_openai_transcriptions_come_in_every_form(chatgpt: openai.OpenAI) -> None:
    upload = ("a.wav", b"\0" * 64_000, "audio/wav")

    def heard(form: Any, **more: Any) -> Any:
        return chatgpt.audio.transcriptions.create(model="whisper-1", file=upload, response_format=form, **more)

    assert len(heard("text")) == 64 * 4 + 1
    assert heard("srt").startswith("1\n00:00:00,000 --> 00:00:02,000\n ")
    assert heard("vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n ")
    verbose = heard("verbose_json")
    assert (verbose.duration, verbose.usage.seconds, len(verbose.segments)) == (2.0, 2.0, 1)
    assert heard("json", extra_body={"stream": True}).usage.seconds == 2


async def test_openai_async_client_streams(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{base_url}/openai/v1", api_key="k") as client:
        stream: Any = await client.chat.completions.create(**CHAT, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert len(said) == 64 * 4
        assert await anext(model.id async for model in client.models.list()) == "gpt-4o-mini"
        assert (await client.models.retrieve("any/model")).id == "any/model"


async def test_openai_realtime_answers_with_usage(base_url: str) -> None:
    url = base_url.replace("http", "ws") + "/v1/realtime?model=gpt-realtime"
    async with connect(url, additional_headers={"x-sim-output-tokens": "5", "farebox-request-id": "r1"}) as socket:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one two"}]}
        await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        await socket.send(json.dumps({"type": "response.create"}))
        events: list[Any] = []
        while not events or events[-1]["type"] != "response.done":
            events.append(json.loads(await socket.recv()))
    assert events[0]["type"] == "session.created"
    usage = events[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (2, 5)
    async with httpx2.AsyncClient(base_url=base_url) as client:
        record = (await client.get("/sim/log?request_id=r1")).json()[0]
    assert (record["method"], record["tokens_sent"], record["model"]) == ("WEBSOCKET", 5, "gpt-realtime")


# Anthropic


def test_anthropic_messages_streamed_and_not(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(
        model="claude-sonnet-x", max_tokens=5, messages=QUESTION, extra_headers={"x-sim-cached-tokens": "3"}
    )
    assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens, whole.usage.output_tokens) == (1, 3, 5)
    assert whole.stop_reason == "max_tokens"
    with claude.messages.stream(model="claude-sonnet-x", max_tokens=100, messages=QUESTION) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert len(said) == 64 * 4 and final.usage.output_tokens == 64 and final.stop_reason == "end_turn"


def test_anthropic_tools_counting_and_listing(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": "look_up", "input_schema": TOOL}]
    with claude.messages.stream(
        model="m",
        max_tokens=100,
        messages=QUESTION,
        tools=tools,
        extra_headers={"x-sim-tool": "1"},
    ) as stream:
        block: Any = stream.get_final_message().content[0]
    assert block.name == "look_up" and len(block.input["text"]) == 64 * 4
    assert claude.messages.count_tokens(model="m", messages=QUESTION).input_tokens == 4
    assert next(iter(claude.models.list())).type == "model"


async def test_anthropic_async_client_streams(base_url: str) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=f"{base_url}/anthropic", api_key="k") as client,
        client.messages.stream(model="m", max_tokens=9, messages=QUESTION) as stream,
    ):
        said = "".join([piece async for piece in stream.text_stream])
    assert len(said) == 36


# Gemini


# google-genai's own use of aiohttp.
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_gemini_generates_streams_embeds_and_counts(gemini: genai.Client) -> None:
    model = "gemini-2.5-flash"
    limit = types.GenerateContentConfig(max_output_tokens=5)
    whole = gemini.models.generate_content(model=model, contents="one two", config=limit)
    usage = whole.usage_metadata
    assert usage is not None and (usage.prompt_token_count, usage.candidates_token_count) == (2, 5)
    assert whole.candidates is not None and whole.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    stream = list(gemini.models.generate_content_stream(model=model, contents="one two"))
    assert len(stream) == 64 and stream[-1].usage_metadata is not None
    assert stream[-1].usage_metadata.candidates_token_count == 64
    arriving = await gemini.aio.models.generate_content_stream(model=model, contents="one two", config=limit)
    assert "".join([chunk.text or "" async for chunk in arriving]).count(" ") == 5
    assert gemini.models.count_tokens(model=model, contents="one two three").total_tokens == 3
    vectors = gemini.models.embed_content(model="gemini-embedding-001", contents=["one", "two"]).embeddings
    assert vectors is not None and len(vectors) == 2 and len(vectors[0].values or []) == 768
    assert next(iter(gemini.models.list())).name == "models/gpt-4o-mini"


def test_gemini_calls_tools(gemini: genai.Client) -> None:
    declared = types.FunctionDeclaration(name="look_up", parameters_json_schema=TOOL)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])],
        http_options=types.HttpOptions(headers={"x-sim-tool": "1", "x-sim-output-tokens": "2"}),
    )
    calls = gemini.models.generate_content(model="m", contents="x", config=config).function_calls
    assert calls is not None and calls[0].name == "look_up" and len((calls[0].args or {})["text"]) == 8


def test_gemini_without_sse_is_one_json_array(raw: httpx2.Client) -> None:
    asked = {"contents": [{"parts": [{"text": "one two"}]}]}
    path = "/gemini/v1beta/models/gemini-2.5-pro:streamGenerateContent"
    array = raw.post(path, json=asked, headers={"x-sim-output-tokens": "3"}).json()
    assert [part["usageMetadata"]["candidatesTokenCount"] for part in array] == [1, 2, 3]
    events = raw.post(f"{path}?alt=sse", json=asked, headers={"x-sim-output-tokens": "3"}).content
    assert events.count(b"\r\n\r\n") == 3


# Ollama and raw


def test_ollama_streams_unless_told_otherwise(raw: httpx2.Client) -> None:
    asked = {"model": "llama3.2", "messages": QUESTION, "options": {"num_predict": 3}}
    lines = [json.loads(line) for line in raw.post("/ollama/api/chat", json=asked).text.splitlines()]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert (lines[-1]["done_reason"], lines[-1]["eval_count"], lines[-1]["prompt_eval_count"]) == ("length", 3, 4)
    whole = raw.post("/api/generate", json={"model": "llama3.2", "prompt": "one", "stream": False}).json()
    assert len(whole["response"]) == 64 * 4 and whole["eval_count"] == 64
    assert raw.get("/api/tags").json()["models"]


def test_raw_paths_give_a_fixed_answer_and_others_do_not_exist(raw: httpx2.Client) -> None:
    assert raw.request("PUT", "/raw/any/thing", content=b"abc").json()["received_bytes"] == 3
    assert raw.get("/v1/files").status_code == 404
    assert raw.post("/v1/chat/completions", content=b"{").status_code == 400


# Determinism, pace, faults, log


def test_same_request_gets_the_same_bytes_and_the_log_knows_them(raw: httpx2.Client) -> None:
    wish = {"x-sim-output-tokens": "200", "farebox-request-id": "same"}
    first = raw.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish)
    second = raw.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish | {"x-sim-burst": "1"})
    assert first.content == second.content
    logged = raw.get("/sim/log", params={"request_id": "same"}).json()
    assert {record["sha256"] for record in logged} == {hashlib.sha256(first.content).hexdigest()}
    assert {record["body_sha256"] for record in logged} == {hashlib.sha256(first.request.content).hexdigest()}
    assert [record["tokens_sent"] for record in logged] == [200, 200]
    assert logged[0]["bytes_sent"] == len(first.content)
    assert raw.get("/sim/log", params={"after": logged[0]["n"]}).json()[0]["n"] == logged[0]["n"] + 1


def test_chunks_are_padded_to_the_size_asked_for(raw: httpx2.Client) -> None:
    wish = {"x-sim-chunk-bytes": "400"}
    events = raw.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish).text.split("\n\n")
    assert {len(event) + 2 for event in events[1:-3]} == {400}


def test_unpaced_millions_and_paced_few(raw: httpx2.Client) -> None:
    started = time.monotonic()
    wish = {"x-sim-output-tokens": "10", "x-sim-interval-ms": "20"}
    raw.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish)
    assert time.monotonic() - started >= 0.2
    many = raw.post("/v1/chat/completions", json=CHAT, headers={"x-sim-output-tokens": "1000000"}).json()
    assert len(many["choices"][0]["message"]["content"]) == 4_000_000


@pytest.mark.parametrize("interval_ms", ["0", "5"])
def test_a_client_that_hangs_up_is_noticed_and_told(raw: httpx2.Client, interval_ms: str) -> None:
    wish = {"x-sim-output-tokens": "1000000", "x-sim-interval-ms": interval_ms, "farebox-request-id": f"h{interval_ms}"}
    with raw.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish) as answer:
        next(answer.iter_bytes())
    record = ended_log_of(raw, f"h{interval_ms}")
    assert record["cut_off"] and record["cut_at"] and 0 <= record["tokens_sent"] < 1_000_000


def test_close_breaks_off_and_is_not_a_hang_up(raw: httpx2.Client) -> None:
    wish = {"x-sim-fault": "close@30", "farebox-request-id": "c"}
    got = b""
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        raw.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish) as answer,
    ):
        for piece in answer.iter_bytes():
            got += piece
    whole = raw.post("/v1/chat/completions", json=CHAT | {"stream": True}).content
    assert whole.startswith(got) and got.count(b'"content":" ') == 30
    record = ended_log_of(raw, "c")
    assert (record["tokens_sent"], record["cut_off"]) == (30, False)


@pytest.mark.parametrize("stream", [True, False])
def test_stall_sends_no_more_and_keeps_the_connection(raw: httpx2.Client, stream: bool) -> None:
    wish = {"x-sim-fault": "stall@30", "farebox-request-id": f"s{stream}"}
    with pytest.raises(httpx2.ReadTimeout):
        raw.post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers=wish, timeout=0.5)
    record = ended_log_of(raw, f"s{stream}")
    assert (record["tokens_sent"], record["cut_off"]) == (30, True)


def test_usage_faults(raw: httpx2.Client) -> None:
    def usage(fault: str) -> Any:
        answer = raw.post("/v1/chat/completions", json=CHAT, headers={"x-sim-fault": fault}).json()
        return answer.get("usage")

    assert usage("no-usage") is None
    assert usage("usage-x2")["completion_tokens"] == 128
    asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    bare = raw.post("/v1/chat/completions", json=asked, headers={"x-sim-fault": "no-usage"}).text
    assert "usage" not in bare and bare.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("path", "shape"), [("/v1/chat/completions", "server_error"), ("/v1/messages", "api_error"), ("/api/chat", "error")]
)
def test_status_500_comes_in_the_dialect(raw: httpx2.Client, path: str, shape: str) -> None:
    answer = raw.post(path, json=CHAT, headers={"x-sim-fault": "status-500"})
    assert answer.status_code == 500 and shape in answer.text


def test_slow_headers_wait_and_bad_wishes_are_named(raw: httpx2.Client) -> None:
    started = time.monotonic()
    raw.post("/v1/chat/completions", json=CHAT, headers={"x-sim-fault": "slow-headers", "x-sim-delay-ms": "200"})
    assert time.monotonic() - started >= 0.2
    refused = raw.post("/v1/chat/completions", json=CHAT, headers={"x-sim-fault": "stall"})
    assert refused.status_code == 400 and "x-sim-fault" in refused.text


def test_log_keeps_names_of_credentials_and_tells_payers_from_operators(raw: httpx2.Client) -> None:
    macaroon = base64.b64encode(b"\x02\x02\x42" + b"\0" * 66).decode()
    shown = {
        "op": {"authorization": "Bearer sk-upstream"},
        "l402": {"authorization": f"L402 {macaroon}:{'ab' * 32}"},
        "key": {"x-api-key": f"{macaroon}:{'ab' * 32}"},
        "app": {"x-anything": "fb_live_123"},
    }
    for name, headers in shown.items():
        raw.post("/v1/chat/completions", json=CHAT, headers=headers | {"farebox-request-id": f"cred-{name}"})
    records = {name: log_of(raw, f"cred-{name}") for name in shown}
    assert {name: record["payer_credential_seen"] for name, record in records.items()} == {
        "op": False,
        "l402": True,
        "key": True,
        "app": True,
    }
    assert records["op"]["authorization_sha256"] == [hashlib.sha256(b"Bearer sk-upstream").hexdigest()]
    assert "authorization" in records["op"]["headers_seen"] and macaroon not in json.dumps(records)


async def test_a_thousand_streams_at_once_all_come_whole(base_url: str) -> None:
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(base_url=base_url, limits=limits, timeout=60) as client:
        wish = {"x-sim-output-tokens": "20"}
        asked = [client.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=wish) for _ in range(1_000)]
        answers = await asyncio.gather(*asked)
    assert len({answer.content for answer in answers}) == 1


def test_deleting_the_log_clears_it(raw: httpx2.Client) -> None:
    raw.post("/v1/chat/completions", json=CHAT, headers={"farebox-request-id": "gone"})
    raw.delete("/sim/log")
    assert raw.get("/sim/log").json() == []
