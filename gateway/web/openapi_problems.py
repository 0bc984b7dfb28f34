"""How refusals are described: one body for all, what each status adds to it, and the headers beside it."""

from __future__ import annotations

from gateway.core.quotes import Tier
from gateway.web.openapi_schemas import (
    COUNT,
    FLAG,
    INSTANT,
    OBJECT,
    SHARE,
    TEXT,
    Schema,
    described,
    either,
    identifier,
    items,
    money,
    nullable,
    record,
    ref,
    usd,
    words,
)

PROBLEM = "application/problem+json"
_CODE: Schema = {"type": "string", "pattern": "^[a-z0-9_]+$"}

# `error` repeats the refusal as the caller's SDK reads it.
_OPENAI_ERROR = record(message=TEXT, type=TEXT, param=nullable(TEXT), code=_CODE)
_GEMINI_ERROR = record(code={"type": "integer"}, message=TEXT, status=TEXT)
_ERROR = either(ref("Error"), ref("GeminiError"), described(TEXT, "Ollama's"))

_MEMBERS: dict[str, Schema] = {
    "type": {"type": "string", "format": "uri", "pattern": "^https://farebox.dev/problems/"},
    "title": TEXT,
    "status": {"type": "integer"},
    "detail": TEXT,
    "code": described(_CODE, "what programs tell refusals apart by"),
    "error": described(_ERROR, "the same as the dialect of the caller has it; our own paths answer as OpenAI does"),
}
_PARAM: dict[str, Schema] = {"param": described(TEXT, "the member, parameter or header that is wrong")}
_OPTIONS: dict[str, Schema] = {
    "passkey_options": described(OBJECT, "for `navigator.credentials.get`, where a proof is missing")
}
_STATE: dict[str, Schema] = {
    "state": described(TEXT, "as it stands"),
    "event": TEXT,
    "overage_id": identifier("ov"),
    "approved_max": usd,
}
_SATS = {"type": "integer", "minimum": 1}
_HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}

# A challenge says each thing in every spelling that clients read.
_CHALLENGE: dict[str, Schema] = {
    "invoice": described(TEXT, "BOLT11; pay it"),
    "macaroon": described(TEXT, "come back with `Authorization: L402 <macaroon>:<preimage>`"),
    "paymentHash": _HASH,
    "payment_hash": _HASH,
    "amountSats": _SATS,
    "amount_sats": _SATS,
    "priceSats": _SATS,
    "creditSats": described(_SATS, "the credit that the invoice buys"),
    "expiresAt": INSTANT,
    "expires_at": described(INSTANT, "of the invoice"),
}
_APPROVAL: dict[str, Schema] = {
    "quote": described(ref("Offer"), "what it may cost; approve it and retry with `Farebox-Quote`"),
    "tier": words(Tier.EXPLICIT, Tier.STEP_UP),
    "reason": words("tier", "cumulative", "budget"),
    "two_persons": FLAG,
    "approve_url": {"type": "string", "format": "uri-reference"},
}
_PAYMENT: dict[str, Schema] = {
    "cost": described(usd, "the least that it costs, where that is known; else what the deposit is worth"),
    "payment_methods": items(TEXT),
    **_CHALLENGE,
    **_APPROVAL,
    "limit": described(ref("LimitHit"), "the budget that is used up or paused"),
    "topup_url": described({"type": "string", "format": "uri-reference"}, "where a person adds money"),
    "balance": described(record(available=money, held=money), "where open holds are a part of the cause"),
}

PROBLEM_SCHEMAS: dict[str, Schema] = {
    "Error": _OPENAI_ERROR,
    "GeminiError": _GEMINI_ERROR,
    "Problem": record(_PARAM, **_MEMBERS),
    "Invalid": record(**_MEMBERS, **_PARAM),
    "Forbidden": record(_PARAM | _OPTIONS, **_MEMBERS),
    "Conflict": record(_PARAM | _STATE, **_MEMBERS),
    "PaymentRequired": record(_PARAM | _PAYMENT, **_MEMBERS),
    "Offer": record(
        {"id": described(identifier("q"), "where it waits for an answer"), "expires_at": INSTANT},
        min=usd, expected=usd, max=usd, confidence=described(SHARE, "that `expected` is not passed"),
    ),
}  # fmt: skip


def _response(schema: str, description: str, headers: dict[str, Schema]) -> Schema:
    common = {
        "Cache-Control": {"schema": {"const": "no-store"}},
        "X-Should-Retry": {"schema": {"const": "false"}, "description": "where the same request would fail again"},
    }
    return {"description": description, "headers": common | headers, "content": {PROBLEM: {"schema": ref(schema)}}}


_RETRY: dict[str, Schema] = {"Retry-After": {"schema": COUNT, "description": "seconds, where waiting helps"}}
_CHALLENGED: dict[str, Schema] = {
    "WWW-Authenticate": {"schema": TEXT, "description": 'L402 macaroon="...", invoice="...", version="0", token="..."'}
}

RESPONSES: dict[str, Schema] = {
    "Problem": _response("Problem", "Refused; `code` says why", _RETRY),
    "Invalid": _response("Invalid", "Bad input; `param` names it, and nothing has changed", {}),
    "Forbidden": _response("Forbidden", "Known, but not for this; `code` says why", {}),
    "Conflict": _response("Conflict", "As things stand it cannot be done; `state` says how they stand", _RETRY),
    "PaymentRequired": _response("PaymentRequired", "Money, or a yes, would help", _CHALLENGED),
}
