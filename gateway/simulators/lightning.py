"""A simulated Lightning node on a real socket: lnd's gRPC services over TLS, with macaroons and BOLT11 invoices.

For demos and tests where no real node can be had. `LndNode` talks to it as to lnd; `tests/contract` holds both to one
suite. Nodes of one process that share a `LightningNetwork` can pay each other.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio

from gateway.simulators.lightning_book import Book, NodePayment
from gateway.simulators.lightning_identity import identity_of
from gateway.simulators.lightning_node import LightningLogic, LightningNetwork
from gateway.simulators.lightning_service import LightningService
from gateway.simulators.lightning_terms import Faults, NodeRefusal, PaymentOrder

__all__ = ["Faults", "LightningNetwork", "NodeRefusal", "PaymentOrder", "SimulatedNode"]

# 10 bitcoin: enough for every demo, small enough to show up when a test drains it.
DEFAULT_BALANCE_MSAT = 1_000_000_000_000
_SERVER_OPTIONS = (
    # A second node on the same port would take half of the calls without anybody noticing.
    ("grpc.so_reuseport", 0),
    # As lnd: clients may ping every 5 s, without a call too.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class SimulatedNode:
    """One node. With `data_dir` it keeps its identity, invoices and payments there, and a new one on it goes on."""

    def __init__(
        self,
        *,
        network: LightningNetwork | None = None,
        data_dir: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        balance_msat: int = DEFAULT_BALANCE_MSAT,
        currency: str = "bcrt",
    ) -> None:
        self._host, self._port = host, port
        self._identity = identity_of(data_dir)
        self._path = data_dir / "node.sqlite" if data_dir else None
        self._book = Book(self._path, balance_msat=balance_msat)
        self._network = network or LightningNetwork()
        self._logic = LightningLogic(self._identity, self._book, self._network, currency=currency)
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """host:port; the port is known once the node has started, and stays over `stop` and `start`."""
        return f"{self._host}:{self._port}"

    @property
    def tls_cert_pem(self) -> bytes:
        """The certificate that a client must trust."""
        return self._identity.tls_cert_pem

    @property
    def macaroon_hex(self) -> str:
        """The macaroon that may do everything."""
        return self._identity.macaroons["admin"]

    def macaroon(self, name: str = "admin") -> str:
        """`admin`, `invoice` or `readonly`, as hex."""
        return self._identity.macaroons[name]

    @property
    def public_key(self) -> str:
        """The node's public key as hex."""
        return self._identity.public_key

    @property
    def balance_msat(self) -> int:
        """What the node could pay out."""
        return self._book.balance_msat

    @property
    def faults(self) -> Faults:
        """What it is told to do wrong; change it at any time."""
        return self._logic.faults

    async def start(self) -> None:
        """Serve. After `stop` on the same port, with the same invoices."""
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        server.add_generic_rpc_handlers(LightningService(self._logic).handlers())
        pair = (self._identity.tls_key_pem, self._identity.tls_cert_pem)
        self._port = server.add_secure_port(self.address, grpc.ssl_server_credentials([pair]))
        self._logic.start()
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go away at once, as if killed; `start` brings the node back."""
        if self._server is not None:
            await self._logic.stop()
            await self._server.stop(grace=0)
            self._server = None

    async def close(self) -> None:
        """Stop for good and let go of the file."""
        await self.stop()
        self._book.close()

    def settle(self, payment_hash: bytes, *, amount_msat: int | None = None) -> None:
        """An open invoice is paid, as if by a stranger (more than asked with `amount_msat`); a held one is settled."""
        self._logic.settle(payment_hash, amount_msat=amount_msat)

    def accept(self, payment_hash: bytes, *, amount_msat: int | None = None) -> None:
        """A stranger has paid, but nothing is settled yet: the invoice is `accepted` until `settle` or `cancel`."""
        invoice = self._logic.invoice(payment_hash)
        invoice.state, invoice.paid_msat = "accepted", amount_msat or invoice.amount_msat
        self._book.change_invoice(invoice)

    def cancel(self, payment_hash: bytes) -> None:
        """Cancel an invoice; what was held for it goes back to its payer."""
        self._logic.cancel(payment_hash)

    def preimage(self, payment_hash: bytes) -> bytes:
        """The preimage of one of our invoices, paid or not: for tests of credentials that nobody paid."""
        return self._logic.invoice(payment_hash).preimage

    def state(self, payment_hash: bytes) -> str:
        """open, accepted, settled or canceled. Errors: NodeRefusal where there is no such invoice."""
        return self._logic.invoice(payment_hash).state

    def add_invoice(self, *, amount_msat: int, memo: str = "", expiry_s: int = 0) -> str:
        """A new invoice's text; zero: the payer chooses the amount."""
        return self._logic.add_invoice(amount_msat=amount_msat, memo=memo, expiry_s=expiry_s).payment_request

    async def pay(self, order: PaymentOrder) -> NodePayment:
        """Pay another node of the network and wait until it has ended. Errors: NodeRefusal where it does not begin."""
        return await self._logic.ended(self._logic.pay(order))

    def release(self, payment_hash: bytes, *, failure: str = "") -> None:
        """Let a payment that `faults.keep_payments_in_flight` held go on, or fail with a reason such as NO_ROUTE."""
        self._logic.release(payment_hash, failure=failure)

    def drop_streams(self) -> None:
        """Cut every open stream; the node goes on."""
        self._logic.drop_streams()
