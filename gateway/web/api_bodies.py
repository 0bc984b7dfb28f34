"""What all of our own paths share: JSON bodies read strictly, answers, pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.errors import InvalidRequest
from gateway.core.headers import content_type_of
from gateway.web.bodies import read_body

Row = TypeVar("Row")

GREATEST_BODY_BYTES = 262_144
PAGE_MOST = 1_000
NO_STORE = {"cache-control": "no-store"}


async def read_object(request: Request) -> tuple[dict[str, Any], bytes]:
    """The JSON object of a body, and its bytes; an empty body is an empty object. Errors: InvalidRequest, TooLarge."""
    content_type_of(request.scope["headers"])
    raw = await read_body(request.receive, GREATEST_BODY_BYTES)  # type: ignore[arg-type]
    value = read_json(raw) if raw.strip() else {}
    if not isinstance(value, dict):
        raise InvalidRequest("the body is a JSON object", param="body")
    return value, raw


def read_json(raw: bytes) -> Any:
    """Any JSON value. Errors: InvalidRequest."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("the body is no JSON", param="body") from None


def members(body: Mapping[str, Any], allowed: Collection[str], *, required: Collection[str] = ()) -> None:
    """Errors: InvalidRequest naming a member that is not there, or that nobody reads."""
    for name in body:
        if name not in allowed:
            raise InvalidRequest(f"no such member; there are {', '.join(sorted(allowed))}", param=name[:64])
    for name in required:
        if body.get(name) is None:
            raise InvalidRequest("missing", param=name)


def given(body: Mapping[str, Any], name: str) -> bool:
    """Whether a member says something: null is as good as absent, nothing else is."""
    return body.get(name) is not None


def text_of(body: Mapping[str, Any], name: str, *, most: int = 200, default: str | None = None) -> str:
    """A member that is text. Errors: InvalidRequest."""
    value = body.get(name, default)
    if not isinstance(value, str) or not value.isprintable() or not (value or default == "") or len(value) > most:
        raise InvalidRequest(f"must be 1 to {most} printable characters", param=name)
    return value


def number_of(body: Mapping[str, Any], name: str, *, least: int, most: int, default: int | None = None) -> int:
    """A member that is a whole number. Errors: InvalidRequest."""
    value = body.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise InvalidRequest(f"must be a whole number from {least} to {most}", param=name)
    return value


def texts_of(body: Mapping[str, Any], name: str, *, most: int = 100) -> tuple[str, ...]:
    """A member that is a list of texts; an absent one is empty. Errors: InvalidRequest."""
    value = [] if body.get(name) is None else body[name]
    if not isinstance(value, list) or len(value) > most:
        raise InvalidRequest(f"must be a list of at most {most} texts", param=name)
    for index, each in enumerate(value):
        if not isinstance(each, str) or not 0 < len(each) <= 200 or not each.isprintable():
            raise InvalidRequest("must be 1 to 200 printable characters", param=f"{name}[{index}]")
    return tuple(value)


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that nobody may keep."""
    return Response(msgspec.json.encode(value), status, {**NO_STORE, **(headers or {})}, media_type="application/json")


def page(request: Request) -> tuple[int, str]:
    """`limit` and `after` of a list. Errors: InvalidRequest."""
    limit = request.query_params.get("limit", "100")
    if not limit.isdigit() or not limit.isascii() or len(limit) > 4 or not 1 <= int(limit) <= PAGE_MOST:
        raise InvalidRequest(f"must be a number from 1 to {PAGE_MOST}", param="limit")
    after = request.query_params.get("after", "")
    if len(after) > 400:
        raise InvalidRequest("must be what `next` of the page before says", param="after")
    return int(limit), after


def paged(
    rows: Sequence[Row], limit: int, after: str, place: Callable[[Row], str], *, newest_first: bool = False
) -> tuple[list[Row], str | None]:
    """A page of a list that is in memory: rows in the order of their places, those beyond `after`, and what `next`
    is."""
    ordered = sorted(rows, key=place, reverse=newest_first)
    if after:
        ordered = [row for row in ordered if (place(row) < after if newest_first else place(row) > after)]
    return ordered[:limit], place(ordered[limit - 1]) if len(ordered) > limit else None
