"""A description (OpenAPI 3.1), held against what is really answered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from jsonschema import Draft202012Validator

Schema = dict[str, Any]
METHODS = frozenset({"get", "post", "put", "patch", "delete", "head", "options"})


class Described:
    """Finds the operation of a request, and says what is not as it is described. `seen`: (method, path, status) of
    every answer that was checked."""

    def __init__(self, document: Schema) -> None:
        self.document = document
        self.seen: set[tuple[str, str, int]] = set()
        self._patterns = [
            (re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path)) + r"\Z"), path) for path in document["paths"]
        ]
        # The most particular first, as the specification asks.
        self._patterns.sort(key=lambda each: (each[1].count("{"), -len(re.sub("{[^}]*}", "", each[1]))))
        self._answers: dict[tuple[str, str, str, str], Draft202012Validator | None] = {}
        self._closed = _closed(document["components"])

    def operations(self) -> Iterator[tuple[str, str, Schema]]:
        """Path, method in capitals, operation."""
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                if method in METHODS:
                    yield path, method.upper(), operation

    def path_of(self, target: str) -> str | None:
        """The path that describes a request's."""
        return next((path for pattern, path in self._patterns if pattern.match(target)), None)

    def resolved(self, value: Schema) -> Schema:
        """What a reference leads to."""
        while "$ref" in value:
            place: Any = self.document
            for step in value["$ref"].removeprefix("#/").split("/"):
                place = place[step]
            value = place
        return value

    def parameters(self, path: str, operation: Schema) -> list[Schema]:
        """All of an operation, those of its path too."""
        given = [*self.document["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        return [self.resolved(each) for each in given]

    async def check(self, answer: httpx.Response) -> None:
        """Hold an answer against its description. Errors: AssertionError."""
        await answer.aread()
        method, target = answer.request.method, answer.request.url.path
        path = self.path_of(target)
        item = self.document["paths"].get(path, {})
        if path is None or method.lower() not in item:
            assert answer.status_code in (404, 405), f"{method} {target} is served and not described"
            return
        responses = item[method.lower()]["responses"]
        where = f"{method} {path} {answer.status_code}: {answer.text[:2_000]}"
        status = str(answer.status_code)
        assert status in responses or "default" in responses, f"not described: {where}"
        media = answer.headers.get("content-type", "").partition(";")[0]
        validator = self._validator(path, method, status if status in responses else "default", media)
        if validator is not None:
            wrong = [f"{'/'.join(map(str, each.absolute_path))}: {each.message[:500]}"
                     for each in validator.iter_errors(answer.json())]  # fmt: skip
            assert not wrong, f"{wrong} in {where}"
        self.seen.add((method, path, answer.status_code))

    def _validator(self, path: str, method: str, status: str, media: str) -> Draft202012Validator | None:
        """None where it is no JSON. Objects of answers are closed here, so that no member goes undescribed."""
        name = (path, method, status, media)
        if name not in self._answers:
            response = self.resolved(self.document["paths"][path][method.lower()]["responses"][status])
            content = response.get("content", {})
            assert media in content or "*/*" in content, f"not described: {name}"
            schema = _closed(content.get(media, content.get("*/*"))["schema"])
            is_json = media.endswith("json") and "ndjson" not in media
            self._answers[name] = self.validator(schema, self._closed) if is_json else None
        return self._answers[name]

    def validator(self, schema: Schema, components: Schema | None = None) -> Draft202012Validator:
        """Of a schema that may refer to the components."""
        whole = {"allOf": [schema], "components": components or self.document["components"]}
        return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _closed(schema: Any) -> Any:
    """The same, its objects closed where nothing is said of other members."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {name: _closed(member) for name, member in schema.items()}
    if schema.get("type") == "object" and schema.get("properties") and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed
