"""Two ways to have a seller's and a payer's node: simulated, and real. One suite runs over both.

A world starts and kills the seller's node, and speaks raw gRPC to it for what the adapter has no method for.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
from lnd.nodes import RealNode, RealPair

from gateway import lnrpc
from gateway.adapters.lnd import LndNode
from gateway.simulators.lightning import LightningNetwork, SimulatedNode


class Node(Protocol):
    """What both kinds of node tell of themselves."""

    @property
    def address(self) -> str: ...
    @property
    def tls_cert_pem(self) -> bytes: ...
    @property
    def public_key(self) -> str: ...
    def macaroon(self, name: str = "admin") -> str: ...


class World(Protocol):
    """The seller's node and the payer's, linked by a channel with money on both sides."""

    seller: Any
    payer: Any

    async def kill_seller(self) -> None: ...
    async def start_seller(self) -> None: ...
    def freeze_seller(self) -> None: ...
    def thaw_seller(self) -> None: ...


class SimulatedWorld:
    """Two simulated nodes in this process; killing one keeps what it had written."""

    def __init__(self, directory: Path) -> None:
        self._network = LightningNetwork()
        self._directory = directory
        self.seller = SimulatedNode(network=self._network, data_dir=directory)
        self.payer = SimulatedNode(network=self._network)

    async def start(self) -> None:
        await self.seller.start()
        await self.payer.start()

    async def kill_seller(self) -> None:
        self._port = int(self.seller.address.rpartition(":")[2])
        await self.seller.close()

    async def start_seller(self) -> None:
        self.seller = SimulatedNode(network=self._network, data_dir=self._directory, port=self._port)
        await self.seller.start()

    def freeze_seller(self) -> None:
        self.seller.faults.slow_s = 60.0

    def thaw_seller(self) -> None:
        self.seller.faults.slow_s = 0.0

    async def stop(self) -> None:
        await self.seller.close()
        await self.payer.close()


class RealWorld:
    """The real pair, which lives as long as the session."""

    def __init__(self, pair: RealPair) -> None:
        self._pair = pair
        self.seller: RealNode = pair.seller
        self.payer: RealNode = pair.payer

    async def kill_seller(self) -> None:
        await asyncio.to_thread(self.seller.kill)

    async def start_seller(self) -> None:
        await asyncio.to_thread(self._pair.bring_back, self.seller)

    def freeze_seller(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw_seller(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.seller.program.process is not None
        os.kill(self.seller.program.process.pid, number)


def adapter(node: Node, *, macaroon: str = "admin", deadline_s: float = 10.0) -> LndNode:
    """The adapter under test, with one of the node's own macaroons."""
    connection = LndNode.open(node.address, tls_cert=node.tls_cert_pem, macaroon=node.macaroon(macaroon)).connection
    # A short grace: what is in flight when the node's own limit has passed is told sooner.
    return LndNode(connection, deadline_s=deadline_s, payment_grace_s=0.5)


async def raw(node: Node, method: lnrpc.Method, request: Any, *, macaroon: str | None = None) -> Any:
    """One call past the adapter: the answer, or (code, sentence) of the refusal; of a stream its first message."""
    async with _channel(node) as channel:
        make = channel.unary_stream if method.streams else channel.unary_unary
        stub: Any = make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        metadata = (("macaroon", node.macaroon() if macaroon is None else macaroon),) if macaroon != "" else ()
        call = stub(request, timeout=20, metadata=metadata)
        try:
            return await (call.read() if method.streams else call)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()


@asynccontextmanager
async def _channel(node: Node) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.secure_channel(node.address, grpc.ssl_channel_credentials(node.tls_cert_pem)) as channel:
        yield channel
