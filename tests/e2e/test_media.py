"""Pictures and recordings through the relay, in every form that can be asked for: the bytes are the upstream's, and
what they cost is what its last event says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest
from e2e.stack import Stack, proof

from gateway.core.cost_comment import without_comments

IMAGES = {"model": "gpt-image-1", "prompt": "a small cat"}
RECORDING = {"file": ("a.wav", b"\0" * 64_000, "audio/wav")}  # two seconds
# By the shipped book, at 100,000 USD a BTC: 40 USD a million tokens.
IMAGE_OUTPUT_MSAT = 40


@pytest.fixture(scope="module")
def credential(stack: Stack) -> str:
    return stack.buy(10_000)


def send(stack: Stack, path: str, credential: str, **asked: Any) -> httpx.Response:
    answer = stack.http.post(path, headers=proof(credential), **asked)
    assert answer.status_code == 200, answer.text
    return answer


def record_of(stack: Stack, answer: httpx.Response, credential: str) -> dict[str, Any]:
    record = stack.record(answer.headers["farebox-request-id"], credential)
    assert record["state"] == "posted" and record["cost"]["amount_msat"] > 0
    return record


def is_the_upstreams(stack: Stack, answer: httpx.Response) -> bool:
    """Every byte of the answer, without comments of ours."""
    sent = stack.sent(answer.headers["farebox-request-id"])
    return hashlib.sha256(without_comments(answer.content)).hexdigest() == str(sent["sha256"])


@pytest.mark.parametrize("partial", [0, 2])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits"])
def test_a_streamed_picture_costs_what_its_last_event_says(
    stack: Stack, credential: str, path: str, partial: int
) -> None:
    asked = IMAGES | {"stream": True, "quality": "low", "partial_images": partial}
    if path.endswith("edits"):
        form = {name: str(value).lower() for name, value in asked.items()}
        answer = send(stack, path, credential, data=form, files={"image": ("a.png", b"x" * 99, "image/png")})
    else:
        answer = send(stack, path, credential, json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content.count(b".partial_image\n") == partial and answer.content.count(b".completed\n") == 1
    assert is_the_upstreams(stack, answer)
    record = record_of(stack, answer, credential)
    drawn = 272 + partial * 100
    assert (record["basis"], record["usage"]["output_tokens"]) == ("reported", drawn)
    assert record["usage"]["output_image_tokens"] == drawn
    least = drawn * IMAGE_OUTPUT_MSAT
    assert least <= record["cost"]["amount_msat"] <= least + record["usage"]["input_tokens"] * 10


def test_a_streamed_picture_whose_usage_is_missing_is_not_free(stack: Stack, credential: str) -> None:
    said = {"x-sim-fault": "no-usage"}
    answer = stack.http.post("/v1/images/generations", json=IMAGES | {"stream": True}, headers=proof(credential) | said)
    record = record_of(stack, answer, credential)
    assert record["basis"] != "reported"


def test_who_hangs_up_before_the_picture_is_finished_pays_for_it(stack: Stack) -> None:
    credential = stack.buy(1_000)
    wish = {"x-sim-interval-ms": "300"}
    asked = IMAGES | {"stream": True, "quality": "low", "partial_images": 3}
    with stack.http.stream("POST", "/v1/images/generations", json=asked, headers=proof(credential) | wish) as answer:
        next(answer.iter_raw())
    assert stack.settled(credential)["posted"] >= (272 + 3 * 100) * IMAGE_OUTPUT_MSAT
    record = record_of(stack, answer, credential)
    assert (record["basis"], record["usage"]["output_tokens"]) == ("reported", 272 + 3 * 100)


def transcribe(stack: Stack, credential: str, model: str, **fields: str) -> tuple[httpx.Response, dict[str, Any]]:
    answer = send(stack, "/v1/audio/transcriptions", credential, data={"model": model, **fields}, files=RECORDING)
    assert is_the_upstreams(stack, answer)
    return answer, record_of(stack, answer, credential)


def test_a_streamed_transcription_costs_what_its_last_event_says(stack: Stack, credential: str) -> None:
    answer, record = transcribe(stack, credential, "gpt-4o-transcribe", stream="true")
    assert answer.content.count(b"transcript.text.delta") == 64
    assert (record["basis"], record["usage"]["output_tokens"], record["usage"]["input_tokens"]) == ("reported", 64, 20)
    assert record["usage"]["input_audio_tokens"] == 20
    last = json.loads(without_comments(answer.content).strip().split(b"\n\n")[-1].removeprefix(b"data: "))
    assert last["type"] == "transcript.text.done" and last["usage"]["total_tokens"] == 84


@pytest.mark.parametrize("form", ["json", "verbose_json"])
def test_a_timed_transcription_costs_its_seconds(stack: Stack, credential: str, form: str) -> None:
    answer, record = transcribe(stack, credential, "whisper-1", response_format=form)
    assert answer.json()["usage"]["seconds"] == 2
    assert (record["basis"], record["usage"]["audio_ms"]) == ("reported", 2_000)
    assert record["cost"]["amount_msat"] == 200  # 2 s of 0.006 USD a minute


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_a_transcription_that_tells_no_usage_is_bounded_by_its_recording(
    stack: Stack, credential: str, form: str
) -> None:
    answer, record = transcribe(stack, credential, "whisper-1", response_format=form)
    assert answer.headers["content-type"].startswith("text/plain")
    assert record["basis"] == "counted" and record["usage"]["audio_ms"] >= 2_000
