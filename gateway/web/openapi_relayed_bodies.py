"""`/openapi.json`: the members of relayed bodies that Farebox reads, because they bear cost. All others are allowed."""

from __future__ import annotations

from gateway.core.dialects.reading import GREATEST_CHOICES, GREATEST_MODEL_NAME
from gateway.core.operations import Operation
from gateway.web.openapi_schemas import Schema

_MODEL: Schema = {"type": "string", "minLength": 1, "maxLength": GREATEST_MODEL_NAME}
_FLAG: Schema = {"type": ["boolean", "null"]}
_LIMIT: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000_000}
_CHOICES: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": GREATEST_CHOICES}
_MESSAGES: Schema = {"type": "array", "items": {"type": "object"}}


def _body(*required: str, **members: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": members, "additionalProperties": True}


_GENERATION: Schema = {
    "type": "object",
    "properties": {"maxOutputTokens": _LIMIT, "candidateCount": _CHOICES},
    "additionalProperties": True,
}

RELAYED_BODIES: dict[Operation, Schema] = {
    Operation.CHAT: _body(
        "model", model=_MODEL, messages=_MESSAGES, stream=_FLAG, max_tokens=_LIMIT, max_completion_tokens=_LIMIT,
        n=_CHOICES,
    ),
    Operation.COMPLETIONS: _body(
        "model", model=_MODEL, stream=_FLAG, max_tokens=_LIMIT, n=_CHOICES, best_of=_CHOICES,
    ),
    Operation.RESPONSES: _body("model", model=_MODEL, stream=_FLAG, max_output_tokens=_LIMIT),
    Operation.RESPONSES_COMPACT: _body("model", model=_MODEL),
    Operation.EMBEDDINGS: _body("model", model=_MODEL),
    Operation.IMAGES_GENERATIONS: _body("model", model=_MODEL, n=_CHOICES),
    Operation.IMAGES_EDITS: _body("model", model=_MODEL),
    Operation.TRANSCRIPTIONS: _body("model", "file", model=_MODEL, file={"type": "string", "format": "binary"}),
    Operation.SPEECH: _body("model", "input", model=_MODEL, input={"type": "string", "minLength": 1}),
    Operation.MESSAGES: _body("model", model=_MODEL, messages=_MESSAGES, stream=_FLAG, max_tokens=_LIMIT),
    Operation.GENERATE: _body(generationConfig=_GENERATION),
    Operation.STREAM_GENERATE: _body(generationConfig=_GENERATION),
    Operation.OLLAMA_CHAT: _body("model", model=_MODEL, messages=_MESSAGES, stream=_FLAG),
    Operation.OLLAMA_GENERATE: _body("model", model=_MODEL, stream=_FLAG),
}  # fmt: skip
