"""Which reader belongs to which operation: the one place that knows all dialects' answers."""

from __future__ import annotations

from gateway.core.answers import openai
from gateway.core.answers.figures import decoded, string
from gateway.core.answers.framing import EventFraming
from gateway.core.answers.reading import EventReader
from gateway.core.metering import StreamReader, TextCounter
from gateway.core.operations import Operation
from gateway.core.usage import Usage


def usage_of_answer(operation: Operation, body: bytes) -> Usage | None:
    """Usage of an unstreamed answer, None where it reports none."""
    answer = decoded(body)
    return openai.usage_in(answer) if answer is not None else None


def served_model(operation: Operation, body: bytes) -> str | None:
    """The model that the answer says it comes from."""
    answer = decoded(body)
    return string(answer, "model") if answer is not None else None


def answer_text(operation: Operation, body: bytes) -> str:
    """Visible text of an unstreamed answer."""
    answer = decoded(body)
    return "".join(openai.answer_texts(answer)) if answer is not None else ""


def reader_for(
    operation: Operation, *, counter: TextCounter, strip_usage: bool, client_asked_usage: bool, content_type: str = ""
) -> StreamReader:
    """The reader of a stream."""
    return EventReader(
        openai.CHUNKS, EventFraming(), counter=counter, strip_usage=strip_usage, client_asked_usage=client_asked_usage
    )
