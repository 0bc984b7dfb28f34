"""A corpus of usage objects as upstreams send them, with the usage that each of them means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.answers.registry import answer_text, served_model, usage_of_answer
from gateway.core.operations import Operation as Op
from gateway.core.usage import Usage

Case = tuple[str, Op, dict[str, Any], Usage | None]


def chat(**usage: Any) -> dict[str, Any]:
    return {"id": "c", "model": "gpt-4o-2024-08-06", "choices": [], "usage": usage}


def response(**usage: Any) -> dict[str, Any]:
    return {"id": "r", "model": "gpt-5", "output": [], "usage": usage}


def message(**usage: Any) -> dict[str, Any]:
    return {"id": "m", "model": "claude-sonnet-4-5", "content": [], "usage": usage}


def gemini(**usage: Any) -> dict[str, Any]:
    return {"candidates": [], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}


CASES: list[Case] = [
    ("plain chat", Op.CHAT, chat(prompt_tokens=9, completion_tokens=12, total_tokens=21), Usage(9, output_tokens=12)),
    (
        "chat with every detail",
        Op.CHAT,
        chat(
            prompt_tokens=1000,
            completion_tokens=300,
            prompt_tokens_details={"cached_tokens": 600, "cache_write_tokens": 100, "audio_tokens": 50},
            completion_tokens_details={"reasoning_tokens": 200, "audio_tokens": 20},
        ),
        Usage(1000, 600, 100, 0, 50, output_tokens=300, reasoning_tokens=200, output_audio_tokens=20),
    ),
    (
        "cached audio is part of both",
        Op.REALTIME,
        {
            "type": "response.done",
            "response": {
                "usage": {
                    "input_tokens": 120,
                    "output_tokens": 60,
                    "input_token_details": {
                        "cached_tokens": 70,
                        "audio_tokens": 90,
                        "cached_tokens_details": {"audio_tokens": 64, "text_tokens": 6},
                    },
                    "output_token_details": {"audio_tokens": 45},
                }
            },
        },
        Usage(120, 70, 0, 0, 90, 64, output_tokens=60, output_audio_tokens=45),
    ),
    (
        "DeepSeek's cache",
        Op.COMPLETIONS,
        chat(prompt_tokens=563, completion_tokens=116, prompt_cache_hit_tokens=512, prompt_cache_miss_tokens=51),
        Usage(563, 512, output_tokens=116),
    ),
    (
        "Mistral's cache",
        Op.CHAT,
        chat(prompt_tokens=68, completion_tokens=6, num_cached_tokens=64),
        Usage(68, 64, output_tokens=6),
    ),
    (
        "Hugging Face's cache",
        Op.CHAT,
        chat(prompt_tokens=16, completion_tokens=2, cached_tokens=8),
        Usage(16, 8, output_tokens=2),
    ),
    (
        "Groq's second place",
        Op.CHAT,
        {"choices": [], "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}},
        Usage(3, output_tokens=4),
    ),
    (
        "OpenRouter's cost is recorded, and its searches are calls",
        Op.CHAT,
        chat(
            prompt_tokens=2315,
            completion_tokens=40,
            cost=0.007637029,
            server_tool_use_details={"web_search_requests": 1},
        ),
        Usage(2315, output_tokens=40, tool_calls=(("web_search", 1),), reported_cost_picousd=7_637_029_000),
    ),
    (
        "through a router the same tokens can be read and written",
        Op.CHAT,
        chat(
            prompt_tokens=2168,
            completion_tokens=100,
            prompt_tokens_details={"cached_tokens": 2161, "cache_write_tokens": 2161},
        ),
        Usage(2168, 2161, 2161, output_tokens=100),
    ),
    (
        "details of null",
        Op.CHAT,
        chat(prompt_tokens=1, completion_tokens=2, prompt_tokens_details=None),
        Usage(1, output_tokens=2),
    ),
    ("the total gives what is missing", Op.CHAT, chat(prompt_tokens=5, total_tokens=9), Usage(5, output_tokens=4)),
    ("usage of null", Op.CHAT, {"choices": [], "usage": None}, None),
    ("no usage", Op.CHAT, {"choices": []}, None),
    ("usage that is no object", Op.CHAT, {"usage": [1]}, None),
    ("output missing", Op.CHAT, chat(prompt_tokens=5), None),
    ("a negative figure is missing", Op.CHAT, chat(prompt_tokens=-5, completion_tokens=2), None),
    ("an absurd figure is missing", Op.CHAT, chat(prompt_tokens=5, completion_tokens=10**12), None),
    ("a figure in words is missing", Op.CHAT, chat(prompt_tokens="5", completion_tokens=2), None),
    ("true is no figure", Op.CHAT, chat(prompt_tokens=True, completion_tokens=2), None),
    ("12.0 is 12", Op.CHAT, chat(prompt_tokens=12.0, completion_tokens=2), Usage(12, output_tokens=2)),
    (
        "a part larger than its whole is missing",
        Op.CHAT,
        chat(prompt_tokens=12, completion_tokens=2, prompt_tokens_details={"cached_tokens": 13}),
        Usage(12, output_tokens=2),
    ),
    (
        "reasoning is at most the output",
        Op.CHAT,
        chat(prompt_tokens=43, completion_tokens=10, completion_tokens_details={"reasoning_tokens": 11}),
        Usage(43, output_tokens=10, reasoning_tokens=10),
    ),
    (
        "the tier stands beside the usage",
        Op.CHAT,
        chat(prompt_tokens=1, completion_tokens=1) | {"service_tier": "flex"},
        Usage(1, output_tokens=1, service_tier="flex"),
    ),
    ("embeddings", Op.EMBEDDINGS, {"data": [], "usage": {"prompt_tokens": 2, "total_tokens": 2}}, Usage(2)),
    (
        "responses, with server tools by the call",
        Op.RESPONSES,
        response(
            input_tokens=800,
            output_tokens=90,
            input_tokens_details={"cached_tokens": 128, "cache_write_tokens": 64},
            output_tokens_details={"reasoning_tokens": 34},
        )
        | {
            "output": [
                {"type": "web_search_call", "action": {"type": "search"}},
                {"type": "web_search_call", "action": {"type": "open_page"}},
                {"type": "file_search_call"},
                {"type": "function_call", "name": "f"},
            ]
        },
        Usage(800, 128, 64, output_tokens=90, reasoning_tokens=34, tool_calls=(("file_search", 1), ("web_search", 1))),
    ),
    ("compaction", Op.RESPONSES_COMPACT, response(input_tokens=160, output_tokens=297), Usage(160, output_tokens=297)),
    (
        "Anthropic's input excludes the cache",
        Op.MESSAGES,
        message(
            input_tokens=4,
            cache_creation_input_tokens=379,
            cache_read_input_tokens=14714,
            cache_creation={"ephemeral_5m_input_tokens": 279, "ephemeral_1h_input_tokens": 100},
            output_tokens=290,
            output_tokens_details={"thinking_tokens": 19},
            server_tool_use={"web_search_requests": 2, "web_fetch_requests": 0},
            service_tier="standard",
        ),
        Usage(
            15097,
            14714,
            379,
            100,
            output_tokens=290,
            reasoning_tokens=19,
            tool_calls=(("web_search", 2),),
            service_tier="standard",
        ),
    ),
    (
        "Anthropic's writes by lifetime alone",
        Op.MESSAGES,
        message(
            input_tokens=1,
            output_tokens=1,
            cache_creation={"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
        ),
        Usage(13, 0, 12, 7, output_tokens=1),
    ),
    (
        "Anthropic's compaction is billed on top",
        Op.MESSAGES,
        message(
            input_tokens=10,
            output_tokens=5,
            iterations=[
                {"type": "compaction", "input_tokens": 1000, "output_tokens": 50},
                {"type": "message", "input_tokens": 10, "output_tokens": 5},
            ],
        ),
        Usage(1010, output_tokens=55),
    ),
    (
        "Anthropic's nulls",
        Op.MESSAGES,
        message(input_tokens=3, output_tokens=2, cache_read_input_tokens=None, server_tool_use=None),
        Usage(3, output_tokens=2),
    ),
    (
        "Gemini's thoughts and tools are added",
        Op.GENERATE,
        gemini(promptTokenCount=15, candidatesTokenCount=40, thoughtsTokenCount=257, toolUsePromptTokenCount=288),
        Usage(303, output_tokens=297, reasoning_tokens=257),
    ),
    (
        "Gemini's modalities",
        Op.GENERATE,
        gemini(
            promptTokenCount=17713,
            cachedContentTokenCount=17379,
            candidatesTokenCount=68,
            promptTokensDetails=[{"modality": "AUDIO", "tokenCount": 1917}, {"modality": "IMAGE", "tokenCount": 258}],
            cacheTokensDetails=[{"modality": "AUDIO", "tokenCount": 1881}],
            candidatesTokensDetails=[{"modality": "IMAGE", "tokenCount": 60}, {"modality": "TEXT", "tokenCount": 8}],
        ),
        Usage(17713, 17379, 0, 0, 1917, 1881, 258, 68, 0, 0, 60),
    ),
    (
        "Gemini's tier and searches",
        Op.GENERATE,
        gemini(promptTokenCount=5, candidatesTokenCount=1, trafficType="ON_DEMAND_FLEX")
        | {"modelVersion": "gemini-3-pro", "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}]},
        Usage(5, output_tokens=1, tool_calls=(("google_search", 2),), service_tier="flex"),
    ),
    (
        "searches of a Gemini that is billed by the request",
        Op.GENERATE,
        gemini(promptTokenCount=5, candidatesTokenCount=1)
        | {"modelVersion": "gemini-2.5-pro", "candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}]},
        Usage(5, output_tokens=1, tool_calls=(("google_search", 1),)),
    ),
    ("Gemini without candidates", Op.GENERATE, gemini(promptTokenCount=14), Usage(14)),
    ("Gemini embeddings", Op.EMBED, {"usageMetadata": {"promptTokenCount": 11}}, Usage(11)),
    ("Gemini embeddings without usage", Op.EMBED, {"embeddings": []}, None),
    (
        "Ollama",
        Op.OLLAMA_CHAT,
        {"done": True, "prompt_eval_count": 26, "eval_count": 290},
        Usage(26, output_tokens=290),
    ),
    ("Ollama with the prompt in its cache", Op.OLLAMA_GENERATE, {"done": True, "eval_count": 290}, None),
    (
        "transcription by duration, with tokens beside it",
        Op.TRANSCRIPTIONS,
        {"text": "hi", "usage": {"prompt_audio_seconds": 3, "prompt_tokens": 4, "completion_tokens": 2}},
        Usage(4, output_tokens=2, audio_ms=3000),
    ),
    (
        "transcription by duration",
        Op.TRANSCRIPTIONS,
        {"text": "hi", "usage": {"type": "duration", "seconds": 8.47}},
        Usage(audio_ms=8470),
    ),
    (
        "transcription by tokens",
        Op.TRANSCRIPTIONS,
        {
            "text": "hi",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "output_tokens": 45,
                "input_token_details": {"text_tokens": 10, "audio_tokens": 4},
            },
        },
        Usage(14, input_audio_tokens=4, output_tokens=45),
    ),
    ("verbose transcription", Op.TRANSCRIPTIONS, {"text": "hi", "duration": 1.0005}, Usage(audio_ms=1001)),
    (
        "images",
        Op.IMAGES_GENERATIONS,
        {
            "data": [{}, {}],
            "usage": {
                "input_tokens": 50,
                "output_tokens": 4160,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
            },
        },
        Usage(50, input_image_tokens=40, output_tokens=4160, output_image_tokens=4160, images=2),
    ),
    ("images without usage", Op.IMAGES_EDITS, {"data": [{}]}, None),
    ("listings", Op.LISTING, chat(prompt_tokens=1, completion_tokens=1), None),
]


@pytest.mark.parametrize(("operation", "body", "usage"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_answer_means_this_usage(operation: Op, body: dict[str, Any], usage: Usage | None) -> None:
    assert usage_of_answer(operation, json.dumps(body).encode()) == usage


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b'{"usage":', b"[" * 100_000])
@pytest.mark.parametrize("operation", list(Op))
def test_what_is_no_answer_has_no_usage(operation: Op, body: bytes) -> None:
    assert usage_of_answer(operation, body) is None
    assert served_model(operation, body) is None


def test_the_served_model_is_the_one_in_the_answer() -> None:
    assert served_model(Op.CHAT, b'{"model":"gpt-4o-2024-08-06"}') == "gpt-4o-2024-08-06"
    assert served_model(Op.GENERATE, b'{"modelVersion":"gemini-2.5-flash"}') == "gemini-2.5-flash"
    assert served_model(Op.REALTIME, b'{"type":"response.done","response":{"model":"gpt-realtime"}}') == "gpt-realtime"


CALL = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
TEXTS: list[tuple[Op, dict[str, Any], str]] = [
    (
        Op.CHAT,
        {"choices": [{"message": {"content": "a", "reasoning_content": "b", "refusal": "c", **CALL}}]},
        "abcf{}",
    ),
    (Op.CHAT, {"choices": [{"message": {"content": [{"thinking": [{"text": "x"}]}, {"text": "y"}]}}]}, "xy"),
    (Op.COMPLETIONS, {"choices": [{"text": "one"}, {"text": "two"}]}, "onetwo"),
    (
        Op.RESPONSES,
        {"output": [{"type": "message", "content": [{"text": "hi"}]}, {"name": "f", "arguments": "{}"}]},
        "hif{}",
    ),
    (
        Op.MESSAGES,
        {"content": [{"type": "thinking", "thinking": "t"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]},
        'tf{"a":1}',
    ),
    (Op.GENERATE, {"candidates": [{"content": {"parts": [{"text": "p"}, {"functionCall": {"name": "g"}}]}}]}, "pg"),
    (Op.OLLAMA_CHAT, {"message": {"content": "c", "thinking": "d"}}, "cd"),
    (Op.TRANSCRIPTIONS, {"text": "spoken"}, "spoken"),
    (Op.IMAGES_EDITS, {"data": [{"b64_json": "AAAA"}]}, ""),
]


@pytest.mark.parametrize(("operation", "body", "text"), TEXTS)
def test_all_that_is_visible_is_counted(operation: Op, body: dict[str, Any], text: str) -> None:
    assert answer_text(operation, json.dumps(body).encode()) == text


def test_a_transcript_that_is_no_json_is_text_itself() -> None:
    assert answer_text(Op.TRANSCRIPTIONS, b"just words") == "just words"
