"""The head of an answer decides how it is relayed; what it says of its own form is not taken on trust."""

from __future__ import annotations

import pytest

from gateway.core.answer_head import AnswerKind, kind_of
from gateway.core.facts import RequestFacts
from gateway.core.operations import Dialect

JSON, EVENTS = b"application/json; charset=utf-8", b"text/event-stream"


def kind(
    media: bytes,
    encoding: bytes | None = None,
    *,
    status: int = 200,
    dialect: Dialect = Dialect.OPENAI,
    stream: bool = False,
) -> AnswerKind:
    headers = [(b"content-type", media)] + ([] if encoding is None else [(b"content-encoding", encoding)])
    return kind_of(status, headers, RequestFacts("m", stream), dialect)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"Deflate", b"zstd"])
@pytest.mark.parametrize("media", [JSON, EVENTS])
def test_an_answer_in_an_encoding_that_was_not_asked_for_is_one_that_nobody_reads(
    media: bytes, encoding: bytes
) -> None:
    assert kind(media, encoding, stream=True) is AnswerKind.BINARY


@pytest.mark.parametrize("encoding", [b"identity", b""])
def test_an_answer_that_is_not_encoded_is_read(encoding: bytes) -> None:
    assert kind(JSON, encoding) is AnswerKind.WHOLE
    assert kind(EVENTS, encoding) is AnswerKind.STREAM


def test_events_are_metered_whether_or_not_a_stream_was_asked_for() -> None:
    assert kind(EVENTS, stream=False) is AnswerKind.STREAM
    assert kind(JSON, stream=True) is AnswerKind.WHOLE
    assert kind(JSON, stream=True, dialect=Dialect.GEMINI) is AnswerKind.STREAM


@pytest.mark.parametrize("status", [401, 402, 407])
def test_what_the_upstream_says_of_our_own_account_is_our_fault(status: int) -> None:
    assert kind(JSON, status=status) is AnswerKind.OUR_FAULT


@pytest.mark.parametrize("status", [300, 304, 400, 403, 429, 500, 599])
def test_an_error_costs_nothing(status: int) -> None:
    assert kind(EVENTS, status=status) is AnswerKind.ERROR
