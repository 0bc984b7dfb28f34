"""`/openapi.json`: what is relayed, from the compiled table of routes, each path with the dialect that it speaks.

What a provider's body may hold is that provider's affair, so bodies are described by the members that Farebox reads,
and others are allowed. Of refusals, those that Farebox makes are described; an upstream refuses with its own bodies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from gateway.core.endings import GEMINI_VERBS
from gateway.core.operations import FREE_OPERATIONS, Dialect, Operation
from gateway.web.openapi_endpoints import JSON, PROBLEM, Who, path_parameter, refusal, security
from gateway.web.openapi_relayed_bodies import RELAYED_BODIES
from gateway.web.openapi_schemas import TEXT, Schema, described, ref, words

_PARAMETER = re.compile(r"{([A-Za-z_]\w*)}")
_METHODS = frozenset({"get", "post", "put", "delete", "patch", "head", "options"})
_STREAMING = frozenset({
    Operation.CHAT, Operation.COMPLETIONS, Operation.RESPONSES, Operation.MESSAGES, Operation.IMAGES_GENERATIONS,
    Operation.IMAGES_EDITS, Operation.TRANSCRIPTIONS, Operation.STREAM_GENERATE,
})  # fmt: skip
_UPLOADS = frozenset({Operation.IMAGES_EDITS, Operation.TRANSCRIPTIONS})
_NDJSON = frozenset({Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE})
_ANY_FORM = frozenset({Operation.RAW, Operation.SPEECH, Operation.TRANSCRIPTIONS})
_HEADERS = ("Deposit", "BolthubCredit", "User", "Session", "Quote")


@dataclass(frozen=True, slots=True)
class RelayPath:
    """A path that is relayed, as the description needs it; `path` has its parameters in braces, a last `*` is the
    rest."""

    path: str
    methods: tuple[str, ...]
    operation: Operation
    dialect: Dialect
    flat_price: bool = False


def relay_items(relayed: Iterable[RelayPath], upstreams: Iterable[str] = ()) -> dict[str, Schema]:
    """Path items. Where several routes share a path and method, the first one stands for all. `upstreams`: those that
    are addressed as `/{upstream}/...`."""
    paths: dict[str, Schema] = {}
    names: set[str] = set()
    for each in _expanded(relayed):
        path = each.path.replace("*", "{rest}")
        for method in each.methods:
            if method.lower() in _METHODS:
                item = paths.setdefault(path, _with_parameters(path))
                item.setdefault(method.lower(), _operation(each, names))
    if upstreams := tuple(upstreams):
        paths["/{upstream}/{path}"] = _addressed(upstreams)
    return paths


def _expanded(relayed: Iterable[RelayPath]) -> Iterator[RelayPath]:
    """Gemini's paths name the operation after the model; the table keeps them as one pattern."""
    for each in relayed:
        if each.dialect is Dialect.GEMINI and each.operation is Operation.GENERATE and each.path.endswith("/models/*"):
            for verb, operation in GEMINI_VERBS.items():
                yield replace(each, path=each.path[:-1] + "{model}:" + verb, operation=operation)
        else:
            yield each


def _with_parameters(path: str) -> Schema:
    names = _PARAMETER.findall(path)
    return {"parameters": [path_parameter(name) for name in names]} if names else {}


def _operation(each: RelayPath, names: set[str]) -> Schema:
    operation: Schema = {
        "operationId": _unique(f"{each.dialect.value}_{each.operation.value}", names),
        "summary": _summary(each),
        "tags": [f"relay {each.dialect.value}"],
        "security": security(Who.PAYER),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _HEADERS],
        "responses": _responses(each),
    }
    if each.operation is Operation.REALTIME:
        operation["parameters"].append({"name": "model", "in": "query", "required": True, "schema": TEXT})
    elif each.dialect is Dialect.GEMINI:
        operation["parameters"].append({"name": "alt", "in": "query", "schema": words("json", "sse")})
    if each.operation in _UPLOADS or each.operation is Operation.RAW:
        operation["parameters"].append({"$ref": "#/components/parameters/ContentDigest"})
    body = _request_body(each)
    return operation if body is None else operation | {"requestBody": body}


def _unique(name: str, names: set[str]) -> str:
    number = 1
    while (candidate := name if number == 1 else f"{name}_{number}") in names:
        number += 1
    names.add(candidate)
    return candidate


def _summary(each: RelayPath) -> str:
    if each.operation in FREE_OPERATIONS:
        return "Free of charge; needs a credential that is known"
    if each.operation is Operation.REALTIME:
        return "A WebSocket, metered by what its responses use"
    return "A flat price for the call" if each.flat_price else "Metered by what the answer uses"


def _request_body(each: RelayPath) -> Schema | None:
    if each.operation is Operation.RAW:
        return {"required": False, "content": {"*/*": {"schema": {}}}}
    if each.operation in (Operation.LISTING, Operation.REALTIME):
        return None
    schema = RELAYED_BODIES.get(each.operation, {"type": "object"})
    if each.operation is Operation.INPUT_TOKENS and each.dialect is not Dialect.GEMINI:
        schema = RELAYED_BODIES[Operation.EMBEDDINGS]  # a model, and what is counted
    content: Schema = {JSON: {"schema": schema}}
    if each.operation in _UPLOADS:
        upload = {"multipart/form-data": {"schema": schema}}
        content = upload if each.operation is Operation.TRANSCRIPTIONS else upload | content
    return {"required": True, "content": content}


def _responses(each: RelayPath) -> Schema:
    content: Schema = {JSON: {"schema": {}}}
    if each.operation in _STREAMING:
        content["text/event-stream"] = {"schema": TEXT}
    if each.operation in _NDJSON:
        content["application/x-ndjson"] = {"schema": TEXT}
    if each.operation in _ANY_FORM:
        content = {"*/*": {"schema": {}}}
    headers = {
        f"Farebox-{header}": {"$ref": f"#/components/headers/{name}"}
        for header, name in (("Request-Id", "RequestId"), ("Quote", "Quote"), ("Cost", "Cost"), ("Balance", "Balance"))
    }
    answer: Schema = {"description": "The upstream's answer, byte for byte", "headers": headers, "content": content}
    good = (
        {"101": {"description": "The session has begun"}} if each.operation is Operation.REALTIME else {"200": answer}
    )
    return {
        **good,
        "402": refusal(402),
        **{str(status): _either("Problem") for status in (400, 401, 403, 404, 405, 413, 422, 429, 502, 503, 504)},
        "409": _either("Conflict"),
        "default": _UPSTREAM,
    }


def _either(problem: str) -> Schema:
    """The upstream refuses with its own bodies, and with the same statuses as we do."""
    content: Schema = {PROBLEM: {"schema": ref(problem)}, "*/*": {"schema": {}}}
    return {"description": "Farebox's refusal, or the upstream's own", "content": content}


_UPSTREAM: Schema = {"description": "What the upstream answered", "content": {"*/*": {"schema": {}}}}


def _addressed(upstreams: tuple[str, ...]) -> Schema:
    """One upstream, whatever stands before an ending that can be metered."""
    path = "the path as the provider has it, with its slashes; its ending says what is asked"
    item: Schema = {
        "parameters": [
            path_parameter("upstream", words(*upstreams)),
            path_parameter("path", described({**TEXT, "minLength": 1}, path)),
        ]
    }
    for method, named in (("get", Operation.LISTING), ("post", Operation.CHAT)):
        relayed = RelayPath("", (method.upper(),), named, Dialect.OPENAI)
        operation = _operation(relayed, set()) | {
            "operationId": f"{method}_of_upstream",
            "summary": "The same as the path alone, of this upstream",
            "tags": ["relay"],
        }
        if method == "post":
            operation["requestBody"] = {"required": True, "content": {"*/*": {"schema": {}}}}
            operation["responses"]["200"]["content"] = {"*/*": {"schema": {}}}
        item[method] = operation
    return item
