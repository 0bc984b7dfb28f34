"""What is logged and counted of one request to our own paths, filled in as it goes.

It travels in the ASGI scope, because handlers, and the framework's handlers of errors, share nothing else with whoever
observes them.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from msgspec import Struct

_KEY = "farebox.site_trace"


class SiteTrace(Struct):
    """Whoever finds something out notes it here: whose request it is, and how it ended. `status`: of the answer, or of
    the refusal that gRPC callers get under another one. `request_id`: of one that failed, to find it in the log."""

    request_id: str = ""
    status: int = 0
    reason: str = ""
    account: str = ""
    org: str = ""
    key_id: str = ""
    user: str = ""


def begin_trace(scope: MutableMapping[str, Any]) -> SiteTrace:
    """The trace of a request that begins."""
    trace = scope[_KEY] = SiteTrace()
    return trace


def trace_of(scope: MutableMapping[str, Any]) -> SiteTrace:
    """The trace of a request that runs; one that nobody reads, where nobody observes it."""
    trace: SiteTrace = scope.get(_KEY) or SiteTrace()
    return trace
