"""Which reader belongs to which operation: the one place that knows all dialects' answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from gateway.core.answers import anthropic, gemini, media, ollama, openai, responses
from gateway.core.answers.array import ArrayReader
from gateway.core.answers.figures import Members, decoded, member, string
from gateway.core.answers.framing import EventFraming, LineFraming
from gateway.core.answers.grammar import Grammar
from gateway.core.answers.openai_common import common_report
from gateway.core.answers.reading import EventReader
from gateway.core.metering import StreamReader, TextCounter
from gateway.core.operations import Operation
from gateway.core.usage import Basis, Usage


class _Answer(NamedTuple):
    """How an operation's unstreamed answer is read."""

    usage: Callable[[Members], Usage | None]
    texts: Callable[[Members], Iterator[str]]


def _embedding_usage(body: Members) -> Usage | None:
    return openai.usage_of(body.get("usage"), output_optional=True)


def _realtime_usage(event: Members) -> Usage | None:
    """Of a `response.done` event."""
    return responses.usage_in(member(event, "response"))


_CHAT = _Answer(openai.usage_in, openai.answer_texts)
_RESPONSES = _Answer(responses.usage_in, responses.answer_texts)
_GEMINI = _Answer(gemini.usage_in, gemini.answer_texts)
_IMAGES = _Answer(media.images_usage, media.image_texts)
_OLLAMA = _Answer(ollama.usage_in, ollama.answer_texts)
_ANSWERS: Mapping[Operation, _Answer] = {
    Operation.CHAT: _CHAT,
    Operation.COMPLETIONS: _CHAT,
    Operation.RESPONSES: _RESPONSES,
    Operation.RESPONSES_COMPACT: _RESPONSES,
    Operation.EMBEDDINGS: _Answer(_embedding_usage, media.image_texts),
    Operation.IMAGES_GENERATIONS: _IMAGES,
    Operation.IMAGES_EDITS: _IMAGES,
    Operation.TRANSCRIPTIONS: _Answer(media.transcription_usage, media.transcription_texts),
    Operation.REALTIME: _Answer(_realtime_usage, lambda event: responses.answer_texts(member(event, "response"))),
    Operation.MESSAGES: _Answer(anthropic.usage_in, anthropic.answer_texts),
    Operation.GENERATE: _GEMINI,
    Operation.STREAM_GENERATE: _GEMINI,
    Operation.EMBED: _GEMINI,
    Operation.OLLAMA_CHAT: _OLLAMA,
    Operation.OLLAMA_GENERATE: _OLLAMA,
}
_EVENT_STREAMS: Mapping[Operation, Grammar] = {
    Operation.CHAT: openai.CHUNKS,
    Operation.COMPLETIONS: openai.TEXT_CHUNKS,
    Operation.RESPONSES: responses.EVENTS,
    Operation.MESSAGES: anthropic.MESSAGES,
    Operation.GENERATE: gemini.CHUNKS,
    Operation.STREAM_GENERATE: gemini.CHUNKS,
    Operation.TRANSCRIPTIONS: media.TRANSCRIPTS,
    Operation.IMAGES_GENERATIONS: media.IMAGES,
    Operation.IMAGES_EDITS: media.IMAGES,
    Operation.SPEECH: media.SPEECH,
}
_LINE_STREAMS: Mapping[Operation, Grammar] = {
    Operation.OLLAMA_CHAT: ollama.CHAT_LINES,
    Operation.OLLAMA_GENERATE: ollama.GENERATE_LINES,
}


def report_of_answer(operation: Operation, body: bytes) -> tuple[Usage | None, str | None]:
    """Usage and served model of an unstreamed answer, each None where it does not say."""
    if operation is Operation.CHAT or operation is Operation.COMPLETIONS:
        common = common_report(body)
        if common is not None:
            return common
    reading = _ANSWERS.get(operation)
    answer = decoded(body) if reading is not None else None
    if reading is None or answer is None:
        return None, None
    usage = reading.usage(answer)
    if operation is Operation.REALTIME:
        answer = member(answer, "response")
    return usage, string(answer, "model") or string(answer, "modelVersion")


def usage_of_answer(operation: Operation, body: bytes) -> Usage | None:
    """Usage of an unstreamed answer (for realtime: of a `response.done` event), None where it reports none that can be
    believed."""
    return report_of_answer(operation, body)[0]


def served_model(operation: Operation, body: bytes) -> str | None:
    """The model that the answer says it comes from."""
    return report_of_answer(operation, body)[1]


def answer_text(operation: Operation, body: bytes) -> str:
    """Visible text of an unstreamed answer, to be counted where usage is missing. An answer that is no JSON (a
    transcript as text or subtitles) is text itself."""
    if operation is Operation.TRANSCRIPTIONS and decoded(body) is None:
        return body.decode("utf-8", "replace")
    return "".join(answer_texts(operation, body))


def answer_texts(operation: Operation, body: bytes) -> list[str]:
    """The same, block by block: each choice, each call of a tool."""
    reading = _ANSWERS.get(operation)
    answer = decoded(body) if reading is not None else None
    return [] if reading is None or answer is None else list(reading.texts(answer))


def reader_for(
    operation: Operation,
    *,
    counter: TextCounter,
    strip_usage: bool,
    client_asked_usage: bool,
    content_type: str = "",
) -> StreamReader:
    """The reader of a stream. `content_type` is the answer's: it tells Gemini's two forms and speech's two forms
    apart; where it is not known, the usual form is assumed."""
    kind = content_type.partition(";")[0].strip().lower()
    make = partial(EventReader, counter=counter, strip_usage=strip_usage, client_asked_usage=client_asked_usage)
    if operation in _LINE_STREAMS:
        return make(_LINE_STREAMS[operation], LineFraming())
    if operation is Operation.STREAM_GENERATE and kind == "application/json":
        return ArrayReader(
            gemini.CHUNKS, counter=counter, strip_usage=strip_usage, client_asked_usage=client_asked_usage
        )
    grammar = _EVENT_STREAMS.get(operation)
    if grammar is None or (operation is Operation.SPEECH and kind != "text/event-stream"):
        return media.PassingReader(Basis.REPORTED if operation is Operation.RAW else Basis.ESTIMATED)
    return make(grammar, EventFraming())
