"""Puts together the routes that Farebox serves itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.adapters.metrics import Metrics
from gateway.adapters.system import Machine
from gateway.agents_assembly import Agents
from gateway.core.operations import Dialect
from gateway.core.routing import RouteTable, default_routes
from gateway.store_assembly import Store
from gateway.web.addresses import Addresses
from gateway.web.l402 import L402Desk, account_of, l402_routes
from gateway.web.openapi import RelayPath, openapi_document
from gateway.web.ops import ops_routes
from gateway.web.principal import Api
from gateway.web.proxy import Proxy
from gateway.web.requests import request_routes


def own_routes(
    *,
    api: Api,
    store: Store,
    agents: Agents,
    metrics: Metrics,
    addresses: Addresses,
    system: Machine,
    table: RouteTable,
    proxy: Proxy,
    public_url: str,
) -> list[BaseRoute]:
    """Every route beside the relay."""
    desk = L402Desk(
        policy=agents.policy,
        challenger=agents.challenger,
        verifier=agents.verifier,
        crediting=agents.crediting,
        refunder=agents.refunder,
        ledger=store.ledger,
        records=agents.records,
        addresses=addresses,
        system=system,
    )

    async def store_answers() -> None:
        await store.ledger.has_lease(store.worker)

    document = msgspec.json.encode(
        openapi_document(
            relay_paths(table), upstreams=addressed(table), version=__version__, server_url=public_url or "/"
        )
    )

    async def openapi(_: Request) -> Response:
        return Response(document, media_type="application/json")

    return [
        *ops_routes(checks={"store": store_answers}, exposition=metrics.exposition, draining=lambda: proxy.draining),
        *l402_routes(desk),
        *request_routes(store.ledger, partial(account_of, desk), api),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]


def relay_paths(table: RouteTable) -> list[RelayPath]:
    """What the relay serves, as `/openapi.json` describes it: the routes, and each upstream under its own name."""
    named = [
        replace(route, path=f"/{upstream.name}{route.path}")
        for upstream in table.upstreams.values()
        for route in default_routes((upstream,))
    ]
    return [
        RelayPath(route.path, route.methods, route.operation, route.dialect, flat_price=route.price is not None)
        for route in (*table.routes, *named)
    ]


def addressed(table: RouteTable) -> list[str]:
    """The upstreams that are reached as `/{upstream}/...`; raw ones only by routes that name a price."""
    return [upstream.name for upstream in table.upstreams.values() if upstream.dialect is not Dialect.RAW]
