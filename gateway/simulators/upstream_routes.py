"""Which path of the simulated upstream speaks what. Any first segment (`/openai/v1/...`) may stand before a path, so
that a base URL can carry a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from msgspec import json

from gateway.simulators import (
    upstream_anthropic,
    upstream_audio,
    upstream_gemini,
    upstream_media,
    upstream_ollama,
    upstream_openai,
    upstream_responses,
)
from gateway.simulators.upstream_orders import Answer, Asked

Handler = Callable[[Asked], Answer]
_LISTED = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash", "llama3.2")
_CREATED_S = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Route:
    """A place in a dialect; `model` is what the path names."""

    dialect: str
    handler: Handler
    model: str = ""


def _openai_models(_asked: Asked) -> Answer:
    data = [{"id": name, "object": "model", "created": _CREATED_S, "owned_by": "system"} for name in _LISTED]
    return Answer([(json.encode({"object": "list", "data": data}), 0)])


def _openai_model(asked: Asked) -> Answer:
    body = {"id": asked.model, "object": "model", "created": _CREATED_S, "owned_by": "system"}
    return Answer([(json.encode(body), 0)])


def _anthropic_model_of(name: str) -> dict[str, str]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}


def _anthropic_models(_asked: Asked) -> Answer:
    data = [_anthropic_model_of(name) for name in _LISTED]
    body = {"data": data, "has_more": False, "first_id": _LISTED[0], "last_id": _LISTED[-1]}
    return Answer([(json.encode(body), 0)])


def _anthropic_model(asked: Asked) -> Answer:
    return Answer([(json.encode(_anthropic_model_of(asked.model)), 0)])


def _gemini_model_of(name: str) -> dict[str, object]:
    methods = ["generateContent", "countTokens"]
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}


def _gemini_models(_asked: Asked) -> Answer:
    return Answer([(json.encode({"models": [_gemini_model_of(name) for name in _LISTED]}), 0)])


def _gemini_model(asked: Asked) -> Answer:
    return Answer([(json.encode(_gemini_model_of(asked.model)), 0)])


def _ollama_tags(_asked: Asked) -> Answer:
    models = [{"name": name, "model": name, "size": 1, "digest": "0" * 64} for name in _LISTED]
    return Answer([(json.encode({"models": models}), 0)])


def raw(asked: Asked) -> Answer:
    """Any other path, under /raw/: a fixed answer that tells what came."""
    body = {"object": "raw", "path": asked.path, "received_bytes": len(asked.body)}
    return Answer([(json.encode(body), 0)])


_POSTS: Mapping[str, Route] = {
    "/v1/chat/completions": Route("openai", upstream_openai.chat),
    "/v1/completions": Route("openai", upstream_openai.completion),
    "/v1/responses": Route("openai", upstream_responses.responses),
    "/v1/responses/compact": Route("openai", upstream_responses.compact),
    "/v1/responses/input_tokens": Route("openai", upstream_responses.input_tokens),
    "/v1/embeddings": Route("openai", upstream_media.embeddings),
    "/v1/images/generations": Route("openai", upstream_media.images),
    "/v1/images/edits": Route("openai", upstream_media.images),
    "/v1/audio/transcriptions": Route("openai", upstream_audio.transcription),
    "/v1/audio/speech": Route("openai", upstream_audio.speech),
    "/v1/messages": Route("anthropic", upstream_anthropic.messages),
    "/v1/messages/count_tokens": Route("anthropic", upstream_anthropic.count_tokens),
    "/api/chat": Route("ollama", upstream_ollama.chat),
    "/api/generate": Route("ollama", upstream_ollama.generate),
}
_GEMINI_POSTS: Mapping[str, Handler] = {
    "generateContent": upstream_gemini.generate,
    "streamGenerateContent": upstream_gemini.stream_generate,
    "embedContent": upstream_gemini.embed,
    "batchEmbedContents": upstream_gemini.embed_batch,
    "countTokens": upstream_gemini.count_tokens,
}
_GEMINI_PATH = re.compile(r"/v1(?:beta)?/models/(.+):([A-Za-z]+)")
_MODEL_PATH = re.compile(r"/v1(?:beta)?/models/(.+)")


def resolve(method: str, path: str, speaks: str) -> Route | None:
    """The route of a path, with or without one segment before it. `speaks`: the dialect that the headers hint at."""
    found = _resolve(method, path, speaks)
    if found is not None:
        return found
    _, _, rest = path[1:].partition("/")
    return _resolve(method, "/" + rest, speaks) if rest else None


def _resolve(method: str, path: str, speaks: str) -> Route | None:
    if path.startswith("/raw/"):
        return Route("raw", raw)
    if method == "POST":
        if (route := _POSTS.get(path)) is not None:
            return route
        found = _GEMINI_PATH.fullmatch(path)
        handler = _GEMINI_POSTS.get(found[2]) if found else None
        return Route("gemini", handler, unquote(found[1])) if found and handler else None
    return _listing(path, speaks) if method in {"GET", "HEAD"} else None


def _listing(path: str, speaks: str) -> Route | None:
    if path == "/api/tags":
        return Route("ollama", _ollama_tags)
    if path.startswith("/v1beta/"):
        speaks = "gemini"
    if path in {"/v1/models", "/v1beta/models"}:
        listing = {"gemini": _gemini_models, "anthropic": _anthropic_models}.get(speaks, _openai_models)
        return Route(speaks, listing)
    if found := _MODEL_PATH.fullmatch(path):
        one = {"gemini": _gemini_model, "anthropic": _anthropic_model}.get(speaks, _openai_model)
        return Route(speaks, one, unquote(found[1]))
    return None


def error_body(dialect: str, status: int, message: str) -> bytes:
    """An error in the shape of a dialect."""
    if dialect == "anthropic":
        kind = "invalid_request_error" if status < 500 else "api_error"
        return json.encode({"type": "error", "error": {"type": kind, "message": message}})
    if dialect == "gemini":
        name = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}.get(status, "INTERNAL")
        return json.encode({"error": {"code": status, "message": message, "status": name}})
    if dialect == "ollama":
        return json.encode({"error": message})
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.encode({"error": {"message": message, "type": kind, "param": None, "code": None}})
