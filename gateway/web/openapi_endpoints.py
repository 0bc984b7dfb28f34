"""One method of one path as an area declares it, and how OpenAPI writes that down.

What an area says is what differs: who may ask, what is asked, what is answered. What follows from that is derived here
(credentials, headers, the refusals that can come), so that it is said the same way everywhere. To describe a new route,
add an `Endpoint` to the module of its area; a test compares all of them with the routes that are served.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.web.openapi_schemas import NOTHING, TEXT, Schema

_PATH_NAME = re.compile(r"{([^}]+)}")
JSON = "application/json"
PROBLEM = "application/problem+json"


class Who(StrEnum):
    """Whose credential a path takes."""

    NOBODY = "open to everybody"
    AGENT = "an L402 credential"
    APP = "an app key, for itself or for a person; an operator key with `?account=`"
    PAYER = "an L402 credential or an app key"
    OPERATOR = "an operator key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path.

    `name`: unique, for generated clients. `body`: what is asked for; None where none is read. `once`: it takes an
    `Idempotency-Key`. `answer` in the media type `media`, with `others` beside it. `ids`: what the names in the path
    look like. `query`: name -> schema. `refused`: statuses that can come beside those that follow from the rest.
    `answers`: whole answers of further statuses.
    """

    method: str
    path: str
    name: str
    summary: str
    who: Who
    answer: Schema
    status: int = 200
    media: str = JSON
    others: Mapping[str, Schema] = field(default_factory=lambda: NOTHING)
    body: Schema | None = None
    once: bool = False
    ids: Mapping[str, Schema] = field(default_factory=lambda: NOTHING)
    query: Mapping[str, Schema] = field(default_factory=lambda: NOTHING)
    parameters: tuple[str, ...] = ()
    refused: tuple[int, ...] = ()
    answers: Mapping[str, Schema] = field(default_factory=lambda: NOTHING)


def path_item(endpoint: Endpoint) -> Schema:
    """What stands at the path for all its methods: the names in it."""
    names = _PATH_NAME.findall(endpoint.path)
    if not names:
        return {}
    return {"parameters": [path_parameter(name, endpoint.ids.get(name)) for name in names]}


def path_parameter(name: str, schema: Schema | None = None) -> Schema:
    """A name in a path."""
    return {"name": name, "in": "path", "required": True, "schema": schema or {**TEXT, "minLength": 1}}


def operation(endpoint: Endpoint) -> Schema:
    """The operation of OpenAPI."""
    content = {endpoint.media: {"schema": endpoint.answer}}
    content |= {media: {"schema": schema} for media, schema in endpoint.others.items()}
    answer: Schema = {"description": endpoint.summary, "content": content}
    written: Schema = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": f"For {endpoint.who}." if endpoint.who is not Who.NOBODY else "Open to everybody.",
        "tags": [endpoint.path.split("/")[2] if endpoint.path.count("/") > 1 else "farebox"],
        "security": security(endpoint.who),
        "responses": {
            str(endpoint.status): answer,
            **endpoint.answers,
            **{str(status): refusal(status) for status in sorted(set(_refused(endpoint)))},
        },
    }
    if parameters := list(_parameters(endpoint)):
        written["parameters"] = parameters
    if endpoint.body is not None:
        required = not _may_be_empty(endpoint.body)
        written["requestBody"] = {"required": required, "content": {JSON: {"schema": endpoint.body}}}
    return written


def security(who: Who) -> list[Schema]:
    """Which credentials count; each alone is enough."""
    keys: list[Schema] = [{"bearer": []}, {"api_key": []}, {"google_key": []}, {"azure_key": []}, {"query_key": []}]
    proofs: list[Schema] = [{"l402": []}, {"macaroon": []}, {"grpc_macaroon": []}]
    match who:
        case Who.NOBODY:
            return []
        case Who.AGENT | Who.PAYER:
            return [*proofs, *keys]  # a key of the form <macaroon>:<preimage> is an L402 credential too
        case Who.APP | Who.OPERATOR:
            return keys


def refusal(status: int) -> Schema:
    """The refusal of a status, by its component."""
    name = {402: "PaymentRequired", 403: "Forbidden", 409: "Conflict", 422: "Invalid"}.get(status, "Problem")
    return {"$ref": f"#/components/responses/{name}"}


def _refused(endpoint: Endpoint) -> Iterator[int]:
    yield from endpoint.refused
    if endpoint.who is Who.NOBODY:
        return
    yield from (400, 403, 422, 503)
    if endpoint.who is not Who.AGENT:
        yield 401
    if endpoint.who in (Who.AGENT, Who.PAYER):
        yield from (402, 429)  # a challenge, or too many of them
    if endpoint.body is not None:
        yield 413
    if endpoint.once:
        yield 409
    if _PATH_NAME.search(endpoint.path):
        yield 404


def _parameters(endpoint: Endpoint) -> Iterator[Schema]:
    names = [*endpoint.parameters]
    if endpoint.once:
        names.append("IdempotencyKey")
    if endpoint.who in (Who.APP, Who.PAYER):
        names += ["User", "Session", "Account"]
    if endpoint.who in (Who.AGENT, Who.PAYER):
        names += ["Deposit", "BolthubCredit"]
    yield from ({"$ref": f"#/components/parameters/{name}"} for name in names)
    for name, schema in endpoint.query.items():
        yield {"name": name, "in": "query", "schema": schema}


def _may_be_empty(body: Schema) -> bool:
    """Whether an object without members will do, and so no body at all."""
    return body.get("type") == "object" and not body.get("required")
