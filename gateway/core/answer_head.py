"""What kind of answer an upstream's head announces: decides whether it is read whole, metered as a stream, or passed
on."""

from __future__ import annotations

from enum import Enum, auto

from gateway.core.facts import RequestFacts
from gateway.core.headers import Headers, header_value
from gateway.core.operations import Dialect

# The upstream refused us, not the payer: its key, or its own bill. Never shown as the payer's fault.
_OUR_FAULT = frozenset({401, 402, 407})


class AnswerKind(Enum):
    """How an answer is relayed."""

    WHOLE = auto()  # JSON: read up to a limit, settled, then sent
    STREAM = auto()  # events: metered while they flow
    BINARY = auto()  # passed on as it comes, settled at the end
    ERROR = auto()  # costs nothing
    OUR_FAULT = auto()  # the upstream refused our own credential


def kind_of(status: int, headers: Headers, facts: RequestFacts, dialect: Dialect) -> AnswerKind:
    """Classify by status and media type."""
    if status in _OUR_FAULT:
        return AnswerKind.OUR_FAULT
    if not 200 <= status < 300:
        return AnswerKind.ERROR
    if dialect is not Dialect.RAW and _is_encoded(headers):
        return AnswerKind.BINARY  # identity was asked for: nobody here can read what is in it
    media = (header_value(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    if media in {b"text/event-stream", b"application/x-ndjson", b"application/jsonl"}:
        return AnswerKind.STREAM
    if media == b"application/json" or media.endswith(b"+json") or media == b"":
        # Gemini streams a JSON array; everybody else who answers a stream with JSON does not stream.
        return AnswerKind.STREAM if facts.stream and dialect is Dialect.GEMINI else AnswerKind.WHOLE
    if media == b"text/plain":
        return AnswerKind.WHOLE
    return AnswerKind.BINARY


def _is_encoded(headers: Headers) -> bool:
    encoding = header_value(headers, b"content-encoding")
    return encoding is not None and encoding.strip().lower() not in (b"", b"identity")
