"""Schemas that `/openapi.json` is made of: the members that Farebox itself reads or writes."""

from __future__ import annotations

from typing import Any

from gateway.core.operations import Operation

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_MODEL: Json = {"type": "string", "minLength": 1, "maxLength": 256}
_FLAG: Json = {"type": ["boolean", "null"]}
_LIMIT: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000_000}
_CHOICES: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": 128}


def _body(required: tuple[str, ...], **members: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": members, "additionalProperties": True}


REQUEST_SCHEMAS: dict[Operation, Json] = {
    Operation.CHAT: _body(
        ("model",), model=_MODEL, messages={"type": "array", "items": {"type": "object"}}, stream=_FLAG,
        max_tokens=_LIMIT, max_completion_tokens=_LIMIT, n=_CHOICES,
    ),
    Operation.COMPLETIONS: _body(
        ("model",), model=_MODEL, stream=_FLAG, max_tokens=_LIMIT, n=_CHOICES, best_of=_CHOICES,
    ),
    Operation.RESPONSES: _body(("model",), model=_MODEL, stream=_FLAG, max_output_tokens=_LIMIT),
    Operation.RESPONSES_COMPACT: _body(("model",), model=_MODEL),
    Operation.EMBEDDINGS: _body(("model",), model=_MODEL),
    Operation.IMAGES_GENERATIONS: _body(("model",), model=_MODEL, n=_CHOICES),
    Operation.IMAGES_EDITS: _body(("model",), model=_MODEL),
    Operation.TRANSCRIPTIONS: _body(("model", "file"), model=_MODEL, file={"type": "string", "format": "binary"}),
    Operation.SPEECH: _body(("model", "input"), model=_MODEL, input={"type": "string", "minLength": 1}),
    Operation.MESSAGES: _body(("model",), model=_MODEL, stream=_FLAG, max_tokens=_LIMIT),
    Operation.OLLAMA_CHAT: _body(("model",), model=_MODEL, stream=_FLAG),
    Operation.OLLAMA_GENERATE: _body(("model",), model=_MODEL, stream=_FLAG),
}  # fmt: skip

_MONEY: Json = {
    "type": "object",
    "properties": {"amount": {"type": "string", "pattern": r"^\d+(\.\d+)?$"}, "currency": _TEXT, "amount_msat": _COUNT},
}
_PROBLEM_MEMBERS: Json = {
    "type": {"type": "string", "format": "uri"},
    "title": _TEXT,
    "status": {"type": "integer"},
    "detail": _TEXT,
    "code": _TEXT,
    "param": _TEXT,
    "error": {"description": "the same in the shape of the caller's dialect", "type": ["object", "string"]},
}
_PROBLEM_REQUIRED = ["type", "title", "status", "detail", "code", "error"]
_BALANCE_MEMBERS = ("credited_msat", "posted_msat", "held_msat", "available_msat")

_SCHEMAS: Json = {
    "Object": {"type": "object"},
    "Money": _MONEY,
    "Problem": {"type": "object", "required": _PROBLEM_REQUIRED, "properties": _PROBLEM_MEMBERS},
    "PaymentRequired": {
        "type": "object",
        "required": _PROBLEM_REQUIRED,
        "properties": {
            **_PROBLEM_MEMBERS,
            "cost": {"$ref": "#/components/schemas/Money"},
            "payment_methods": {"type": "array", "items": _TEXT},
            "invoice": {"type": "string", "description": "BOLT11"},
            "macaroon": _TEXT,
            "payment_hash": _TEXT,
            "amount_sats": _COUNT,
            "creditSats": _COUNT,
            "expires_at": {"type": "string", "format": "date-time"},
            "balance": {"type": "object"},
        },
    },
    "Balance": {
        "type": "object",
        "required": list(_BALANCE_MEMBERS),
        "properties": {
            **dict.fromkeys(_BALANCE_MEMBERS, _COUNT),
            "expires_at": {"type": ["string", "null"], "format": "date-time"},
        },
    },
    "Revoked": {
        "type": "object",
        "required": ["token_id", "revoked"],
        "properties": {"token_id": _TEXT, "revoked": {"const": True}},
    },
    "RefundRequest": {
        "type": "object",
        "required": ["payment_request"],
        "properties": {"payment_request": {"type": "string", "minLength": 1, "description": "a BOLT11 invoice"}},
    },
    "Refund": {
        "type": "object",
        "required": ["state", "payment_hash"],
        "properties": {
            "refunded_msat": _COUNT,
            "fee_msat": _COUNT,
            "payment_hash": _TEXT,
            "state": {"enum": ["paid", "in_flight", "failed"]},
        },
    },
    "RequestRecord": {
        "type": "object",
        "required": ["request_id", "state", "usage", "basis", "cost"],
        "properties": {
            "request_id": _TEXT,
            "state": {"enum": ["open", "posted", "voided", "expired"]},
            "model": _TEXT,
            "dialect": _TEXT,
            "route": _TEXT,
            "usage": {"type": "object", "additionalProperties": True},
            "basis": {"enum": ["reported", "counted", "estimated"]},
            "cost": {"$ref": "#/components/schemas/Money"},
            "held": {"$ref": "#/components/schemas/Money"},
            "shortfall": {"$ref": "#/components/schemas/Money"},
            "cut": {"enum": ["credit", "budget", "cap", None]},
            "started_at": {"type": "string", "format": "date-time"},
            "ended_at": {"type": ["string", "null"], "format": "date-time"},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"enum": ["live", "ready", "not_ready"]}, "failed": {"type": "array", "items": _TEXT}},
    },
}


def _problem_response(schema: str, description: str, headers: Json) -> Json:
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "headers": headers, "content": content}


COMPONENTS: Json = {
    "schemas": _SCHEMAS,
    "responses": {
        "Problem": _problem_response("Problem", "A refusal", {"Retry-After": {"schema": {"type": "integer"}}}),
        "PaymentRequired": _problem_response(
            "PaymentRequired",
            "Money would help: pay the invoice and come back with the macaroon and the preimage",
            {"WWW-Authenticate": {"schema": _TEXT, "description": 'L402 macaroon="...", invoice="..."'}},
        ),
    },
    "parameters": {
        "Deposit": {
            "name": "Farebox-Deposit",
            "in": "header",
            "description": "How many sats a challenge is to ask for, within the policy's limits",
            "schema": {"type": "integer", "minimum": 1},
        },
        "IdempotencyKey": {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255}},
    },
    "securitySchemes": {
        "l402": {"type": "http", "scheme": "L402", "description": "<macaroon>:<preimage>"},
        "bearer": {"type": "http", "scheme": "bearer", "description": "<macaroon>:<preimage> where a key goes"},
        "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "google_key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
    },
}
