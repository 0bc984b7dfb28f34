"""`/openapi.json`: what this gateway serves, described from the same tables that serve it (OpenAPI 3.1).

Relay paths are those of the compiled routes, each with the dialect that its bodies follow; what a provider's body may
hold is that provider's affair, so bodies are described by the members that Farebox reads. Every refusal is the one
problem body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.operations import FREE_OPERATIONS, Dialect, Operation
from gateway.web.openapi_schemas import COMPONENTS, REQUEST_SCHEMAS

Json = dict[str, Any]

_PARAMETER = re.compile(r"{([A-Za-z_]+)(?::[^}]*)?}")
_SECURITY: list[Json] = [{"l402": []}, {"bearer": []}, {"api_key": []}, {"google_key": []}]
_STREAMING = frozenset({
    Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES, Operation.IMAGES_GENERATIONS,
    Operation.IMAGES_EDITS, Operation.TRANSCRIPTIONS,
})  # fmt: skip
_UPLOADS = frozenset({Operation.IMAGES_EDITS, Operation.TRANSCRIPTIONS})
_NDJSON = frozenset({Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE})


@dataclass(frozen=True, slots=True)
class RelayPath:
    """A path that is relayed, as the description needs it; `path` has its parameters in braces."""

    path: str
    methods: tuple[str, ...]
    operation: Operation
    dialect: Dialect
    flat_price: bool = False


def openapi_document(relayed: Iterable[RelayPath], *, version: str, server_url: str = "/") -> Json:
    """The whole description."""
    paths: Json = {}
    names: set[str] = set()
    for each in _expanded(relayed):
        path = _PARAMETER.sub(r"{\1}", each.path).replace("*", "{rest}")
        for method in each.methods:
            if method.lower() in _METHODS and each.operation is not Operation.REALTIME:
                item = paths.setdefault(path, _with_parameters(path))
                item.setdefault(method.lower(), _relay_operation(each, method, names))
    paths |= _own_paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Farebox",
            "version": version,
            "description": "A reverse proxy in front of AI APIs that takes the fare: L402 for agents with a wallet.",
        },
        "servers": [{"url": server_url}],
        "paths": paths,
        "components": COMPONENTS,
    }


# What follows the model in the paths of Gemini, which the route table keeps as one pattern.
_GEMINI_VERBS = {
    "generateContent": Operation.GENERATE,
    "streamGenerateContent": Operation.STREAM_GENERATE,
    "embedContent": Operation.EMBED,
    "batchEmbedContents": Operation.EMBED,
    "countTokens": Operation.INPUT_TOKENS,
}


def _expanded(relayed: Iterable[RelayPath]) -> Iterator[RelayPath]:
    for each in relayed:
        if each.dialect is Dialect.GEMINI and each.operation is Operation.GENERATE and each.path.endswith("/models/*"):
            for verb, operation in _GEMINI_VERBS.items():
                yield replace(each, path=each.path[:-1] + "{model}:" + verb, operation=operation)
        else:
            yield each


_METHODS = frozenset({"get", "post", "put", "delete", "patch", "head", "options"})


def _with_parameters(path: str) -> Json:
    names = re.findall(r"{([^}]+)}", path)
    if not names:
        return {}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    }


def _relay_operation(each: RelayPath, method: str, names: set[str]) -> Json:
    operation: Json = {
        "operationId": _unique(f"{each.dialect.value}_{each.operation.value}", names),
        "summary": _summary(each),
        "tags": [f"relay {each.dialect.value}"],
        "security": _SECURITY,
        "parameters": [{"$ref": "#/components/parameters/Deposit"}],
        "responses": _relay_responses(each),
    }
    if method.upper() not in ("GET", "HEAD") and each.operation is not Operation.LISTING:
        operation["requestBody"] = _request_body(each.operation)
    return operation


def _unique(name: str, names: set[str]) -> str:
    number = 1
    while (candidate := name if number == 1 else f"{name}_{number}") in names:
        number += 1
    names.add(candidate)
    return candidate


def _summary(each: RelayPath) -> str:
    if each.operation in FREE_OPERATIONS:
        return "Free of charge; needs a credential that is known"
    return "A flat price for the call" if each.flat_price else "Metered by what the answer uses"


def _request_body(operation: Operation) -> Json:
    if operation is Operation.RAW:
        return {"required": False, "content": {"*/*": {"schema": {}}}}
    schema = REQUEST_SCHEMAS.get(operation, {"type": "object"})
    content: Json = {"application/json": {"schema": schema}}
    if operation in _UPLOADS:
        upload = {"multipart/form-data": {"schema": schema}}
        content = upload if operation is Operation.TRANSCRIPTIONS else upload | content
    return {"required": True, "content": content}


def _relay_responses(each: RelayPath) -> Json:
    content: Json = {"application/json": {"schema": {}}}
    if each.operation in _STREAMING or each.operation is Operation.STREAM_GENERATE:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    if each.operation in _NDJSON:
        content["application/x-ndjson"] = {"schema": {"type": "string"}}
    if each.operation in (Operation.RAW, Operation.SPEECH, Operation.TRANSCRIPTIONS):
        content = {"*/*": {"schema": {}}}
    answer = {"description": "The upstream's answer, byte for byte", "headers": _COST_HEADERS, "content": content}
    return {
        "200": answer,
        **_problems("402"),
        **dict.fromkeys(("400", "401", "403", "404", "405", "409", "413", "422", "429", "503"), _EITHER),
        "default": _UPSTREAM,
    }


# The upstream refuses with its own bodies, and with the same statuses as we do.
_EITHER: Json = {
    "description": "Farebox's refusal (application/problem+json), or the upstream's own",
    "content": {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
        "*/*": {"schema": {}},
    },
}
_UPSTREAM: Json = {
    "description": "What the upstream answered, or why it could not be asked",
    "content": {"*/*": {"schema": {}}},
}
_COST_HEADERS: Json = {
    "Farebox-Request-Id": {"schema": {"type": "string"}},
    "Farebox-Cost": {"schema": {"type": "string"}, "description": "on JSON answers up to 1 MiB"},
    "Farebox-Balance": {"schema": {"type": "string"}, "description": "on JSON answers up to 1 MiB"},
}


def _problems(*statuses: str) -> Json:
    return {
        status: {"$ref": "#/components/responses/" + ("PaymentRequired" if status == "402" else "Problem")}
        for status in statuses
    }


def _answer(schema: str, description: str) -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _get(name: str, summary: str, answers: Mapping[str, Json]) -> Json:
    return {"operationId": name, "summary": summary, "tags": ["farebox"], "responses": dict(answers)}


def _post(name: str, summary: str, answers: Mapping[str, Json]) -> Json:
    refusals = _problems("402", "400", "401", "403", "404", "409", "413", "422", "429", "503")
    return {
        **_get(name, summary, {**answers, **refusals}),
        "parameters": [{"$ref": "#/components/parameters/IdempotencyKey"}],
    }


def _secured(operation: Json) -> Json:
    return {**operation, "security": _SECURITY}


def _own_paths() -> Json:
    """What Farebox serves by itself."""
    refusals = _problems("402", "400", "401", "403", "404", "409", "413", "422", "429", "503")
    balance = _get(
        "balance", "What is left of an agent's credit", {"200": _answer("Balance", "The balance"), **refusals}
    )
    record = _get(
        "request_record",
        "What a paid request used and cost, during and after it; what costs nothing is not recorded",
        {"200": _answer("RequestRecord", "The record"), **refusals},
    )
    refund = _post(
        "refund", "Pays what is left of a credit back over Lightning", {"200": _answer("Refund", "The refund")}
    )
    refund["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/RefundRequest"}}},
    }
    revoke = _post(
        "revoke", "Makes a token, and all made from it, worthless", {"200": _answer("Revoked", "It is revoked")}
    )
    text = {"description": "Prometheus' text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    ready = {"200": _answer("Health", "It can"), "503": _answer("Health", "It cannot")}
    return {
        "/l402/balance": {"get": _secured(balance)},
        "/l402/refund": {"post": _secured(refund)},
        "/l402/revoke": {"post": _secured(revoke)},
        "/api/requests/{id}": {**_with_parameters("/api/requests/{id}"), "get": _secured(record)},
        "/.well-known/l402.json": {
            "get": _get("l402_discovery", "How to pay here", {"200": _answer("Object", "The service's description")})
        },
        "/openapi.json": {"get": _get("openapi", "This description", {"200": _answer("Object", "OpenAPI 3.1")})},
        "/health/live": {"get": _get("live", "Whether the process runs", {"200": _answer("Health", "It does")})},
        "/health/ready": {"get": _get("ready", "Whether it can serve", ready)},
        "/metrics": {"get": _get("metrics", "Counters of all workers", {"200": text})},
    }
