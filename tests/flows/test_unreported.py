"""What nobody reports is still owed: the bound of an input whose text was counted, and answers that cannot be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Dialect, Operation
from gateway.core.price_cards import PriceCard
from gateway.core.requests import read_request
from gateway.core.routing import Match, Route, Upstream
from gateway.core.usage import Basis
from gateway.flows.counting import ESTIMATE_MARGIN, Counting

LIMITS = RequestLimits()
WORDS = "a toll booth stands at the road " * 40


def words(text: str) -> int:
    """A vocabulary in which every word is a token."""
    return len(text.split())


@dataclass
class Request:
    match: Match
    facts: RequestFacts
    provider: str | None = "p"
    card: PriceCard | None = None


def request(operation: Operation, **members: Any) -> tuple[Request, bytes]:
    content = json.dumps({"model": "gpt-4o", **members}).encode()
    facts = read_request(operation, content, path_model=None, limits=LIMITS)
    unseen = max(facts.input_bound_tokens - len(content) - LIMITS.overhead_tokens, 0)
    upstream = Upstream("u", Dialect.OPENAI)
    route = Route("/x", ("POST",), upstream, operation, Dialect.OPENAI)
    match = Match(route, "u", "/x", operation, Dialect.OPENAI)
    return Request(match, RequestFacts(**{**{name: getattr(facts, name) for name in facts.__struct_fields__},
                                          "unseen_input_tokens": unseen})), content  # fmt: skip


def exactly() -> Counting:
    return Counting(lambda _model, _provider: words, lambda _model, _provider: True)


def test_text_is_counted_and_what_stands_around_it_stays_in_the_bound() -> None:
    asked, content = request(Operation.CHAT, messages=[{"role": "user", "content": WORDS}])
    bound = exactly().input_bound(asked, content)
    assert words(WORDS) < bound <= words(WORDS) + len(content) - len(WORDS) + 1
    assert bound < asked.facts.input_bound_tokens / 2


def test_an_estimate_of_a_text_is_no_bound_of_it() -> None:
    asked, content = request(Operation.CHAT, messages=[{"role": "user", "content": WORDS}])
    estimated = Counting(lambda _model, _provider: words).input_bound(asked, content)
    assert estimated >= min(words(WORDS) * ESTIMATE_MARGIN, len(WORDS))


@pytest.mark.parametrize("member", ["previous_response_id", "conversation"])
def test_an_earlier_conversation_stays_in_the_bound(member: str) -> None:
    asked, content = request(Operation.RESPONSES, input=WORDS, **{member: "resp_1"})
    assert exactly().input_bound(asked, content) >= LIMITS.history_tokens


def test_pictures_stay_in_the_bound_at_their_figure_and_not_at_their_bytes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 200_000}}
    asked, content = request(
        Operation.CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": WORDS}, picture, picture]}]
    )
    bound = exactly().input_bound(asked, content)
    assert 2 * LIMITS.media_tokens <= bound < 2 * LIMITS.media_tokens + 2_000


def test_a_text_that_looks_like_a_picture_is_no_picture() -> None:
    text = "data:image/png;base64," + "A" * 50_000
    asked, content = request(Operation.CHAT, messages=[{"role": "user", "content": text}])
    assert exactly().input_bound(asked, content) >= 50_000


def test_tools_keep_what_an_upstream_says_of_them() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    plain, without = request(Operation.CHAT, messages=[])
    asked, content = request(Operation.CHAT, messages=[], tools=[tool])
    difference = exactly().input_bound(asked, content) - exactly().input_bound(plain, without)
    assert difference >= LIMITS.overhead_tokens


def test_a_bound_is_lowered_once() -> None:
    asked, content = request(Operation.CHAT, messages=[{"role": "user", "content": WORDS}])
    counted = RequestFacts(
        "gpt-4o", input_bound_tokens=exactly().input_bound(asked, content), input_counted=True, stream=True
    )
    assert exactly().input_bound(Request(asked.match, counted), content) == counted.input_bound_tokens


@pytest.mark.parametrize("answer", [b"\x1f\x8b\x08" + b"\x00" * 97, b"x" * 100, None])
async def test_an_answer_that_cannot_be_read_costs_a_token_a_byte_within_the_hold(answer: bytes | None) -> None:
    asked, content = request(Operation.CHAT, messages=[])
    counting = exactly()
    usage, basis, _ = await counting.of_answer(asked, content, answer, size_bytes=100, most_output_tokens=1_000)
    assert (usage.output_tokens, basis) == (100, Basis.COUNTED)
    usage, _, _ = await counting.of_answer(asked, content, answer, size_bytes=100_000, most_output_tokens=1_000)
    assert usage.output_tokens == 1_000
    usage, _, _ = await counting.of_answer(asked, content, answer, size_bytes=0, most_output_tokens=1_000)
    assert usage.output_tokens == 0


def answered(reported: int, *texts: str) -> bytes:
    choices = [{"index": at, "message": {"role": "assistant", "content": text}} for at, text in enumerate(texts)]
    usage = {"prompt_tokens": 5, "completion_tokens": reported, "total_tokens": 5 + reported}
    return json.dumps({"model": "gpt-4o", "choices": choices, "usage": usage}).encode()


@pytest.mark.parametrize(
    ("reported", "charged", "basis"),
    [(320, 320, Basis.REPORTED), (400, 400, Basis.REPORTED), (640, 320, Basis.COUNTED), (100_000, 320, Basis.COUNTED)],
)
async def test_a_report_that_the_answers_text_cannot_bear_is_not_charged(
    reported: int, charged: int, basis: Basis
) -> None:
    asked, content = request(Operation.CHAT, messages=[])
    answer = answered(reported, "ab " * 320)
    usage, told, _ = await exactly().of_answer(asked, content, answer, size_bytes=len(answer), most_output_tokens=10**6)
    assert (usage.output_tokens, usage.input_tokens, told) == (charged, 5, basis)


async def test_a_short_answer_is_doubted_as_a_long_one_is() -> None:
    """What stands around the text makes no report likely."""
    asked, content = request(Operation.CHAT, messages=[])
    answer = answered(200, "word " * 100)
    assert len(answer) > 4 * 150
    usage, told, _ = await exactly().of_answer(asked, content, answer, size_bytes=len(answer), most_output_tokens=10**6)
    assert usage.output_tokens < 200 and told is Basis.COUNTED


async def test_every_block_may_have_tokens_that_no_text_shows() -> None:
    asked, content = request(Operation.CHAT, messages=[])
    answer = answered(10 + 32 * 4, *(["ab ab"] * 4))
    usage, told, _ = await exactly().of_answer(asked, content, answer, size_bytes=1, most_output_tokens=10**6)
    assert (usage.output_tokens, told) == (138, Basis.REPORTED)


async def test_only_a_vocabulary_that_is_known_doubts_a_report() -> None:
    asked, content = request(Operation.CHAT, messages=[])
    answer = answered(2_000, "ab " * 320)
    unsure = Counting(lambda _model, _provider: words)
    usage, told, _ = await unsure.of_answer(asked, content, answer, size_bytes=1, most_output_tokens=10**6)
    assert (usage.output_tokens, told) == (2_000, Basis.REPORTED)
