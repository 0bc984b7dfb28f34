"""The composition root: configuration to ports, ports to flows, flows to routes. The only file that sees everything.

Everything is opened on one exit stack and closed in reverse: first the requests end, then what they stood on.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.adapters.accesslog import AccessLog
from gateway.adapters.metrics import Metrics
from gateway.adapters.system import Machine
from gateway.adapters.tokens import Vocabularies
from gateway.agents_assembly import open_agents
from gateway.background import Background
from gateway.config import Config
from gateway.core.directory import Principal
from gateway.core.errors import Conflict, Problem
from gateway.edge_assembly import open_edge
from gateway.flows.admission import Admission
from gateway.flows.auditing import Auditing
from gateway.flows.counting import Counting
from gateway.flows.streams import OpenStreams
from gateway.operator_assembly import open_operators, operator_routes
from gateway.people_assembly import open_api, open_people, people_routes, run_people
from gateway.policies import Policies
from gateway.policy_files import load_policies, reload_policies
from gateway.routes import route_table
from gateway.site_assembly import own_routes
from gateway.store_assembly import open_store
from gateway.web.observer import RequestObserver
from gateway.web.proxy import Proxy
from gateway.web.realtime import RealtimeEdge
from gateway.web.site import ASGIApp, ObservedSite, own_site


@dataclass(slots=True)
class Gateway:
    """A running gateway. `app` is its ASGI application."""

    app: ASGIApp
    config: Config
    proxy: Proxy
    admission: Admission
    streams: OpenStreams
    auditing: Auditing
    apply: Callable[[Policies], None]
    # Has the other workers of this machine read the policies too.
    tell_others: Callable[[], None] | None = None

    def drain(self) -> None:
        """Refuse new work; what runs goes on."""
        self.proxy.draining = True

    def stop_streams(self, why: str) -> None:
        """End the streams that still run; they are settled at what they delivered."""
        self.streams.stop_all(why)

    async def reload_policies(self, principal: Principal | None = None) -> str:
        """Read the policies again, as one object or not at all; says what is in force. `principal`: who asked for it,
        None where a signal did. What cannot be audited is not done. Errors: Conflict: they are kept as they were."""
        reloaded = reload_policies(self.admission.policies, self.config)
        if reloaded.refused:
            raise Conflict("policies kept as they were: " + "; ".join(reloaded.refused), code="policies_refused")
        try:
            await self.note_policies(
                reloaded.policies,
                actor="SIGHUP" if principal is None else principal.actor,
                authenticated="command" if principal is None else principal.authenticated,
            )
        except Problem as problem:
            message = f"policies kept as they were: the audit log cannot be written: {problem.detail}"
            raise Conflict(message, code="policies_refused") from None
        self.apply(reloaded.policies)
        if principal is not None and self.tell_others is not None:
            self.tell_others()
        return f"policies in force: {reloaded.policies.digest}"

    async def note_policies(self, policies: Policies, *, actor: str, authenticated: str) -> None:
        """Write down which policies come into force. Errors: Unavailable, Conflict."""
        await self.auditing.policies_in_force(policies.digest, policies.files, actor=actor, authenticated=authenticated)


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
        access_log = _open_access_log(stack, system, background)
        store = await open_store(stack, config, worker=worker, metrics=metrics, background=background)
        vocabularies = Vocabularies()
        counting = Counting(vocabularies.counter_for, vocabularies.is_exact)
        current = [policies]
        agents = await open_agents(
            stack, config, store=store, metrics=metrics, counting=counting, policies=lambda: current[0],
            system=system, background=background,
        )  # fmt: skip
        people = open_people(config, store=store, counting=counting, policies=lambda: current[0], system=system)
        operators = open_operators(config, people, store=store, policies=lambda: current[0], system=system)
        admission = Admission(
            routes=routes,
            policies=policies,
            agents=agents.desk,
            accounts=people.desk,
            system=system,
            upload_most_bytes=config.limits.upload_most_bytes,
        )
        observer = _open_observer(stack, metrics, access_log, policy=lambda: current[0].digest)
        edge = open_edge(
            stack, config, store=store, admission=admission, counting=counting, observer=observer,
            metrics=metrics, system=system, background=background, proved=agents.verifier.proved,
        )  # fmt: skip

        def apply(fresh: Policies) -> None:
            current[0] = admission.policies = fresh

        gateway = Gateway(_nothing_yet, config, edge.proxy, admission, edge.streams, people.auditing, apply)
        run_people(stack, people, store=store, system=system, metrics=metrics, background=background)
        api = open_api(people, agents.records, edge.addresses, system)
        site = own_site(
            people_routes(people, api=api, store=store, public_url=config.public_url, reading=admission)
            + operator_routes(operators, people, api=api, reload=gateway.reload_policies)
            + own_routes(
                api=api,
                store=store,
                agents=agents,
                metrics=metrics,
                addresses=edge.addresses,
                system=system,
                table=routes,
                proxy=edge.proxy,
                public_url=config.public_url,
            )
        )
        stack.push_async_callback(background.close)
        gateway.app = _dispatch(ObservedSite(site, observer.tell), edge.proxy, edge.realtime)
        await gateway.note_policies(policies, actor="start", authenticated="command")
        yield gateway


async def _nothing_yet(_scope: dict[str, Any], _receive: Any, _send: Any) -> None:
    """Stands in until everything is put together."""


def _open_metrics(stack: AsyncExitStack, data_dir: Path, background: Background) -> Metrics:
    metrics = Metrics(data_dir / "metrics")
    metrics.open()
    stack.callback(metrics.close)
    background.run("metrics", metrics.run)
    return metrics


def _open_access_log(stack: AsyncExitStack, system: Machine, background: Background) -> AccessLog:
    access_log = AccessLog(system.now_s)
    background.run("access log", access_log.run)
    stack.push_async_callback(access_log.flush)
    return access_log


def _open_observer(
    stack: AsyncExitStack, metrics: Metrics, access_log: AccessLog, *, policy: Callable[[], str]
) -> RequestObserver:
    sinks = (metrics.finished, access_log.finished)
    observer = RequestObserver(sinks, now_s=asyncio.get_running_loop().time, policy=policy)
    metrics.catch_up = observer.flush
    stack.callback(observer.flush)
    return observer


def _dispatch(site: ASGIApp, proxy: Proxy, realtime: RealtimeEdge) -> ASGIApp:
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
