"""Renders every refusal as the one body of the HTTP contract, so that each SDK shows its message.

RFC 9457 members stand at the top level with `code`; `error` beside them has the shape that the caller's dialect
expects. Whoever is told to pay, or to mend the request, is also told not to try the same again: SDKs would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.errors import Problem
from gateway.core.headers import Headers, is_grpc
from gateway.core.operations import Dialect
from gateway.web.site_trace import trace_of

TYPE_BASE = "https://farebox.dev/problems/"
# Statuses where the same request can succeed a little later; for all others a retry is wasted, and for 402 it is
# harmful.
RETRYABLE = frozenset({429, 502, 503, 504})
DEFAULT_RETRY_AFTER_S = 1

_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 422: "invalid_request_error",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED",
    404: "NOT_FOUND", 405: "UNIMPLEMENTED", 409: "ABORTED", 413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
# gRPC has no code for a missing payment: the protocol of L402 says 13 (internal) with this message.
_GRPC_CODES = {
    400: 3, 401: 16, 402: 13, 403: 7, 404: 12, 405: 12, 409: 10, 413: 8, 422: 3, 426: 9, 429: 8, 431: 8,
    502: 14, 503: 14, 504: 4,
}  # fmt: skip
_GRPC_PAYMENT = "payment required"
_encode = msgspec.json.Encoder().encode


def render_problem(
    problem: Problem, dialect: Dialect = Dialect.RAW, *, grpc: bool = False, headers: Headers | None = None
) -> tuple[int, Headers, bytes]:
    """Status, headers and body. The problem's own headers (a challenge) come first; `grpc` is for callers whose
    content type is application/grpc."""
    own = [(name.encode("ascii"), value.encode("latin-1")) for name, value in problem.headers.items()]
    if grpc:
        return 200, [*own, *(headers or ()), *_grpc_headers(problem)], b""
    body = _encode(problem_body(problem, dialect))
    return problem.status, [*own, *(headers or ()), *_headers(problem, len(body))], body


def render_failure(dialect: Dialect = Dialect.RAW, *, grpc: bool = False) -> tuple[int, Headers, bytes]:
    """The answer to a failure of our own that nobody foresaw: it says nothing of what went wrong inside."""
    return render_problem(Problem("Something went wrong here. It has been logged."), dialect, grpc=grpc)


def problem_body(problem: Problem, dialect: Dialect = Dialect.RAW) -> dict[str, Any]:
    """The JSON object of a refusal."""
    body: dict[str, Any] = {
        "type": TYPE_BASE + problem.code.replace("_", "-"),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "error": _error(problem, dialect),
    }
    if problem.param is not None:
        body["param"] = problem.param
    for name, value in problem.members.items():
        body.setdefault(name, value)
    return body


def _error(problem: Problem, dialect: Dialect) -> Any:
    """`error` in the shape that the dialect's SDKs read. The others read OpenAI's."""
    message = problem.detail
    if dialect is Dialect.OLLAMA:
        return message
    if dialect is Dialect.GEMINI:
        return {
            "code": problem.status,
            "message": message,
            "status": _GOOGLE_STATUSES.get(problem.status, "INTERNAL"),
        }
    if dialect is Dialect.ANTHROPIC:
        other = "invalid_request_error" if problem.status < 500 else "api_error"
        kind = _ANTHROPIC_TYPES.get(problem.status, other)
        return {"type": kind, "message": message, "param": problem.param, "code": problem.code}
    return {"message": message, "type": problem.code, "param": problem.param, "code": problem.code}


def _headers(problem: Problem, length: int) -> Headers:
    headers: Headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % length),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if problem.status not in RETRYABLE and problem.retry_after_s is None:
        headers.append((b"x-should-retry", b"false"))
    return headers + _retry_after(problem)


def _retry_after(problem: Problem) -> Headers:
    seconds = problem.retry_after_s
    if seconds is None and problem.status in (429, 503):
        seconds = DEFAULT_RETRY_AFTER_S
    return [] if seconds is None else [(b"retry-after", b"%d" % max(0, seconds))]


def _grpc_headers(problem: Problem) -> Headers:
    """gRPC's answer without a message: status 200, and the refusal where its clients look for it."""
    message = _GRPC_PAYMENT if problem.status == 402 else problem.detail
    return [
        (b"content-type", b"application/grpc"),
        (b"cache-control", b"no-store"),
        (b"grpc-status", b"%d" % _GRPC_CODES.get(problem.status, 13)),
        (b"grpc-message", quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()),
        *_retry_after(problem),
    ]


async def on_problem(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for our own refusals."""
    assert isinstance(error, Problem)
    return _refused(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler for its own HTTPException (no such path, no such method): the same body as for ours."""
    status = getattr(error, "status_code", 500)
    code, title = _PLAIN.get(status, ("http_error", "Error"))
    problem = Problem(title, code=code)
    problem.status, problem.title = status, title
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    listed = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return _refused(request, problem, listed)


def _refused(request: Request, problem: Problem, headers: Headers | None = None) -> Response:
    trace = trace_of(request.scope)
    trace.status, trace.reason = problem.status, problem.code
    status, listed, body = render_problem(problem, grpc=is_grpc(request.scope["headers"]), headers=headers)
    response = Response(body, status_code=status)
    response.raw_headers = listed
    return response


_PLAIN = {
    400: ("invalid_request", "Bad request"), 404: ("not_found", "Not found"),
    405: ("method_not_allowed", "Method not allowed"), 413: ("too_large", "Too large"),
    500: ("internal", "Internal error"),
}  # fmt: skip
