"""Everything that Farebox serves itself, beside the relay: one table of routes, one way to refuse, one line of the log
and one count for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from gateway.core.errors import Problem
from gateway.core.finished import Finished
from gateway.web.problems import on_http_exception, on_problem
from gateway.web.site_trace import SiteTrace, begin_trace

ASGIApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# Machines ask these every few seconds; what they ask would hide what people do.
_UNOBSERVED = frozenset({"health", "metrics"})
_STATUS_OF = {"websocket.accept": 101, "websocket.close": 403}


def own_site(routes: list[BaseRoute]) -> Starlette:
    """The application of our own paths."""
    site = Starlette(
        routes=routes,
        exception_handlers={Problem: on_problem, HTTPException: on_http_exception, Exception: on_problem},
    )
    # A redirect would name whatever host the request names, and a POST would lose its body on the way.
    site.router.redirect_slashes = False
    return site


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
        "", scope.get("method", "GET"), route=getattr(scope.get("route"), "path", ""), operation=area,
        status=trace.status, reason=trace.reason, account=trace.account, org=trace.org, key_id=trace.key_id,
        user=trace.user, duration_s=duration_s,
    )  # fmt: skip
