"""Opens the relay: connections to the upstreams, the flows over them, and the edges that clients reach them by."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.adapters.metrics import Metrics
from gateway.adapters.redis.outbox import RedisOutbox
from gateway.adapters.system import Machine
from gateway.adapters.upstream import target_of
from gateway.adapters.upstream_socket import UpstreamSocketSet
from gateway.adapters.upstreams import UpstreamSet, UpstreamSettings
from gateway.background import Background
from gateway.config import Config, UpstreamConfig
from gateway.core.credentials import Proved
from gateway.core.headers import Headers, key_header
from gateway.flows.admission import Admission
from gateway.flows.charge_telling import ChargeTelling
from gateway.flows.counting import Counting
from gateway.flows.proxying import Relay, RelaySettings
from gateway.flows.realtime import RealtimeRelay
from gateway.flows.renewing import Renewals
from gateway.flows.settling import Settler
from gateway.flows.streams import OpenStreams
from gateway.store_assembly import Store
from gateway.web.addresses import Addresses
from gateway.web.observer import RequestObserver
from gateway.web.proxy import EdgeLimits, Proxy
from gateway.web.realtime import RealtimeEdge


@dataclass(slots=True)
class Edge:
    """What clients of the relay reach."""

    proxy: Proxy
    realtime: RealtimeEdge
    streams: OpenStreams
    addresses: Addresses


def open_edge(
    stack: AsyncExitStack,
    config: Config,
    *,
    store: Store,
    admission: Admission,
    counting: Counting,
    observer: RequestObserver,
    metrics: Metrics,
    system: Machine,
    background: Background,
    proved: Proved,
) -> Edge:
    """Connects to nobody yet. Errors: ValueError (an upstream's address)."""
    targets = {name: _settings(each) for name, each in config.upstreams.items()}
    upstreams = UpstreamSet(targets)
    stack.callback(upstreams.close)
    sockets = UpstreamSocketSet(targets)
    stack.push_async_callback(sockets.close)
    streams = OpenStreams(stalled_reader_s=config.limits.stalled_reader_s)
    background.run("streams", streams.run)
    renewals = Renewals(store.ledger, lifetime_s=admission.policies.hold.hold_lifetime_s)
    background.run("renewals", renewals.run)
    telling = ChargeTelling(outbox=RedisOutbox(store.link), system=system)
    stack.push_async_callback(telling.close)
    settler = Settler(store.ledger, store.spool, tell=telling.tell)
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
    proxy = Proxy(
        relay, system=system, addresses=addresses, observer=observer, limits=_edge_limits(config), proved=proved
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
        proved=proved,
        most=config.limits.open_requests_most,
    )
    return Edge(proxy, realtime, streams, addresses)


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
