"""Reads what a request asks for, once, in whatever dialect it is written.

`read_request` gives the facts that admission, pricing and metering stand on, or raises InvalidRequest naming the field.
Nothing is guessed in the caller's favour: what could cost more than the facts say is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.dialects import anthropic, gemini, ollama, openai_chat, openai_media, openai_responses, reading
from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation


def read_request(
    operation: Operation, body: bytes, *, path_model: str | None = None, limits: RequestLimits
) -> RequestFacts:
    """The facts of a request whose body is JSON (or none, for listings, raw routes and realtime). `path_model` is the
    model that path or query name; it goes before the body's. Uploads in parts:
    `gateway.core.multipart.upload_request`."""
    return _READERS[operation](body, path_model, limits)


def _stream_generate(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    return gemini.read_generate(body, path_model, limits, stream=True)


def _compact(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    return openai_responses.read_responses(body, path_model, limits, has_limit=False)


def _realtime(_body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """A session has no body; what it says comes later. Its input is bounded by the instructions that it begins with."""
    model = reading.model_name(path_model, None)
    return RequestFacts(
        model, True, None, 1, limits.overhead_tokens, audio_output=True, limit_can_be_spliced=False, session=True
    )


def _unread(body: bytes, path_model: str | None, _limits: RequestLimits) -> RequestFacts:
    """Nobody reads these bodies: listings have none, raw routes have a price for the call."""
    return RequestFacts(path_model or "", input_bound_tokens=len(body), limit_can_be_spliced=False)


def _form_only(_body: bytes, _path_model: str | None, _limits: RequestLimits) -> RequestFacts:
    """JSON would only name the recording, and nobody could bound how long it is."""
    raise InvalidRequest("content-type: a recording is uploaded as multipart/form-data", param="content-type")


_READERS: Mapping[Operation, Callable[[bytes, str | None, RequestLimits], RequestFacts]] = {
    Operation.CHAT: openai_chat.read_chat,
    Operation.COMPLETIONS: openai_chat.read_chat,
    Operation.RESPONSES: openai_responses.read_responses,
    Operation.RESPONSES_COMPACT: _compact,
    Operation.INPUT_TOKENS: reading.read_model_only,
    Operation.EMBEDDINGS: openai_media.read_embeddings,
    Operation.IMAGES_GENERATIONS: openai_media.read_images,
    Operation.IMAGES_EDITS: openai_media.read_images,
    Operation.TRANSCRIPTIONS: _form_only,
    Operation.SPEECH: openai_media.read_speech,
    Operation.REALTIME: _realtime,
    Operation.MESSAGES: anthropic.read_messages,
    Operation.GENERATE: gemini.read_generate,
    Operation.STREAM_GENERATE: _stream_generate,
    Operation.EMBED: gemini.read_embed,
    Operation.OLLAMA_CHAT: ollama.read_ollama,
    Operation.OLLAMA_GENERATE: ollama.read_ollama,
    Operation.LISTING: _unread,
    Operation.RAW: _unread,
}
