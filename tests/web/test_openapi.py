"""The description is valid in shape, complete in references, and made from the table that serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.core.operations import Dialect, Operation
from gateway.web.openapi import RelayPath, openapi_document

RELAYED = [
    RelayPath("/v1/chat/completions", ("POST",), Operation.CHAT, Dialect.OPENAI),
    RelayPath("/openai/v1/chat/completions", ("POST",), Operation.CHAT, Dialect.OPENAI),
    RelayPath("/v1beta/models/*", ("POST",), Operation.GENERATE, Dialect.GEMINI),
    RelayPath("/api/chat", ("POST",), Operation.OLLAMA_CHAT, Dialect.OLLAMA),
    RelayPath("/v1/audio/transcriptions", ("POST",), Operation.TRANSCRIPTIONS, Dialect.OPENAI),
    RelayPath("/v1/models", ("GET",), Operation.LISTING, Dialect.OPENAI),
    RelayPath("/v1/realtime", ("GET",), Operation.REALTIME, Dialect.OPENAI),
    RelayPath("/weather/*", ("GET", "POST"), Operation.RAW, Dialect.RAW, flat_price=True),
]
DOCUMENT = openapi_document(RELAYED, version="0.1.0")


def operations() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation, item


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def test_it_is_json_of_version_3_1() -> None:
    assert json.loads(json.dumps(DOCUMENT))["openapi"] == "3.1.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert isinstance(place, dict)


def test_every_operation_has_a_name_of_its_own_and_says_what_comes_back() -> None:
    names = [operation["operationId"] for _, _, operation, _ in operations()]
    assert len(names) == len(set(names))
    for path, method, operation, _ in operations():
        assert operation["responses"], (path, method)
        for status, answer in operation["responses"].items():
            assert status == "default" or (status.isdigit() and len(status) == 3)
            assert "$ref" in answer or "description" in answer


def test_every_parameter_of_a_path_is_declared() -> None:
    for path, _, _, item in operations():
        named = {part.split("}")[0] for part in path.split("{")[1:]}
        assert named == {parameter["name"] for parameter in item.get("parameters", [])}
        assert path.startswith("/") and "*" not in path


def test_what_is_served_stands_in_it() -> None:
    paths = DOCUMENT["paths"]
    for path in ("/l402/balance", "/l402/refund", "/l402/revoke", "/api/requests/{id}", "/health/live", "/health/ready", "/metrics",
                 "/.well-known/l402.json", "/openapi.json", "/v1/chat/completions", "/weather/{rest}",
                 "/v1beta/models/{model}:streamGenerateContent", "/v1beta/models/{model}:countTokens"):  # fmt: skip
        assert path in paths
    assert "101" in paths["/v1/realtime"]["get"]["responses"], "a WebSocket begins as a GET"
    assert {"get", "post"} <= paths["/weather/{rest}"].keys()
    assert "402" in paths["/v1/chat/completions"]["post"]["responses"]


def test_the_security_schemes_that_are_named_exist() -> None:
    known = DOCUMENT["components"]["securitySchemes"].keys()
    for _, _, operation, _ in operations():
        for requirement in operation.get("security", []):
            assert requirement.keys() <= known
