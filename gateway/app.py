"""The composition root: configuration to ports, ports to flows, flows to routes. The only file that sees everything.

Everything is opened on one exit stack and closed in reverse: first the requests end, then what they stood on.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from gateway.adapters.accesslog import AccessLog
from gateway.adapters.metrics import Metrics
from gateway.adapters.system import Machine
from gateway.adapters.tokens import Vocabularies
from gateway.adapters.upstream import target_of
from gateway.adapters.upstream_socket import UpstreamSocketSet
from gateway.adapters.upstreams import UpstreamSet, UpstreamSettings
from gateway.agents_assembly import open_agents
from gateway.background import Background
from gateway.config import Config, UpstreamConfig
from gateway.core.headers import Headers, key_header
from gateway.flows.admission import Admission
from gateway.flows.counting import Counting
from gateway.flows.proxying import Relay, RelaySettings
from gateway.flows.realtime import RealtimeRelay
from gateway.flows.renewing import Renewals
from gateway.flows.settling import Settler
from gateway.flows.streams import OpenStreams
from gateway.policy_files import load_policies, reload_policies
from gateway.routes import route_table
from gateway.site_assembly import own_routes
from gateway.store_assembly import open_store
from gateway.web.addresses import Addresses
from gateway.web.observer import RequestObserver
from gateway.web.proxy import EdgeLimits, Proxy
from gateway.web.realtime import RealtimeEdge
from gateway.web.site import own_site

ASGIApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


@dataclass(slots=True)
class Gateway:
    """A running gateway. `app` is its ASGI application."""

    app: ASGIApp
    config: Config
    proxy: Proxy
    admission: Admission
    streams: OpenStreams
    apply: Callable[[Any], None]

    def drain(self) -> None:
        """Refuse new work; what runs goes on."""
        self.proxy.draining = True

    def stop_streams(self, why: str) -> None:
        """End the streams that still run; they are settled at what they delivered."""
        self.streams.stop_all(why)

    async def reload_policies(self) -> str:
        """Read the policies again, as one object or not at all; says what happened."""
        reloaded = reload_policies(self.admission.policies, self.config)
        if reloaded.refused:
            return "policies kept as they were: " + "; ".join(reloaded.refused)
        self.apply(reloaded.policies)
        return f"policies in force: {reloaded.policies.digest}"


@asynccontextmanager
async def open_gateway(config: Config, *, worker_number: int = 0) -> AsyncIterator[Gateway]:
    """Open every part and give the gateway. Errors: ConfigError, Unavailable, OSError: it cannot be started."""
    routes = route_table(config)
    policies = load_policies(config)
    data_dir = Path(config.data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    worker = f"w{worker_number}-{os.getpid()}-{secrets.token_hex(4)}"
    system = Machine()
    async with AsyncExitStack() as stack:
        background = Background()
        metrics = _open_metrics(stack, data_dir, background)
        access_log = AccessLog(system.now_s)
        background.run("access log", access_log.run)
        stack.push_async_callback(access_log.flush)
        store = await open_store(stack, config, worker=worker, metrics=metrics, background=background)
        vocabularies = Vocabularies()
        counting = Counting(vocabularies.counter_for, vocabularies.is_exact)
        current = [policies]
        agents = await open_agents(
            stack, config, store=store, metrics=metrics, counting=counting, policies=lambda: current[0],
            system=system, background=background,
        )  # fmt: skip
        admission = Admission(
            routes=routes,
            policies=policies,
            agents=agents.desk,
            system=system,
            upload_most_bytes=config.limits.upload_most_bytes,
        )
        targets = {name: _settings(each) for name, each in config.upstreams.items()}
        upstreams = UpstreamSet(targets)
        stack.callback(upstreams.close)
        sockets = UpstreamSocketSet(targets)
        stack.push_async_callback(sockets.close)
        streams = OpenStreams(stalled_reader_s=config.limits.stalled_reader_s)
        background.run("streams", streams.run)
        renewals = Renewals(store.ledger, lifetime_s=policies.hold.hold_lifetime_s)
        background.run("renewals", renewals.run)
        settler = Settler(store.ledger, store.spool)
        relay = Relay(
            admission=admission,
            upstreams=upstreams,
            ledger=store.ledger,
            settler=settler,
            counting=counting,
            streams=streams,
            renewals=renewals,
            settings=_relay_settings(config),
        )
        addresses = Addresses(config.trusted_proxies)
        observer = RequestObserver(
            (metrics.finished, access_log.finished),
            now_s=asyncio.get_running_loop().time,
            policy=lambda: current[0].digest,
        )
        metrics.catch_up = observer.flush
        stack.callback(observer.flush)
        proxy = Proxy(
            relay,
            system=system,
            addresses=addresses,
            observer=observer,
            limits=_edge_limits(config),
        )
        _gauges(metrics, streams, proxy)
        realtime = RealtimeEdge(
            RealtimeRelay(
                admission=admission,
                sockets=sockets,
                ledger=store.ledger,
                settler=settler,
                counting=counting,
                streams=streams,
            ),
            system=system,
            addresses=addresses,
            observer=observer,
            doors=proxy,
            most=config.limits.open_requests_most,
        )

        def apply(fresh: Any) -> None:
            current[0] = admission.policies = fresh

        site = own_site(
            own_routes(
                store=store,
                agents=agents,
                metrics=metrics,
                addresses=addresses,
                system=system,
                table=routes,
                proxy=proxy,
                public_url=config.public_url,
            )
        )
        stack.push_async_callback(background.close)
        yield Gateway(_dispatch(site, proxy, realtime), config, proxy, admission, streams, apply)


def _open_metrics(stack: AsyncExitStack, data_dir: Path, background: Background) -> Metrics:
    metrics = Metrics(data_dir / "metrics")
    metrics.open()
    stack.callback(metrics.close)
    background.run("metrics", metrics.run)
    return metrics


def _gauges(metrics: Metrics, streams: OpenStreams, proxy: Proxy) -> None:
    metrics.gauge("farebox_open_streams", "Streams that run now", lambda: len(streams))
    metrics.gauge("farebox_open_requests", "Requests that run now", lambda: proxy.open_requests)


def _settings(config: UpstreamConfig) -> UpstreamSettings:
    target = target_of(
        config.base_url,
        connect_timeout_s=config.connect_timeout_s,
        headers_timeout_s=config.first_byte_timeout_s,
        read_timeout_s=config.read_idle_timeout_s,
        idle_s=config.connection_idle_s,
        pool_size=config.connections_idle_most,
        connections_most=config.connections_most,
    )
    headers: Headers = key_header(config.dialect, config.api_key)
    headers += [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in config.headers.items()]
    return UpstreamSettings(target, headers)


def _relay_settings(config: Config) -> RelaySettings:
    return RelaySettings(
        whole_answer_most_bytes=config.limits.whole_answer_most_bytes,
        drain_on_disconnect=frozenset(name for name, each in config.upstreams.items() if each.drain_on_disconnect),
        stalled_reader_s=config.limits.stalled_reader_s,
        read_timeout_s={name: each.read_idle_timeout_s for name, each in config.upstreams.items()},
    )


def _edge_limits(config: Config) -> EdgeLimits:
    rates = [each.upload_least_bytes_per_s for each in config.upstreams.values()]
    return EdgeLimits(
        body_most_bytes=config.limits.body_most_bytes,
        upload_most_bytes=config.limits.upload_most_bytes,
        header_most_bytes=config.limits.header_most_bytes,
        open_requests_most=config.limits.open_requests_most,
        upload_least_bytes_per_s=min(rates, default=1_024),
    )


def _dispatch(site: Starlette, proxy: Proxy, realtime: RealtimeEdge) -> ASGIApp:
    """Our own paths to the site, all others to the relay. `/api/chat` and `/api/generate` are Ollama's."""
    own = frozenset(
        {"l402", "health", "metrics", "openapi.json", ".well-known", "api", "admin", "hooks", "dashboard", "console"}
    )
    relayed = frozenset({"/api/chat", "/api/generate"})

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        path: str = scope["path"]
        if path[1:].partition("/")[0] in own and path not in relayed:
            await site(scope, receive, send)
        elif scope["type"] == "http":
            await proxy(scope, receive, send)
        elif scope["type"] == "websocket":
            await realtime(scope, receive, send)
        else:
            await site(scope, receive, send)

    return app
