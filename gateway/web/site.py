"""Everything that Farebox serves itself, beside the relay: one table of routes, one way to refuse."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from gateway.core.errors import Problem
from gateway.web.problems import on_http_exception, on_problem


def own_site(routes: list[BaseRoute]) -> Starlette:
    """The application of our own paths."""
    return Starlette(
        routes=routes,
        exception_handlers={Problem: on_problem, HTTPException: on_http_exception, Exception: on_problem},
    )
