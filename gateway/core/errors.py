"""Every way in which Farebox refuses, drawn as one tree.

A refusal is a `Problem`: the status and `code` of the HTTP contract, a sentence for people, the field that is wrong
(`param`), more members for the body, and `retry_after_s` where waiting helps. Flows raise it, the web edge renders it
in the caller's dialect. Messages never carry credentials, keys, prompts or preimages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Problem(Exception):
    """A refusal with its place in the HTTP contract. Subclasses fix the status and the code; an instance may narrow
    `code`."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        param: str | None = None,
        members: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.param = param
        self.members: dict[str, Any] = dict(members or {})
        self.retry_after_s = retry_after_s
        # Headers that the answer carries besides the common ones: `www-authenticate` of a challenge, first in the
        # response.
        self.headers: dict[str, str] = dict(headers or {})


class PaymentRequired(Problem):
    """402: money would help. Codes: payment_required, approval_required, step_up_required, budget_exceeded,
    budget_paused."""

    status, code, title = 402, "payment_required", "Payment required"


class AmbiguousCredential(Problem):
    """400: two different credentials that we know."""

    status, code, title = 400, "ambiguous_credential", "Ambiguous credential"


class InvalidKey(Problem):
    """401: an `fb_` key that we do not know."""

    status, code, title = 401, "invalid_key", "Invalid key"


class Forbidden(Problem):
    """403: known, but not for this; or a caveat of a valid, paid token forbids the request. Never with a challenge."""

    status, code, title = 403, "forbidden", "Forbidden"


class NotFound(Problem):
    """404. Codes: unknown_route, unknown_model, not_found."""

    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(Problem):
    """405: the path is known, the method is not."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


class Conflict(Problem):
    """409. Codes: conflict, illegal_transition, idempotency_mismatch."""

    status, code, title = 409, "conflict", "Conflict"


class TooLarge(Problem):
    """413: a body, header or upload above its limit."""

    status, code, title = 413, "too_large", "Too large"


class HeadTooLarge(TooLarge):
    """431: a request line with its headers above the limit."""

    status, title = 431, "Request head too large"


class MalformedRequest(Problem):
    """400: bytes that are no HTTP request."""

    status, code, title = 400, "invalid_request", "Malformed request"


class UpgradeRequired(Problem):
    """426: the path is served over WebSocket alone."""

    status, code, title = 426, "upgrade_required", "Upgrade required"


class InvalidRequest(Problem):
    """422: bad input. `param` names the field, `detail` says what would be right. Nothing has changed."""

    status, code, title = 422, "invalid_request", "Invalid request"


class RateLimited(Problem):
    """429: too many in a time; never for money."""

    status, code, title = 429, "rate_limited", "Too many requests"


class UpstreamFailed(Problem):
    """502 / 504: the upstream did not answer. Costs nothing."""

    status, code, title = 502, "upstream_failed", "Upstream failed"


class UpstreamTimeout(UpstreamFailed):
    """504: the upstream did not answer in time. Costs nothing."""

    status, code, title = 504, "upstream_timeout", "Upstream timed out"


class Unavailable(Problem):
    """503: our own fault. Codes: store_unavailable, lightning_unavailable, rate_unavailable, draining, frozen."""

    status, code, title = 503, "store_unavailable", "Service unavailable"


class OutcomeUnknown(Unavailable):
    """503: the connection was lost after the step had been written. It may have happened: `void(id)`, or the same id
    again."""
