"""Everything that Farebox serves itself, beside the relay: one table of routes, one way to refuse, one line of the log
and one count for each request."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from gateway.core.errors import Problem
from gateway.core.finished import Finished
from gateway.core.headers import is_grpc
from gateway.web.bodies import ClientGone
from gateway.web.problems import on_http_exception, on_problem, render_failure
from gateway.web.site_trace import SiteTrace, begin_trace, trace_of

ASGIApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_log = logging.getLogger("farebox.site")

# As long as the relay's own.
TAIL_BYTES = 13
# Machines ask these every few seconds; what they ask would hide what people do.
_UNOBSERVED = frozenset({"health", "metrics"})
_STATUS_OF = {"websocket.accept": 101, "websocket.close": 403}


def own_site(routes: list[BaseRoute]) -> Starlette:
    """The application of our own paths."""
    site = Starlette(
        routes=routes,
        middleware=[Middleware(_Failures)],
        exception_handlers={Problem: on_problem, HTTPException: on_http_exception},
    )
    # A redirect would name whatever host the request names, and a POST would lose its body on the way.
    site.router.redirect_slashes = False
    return site


class _Failures:
    """Answers and logs what nobody foresaw. The framework would raise it again behind its answer, and the server take
    the connection away."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """Serve one request. What has begun to be answered breaks off."""
        begun = scope["type"] != "http"

        async def noting(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        trace = trace_of(scope)
        try:
            await self._app(scope, receive, noting)
        except ClientGone:
            trace.reason = "client_gone"
        except Exception:
            trace.request_id = f"req_00{secrets.token_hex(TAIL_BYTES)}"
            trace.reason = "internal"
            _log.exception("request %s failed: %s %s", trace.request_id, scope.get("method", ""), scope["path"])
            if begun:
                raise
            trace.status = 500
            status, headers, body = render_failure(grpc=is_grpc(scope["headers"]))
            named = [*headers, (b"farebox-request-id", trace.request_id.encode())]
            await send({"type": "http.response.start", "status": status, "headers": named})
            await send({"type": "http.response.body", "body": body})


class ObservedSite:
    """The application of our own paths, each request told when it is over."""

    def __init__(self, site: ASGIApp, tell: Callable[[Finished], None]) -> None:
        self._site = site
        self._tell = tell
        self._time: Callable[[], float] = asyncio.get_running_loop().time

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """Serve one request."""
        area = scope.get("path", "")[1:].partition("/")[0]
        if scope["type"] not in ("http", "websocket") or area in _UNOBSERVED:
            await self._site(scope, receive, send)
            return
        trace, started_s = begin_trace(scope), self._time()

        async def noting(message: dict[str, Any]) -> None:
            if not trace.status:
                trace.status = message.get("status") or _STATUS_OF.get(message["type"], 0)
            await send(message)

        try:
            await self._site(scope, receive, noting)
        finally:
            self._tell(_finished(scope, trace, area, self._time() - started_s))


def _finished(scope: dict[str, Any], trace: SiteTrace, area: str, duration_s: float) -> Finished:
    return Finished(
        trace.request_id, scope.get("method", "GET"), route=getattr(scope.get("route"), "path", ""), operation=area,
        status=trace.status, reason=trace.reason, account=trace.account, org=trace.org, key_id=trace.key_id,
        user=trace.user, duration_s=duration_s,
    )  # fmt: skip
