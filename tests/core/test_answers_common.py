"""The quick reading of OpenAI's common answer says what the thorough one says, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.answers import openai
from gateway.core.answers.figures import MOST_TOKENS, decoded
from gateway.core.answers.openai_common import common_report
from gateway.core.usage import Usage

FIGURES: st.SearchStrategy[object] = st.one_of(
    st.integers(min_value=-1, max_value=300),
    st.sampled_from([None, True, "12", 12.0, 12.5, MOST_TOKENS, MOST_TOKENS + 1, [], {}]),
)
BEFORE = st.dictionaries(
    st.sampled_from(
        ["cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens", "text_tokens", "cached_tokens_details"]
    ),
    st.one_of(FIGURES, st.just({"audio_tokens": 3})),
)
AFTER = st.dictionaries(
    st.sampled_from(["reasoning_tokens", "audio_tokens", "image_tokens", "accepted_prediction_tokens"]), FIGURES
)
USAGE = st.fixed_dictionaries(
    {"prompt_tokens": FIGURES, "completion_tokens": FIGURES},
    optional={
        "prompt_tokens_details": st.one_of(BEFORE, FIGURES),
        "completion_tokens_details": st.one_of(AFTER, FIGURES),
        "input_tokens_details": st.one_of(BEFORE, FIGURES),
        "total_tokens": FIGURES,
        "input_tokens": FIGURES,
        "prompt_cache_hit_tokens": FIGURES,
        "cached_tokens": FIGURES,
        "cost": FIGURES,
        "server_tool_use_details": st.just({"web_search_requests": 2}),
    },
)
ANSWER = st.fixed_dictionaries(
    {"usage": st.one_of(USAGE, FIGURES)},
    optional={
        "model": st.sampled_from(["gpt-4o-mini", "", None, 4]),
        "service_tier": st.sampled_from(["flex", "", None, 4]),
        "choices": st.just([{"message": {"content": "text"}}]),
        "x_groq": st.just({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
    },
)


@given(ANSWER)
@settings(max_examples=600, deadline=None)
def test_both_readings_say_the_same_of_whatever_the_quick_one_reads(answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    quick = common_report(body)
    if quick is not None:
        thorough = decoded(body)
        assert thorough is not None
        assert quick == (openai.usage_in(thorough), thorough["model"])


def test_the_common_answer_is_read_quickly() -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 100,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 64, "accepted_prediction_tokens": 0},
    }
    body = json.dumps({"model": "gpt-4o-mini", "service_tier": "default", "choices": [], "usage": usage}).encode()
    expected = Usage(
        input_tokens=20, cached_input_tokens=16, output_tokens=100, reasoning_tokens=64, service_tier="default"
    )
    assert common_report(body) == (expected, "gpt-4o-mini")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"m"}', b"[" * 100_000, b'{"usage":"\xff"}'])
def test_what_is_no_common_answer_is_left_to_the_thorough_reading(body: bytes) -> None:
    assert common_report(body) is None
