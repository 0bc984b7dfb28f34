"""`/openapi.json`: what this gateway serves, described from the same table that relays, and from what each area of our
own paths declares of itself (OpenAPI 3.1).

An area is a module with `ENDPOINTS` and `SCHEMAS`. Invariant: every route that is served stands here, and nothing
else; the answers are as they are described; a request that this allows never gets a 500. The failure this prevents: a
client that was generated from a description which nobody holds against the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.web import (
    openapi_accounts,
    openapi_agents,
    openapi_books,
    openapi_events,
    openapi_limits,
    openapi_operator,
)
from gateway.web.openapi_endpoints import Endpoint, operation, path_item
from gateway.web.openapi_parameters import ANSWER_HEADERS, PARAMETERS, SECURITY_SCHEMES
from gateway.web.openapi_problems import PROBLEM_SCHEMAS, RESPONSES
from gateway.web.openapi_relay import RelayPath, relay_items
from gateway.web.openapi_schemas import MONEY_SCHEMAS, Schema

_AREAS = (openapi_accounts, openapi_limits, openapi_events, openapi_operator, openapi_books, openapi_agents)
ENDPOINTS: tuple[Endpoint, ...] = tuple(endpoint for area in _AREAS for endpoint in area.ENDPOINTS)
_DESCRIPTION = (
    "A reverse proxy in front of AI APIs that takes the fare: L402 for agents with a wallet, keys for apps and the "
    "persons behind them."
)


def openapi_document(
    relayed: Iterable[RelayPath], *, version: str, upstreams: Iterable[str] = (), server_url: str = "/"
) -> Schema:
    """The whole description. `upstreams`: the names that are addressed as `/{upstream}/...`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Farebox", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": server_url}],
        "paths": relay_items(relayed, upstreams) | own_items(),
        "components": {
            "schemas": _schemas(),
            "responses": RESPONSES,
            "parameters": PARAMETERS,
            "headers": ANSWER_HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def own_items() -> dict[str, Schema]:
    """Path items of what Farebox serves by itself."""
    paths: dict[str, Schema] = {}
    for endpoint in ENDPOINTS:
        item = paths.setdefault(endpoint.path, path_item(endpoint))
        item[endpoint.method.lower()] = operation(endpoint)
    return paths


def _schemas() -> dict[str, Schema]:
    schemas = {**MONEY_SCHEMAS, **PROBLEM_SCHEMAS}
    for area in _AREAS:
        schemas |= area.SCHEMAS
    return schemas


__all__ = ["ENDPOINTS", "RelayPath", "openapi_document", "own_items"]
