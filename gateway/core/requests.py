"""Reads what a request asks for, once, in whatever dialect it is written.

`read_request` gives the facts that admission, pricing and metering stand on, or raises InvalidRequest naming the field.
Nothing is guessed in the caller's favour: what could cost more than the facts say is refused.
"""

from __future__ import annotations

from gateway.core.dialects import anthropic, gemini, ollama, openai_chat, openai_media, openai_responses, reading
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation


def read_request(
    operation: Operation, body: bytes, *, path_model: str | None = None, limits: RequestLimits
) -> RequestFacts:
    """The facts of a request whose body is JSON (or none, for listings, raw routes and realtime). `path_model` is the model
    that path or query name; it goes before the body's. Uploads in parts: `gateway.core.multipart.upload_request`."""
    match operation:
        case Operation.CHAT | Operation.COMPLETIONS:
            return openai_chat.read_chat(body, path_model, limits)
        case Operation.MESSAGES:
            return anthropic.read_messages(body, path_model, limits)
        case Operation.RESPONSES:
            return openai_responses.read_responses(body, path_model, limits)
        case Operation.RESPONSES_COMPACT:
            return openai_responses.read_responses(body, path_model, limits, has_limit=False)
        case Operation.GENERATE:
            return gemini.read_generate(body, path_model, limits, stream=False)
        case Operation.STREAM_GENERATE:
            return gemini.read_generate(body, path_model, limits, stream=True)
        case Operation.EMBED:
            return gemini.read_embed(body, path_model, limits)
        case Operation.OLLAMA_CHAT | Operation.OLLAMA_GENERATE:
            return ollama.read_ollama(body, path_model, limits)
        case Operation.EMBEDDINGS:
            return openai_media.read_embeddings(body, path_model, limits)
        case Operation.IMAGES_GENERATIONS | Operation.IMAGES_EDITS:
            return openai_media.read_images(body, path_model, limits)
        case Operation.SPEECH:
            return openai_media.read_speech(body, path_model, limits)
        case Operation.INPUT_TOKENS | Operation.TRANSCRIPTIONS:
            return reading.read_model_only(body, path_model, limits)
        case Operation.REALTIME:
            model = reading.model_name(path_model, None)
            return RequestFacts(model, True, audio_output=True, limit_can_be_spliced=False)
        case Operation.LISTING | Operation.RAW:
            return RequestFacts(path_model or "", input_bound_tokens=len(body), limit_can_be_spliced=False)
