"""What a simulated Lightning node does, without the wire: invoices, payments between linked nodes, expiry, subscribers.

It follows lnd where the contract suite looks: a paid hash is not paid again, a node pays not itself, an unpaid invoice is
canceled at its expiry, an invoice may be settled above its amount, a held invoice stays `accepted` until its owner decides.
Refusals are `NodeRefusal` with lnd's code and words.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import secrets
import time
from dataclasses import dataclass, field, replace

import grpc

from gateway.simulators.bolt11 import Request, decode, encode
from gateway.simulators.lightning_book import Book, NodeInvoice, NodePayment
from gateway.simulators.lightning_identity import Identity

# lnd's own limits and defaults (v0.20).
MAX_MEMO_BYTES = 1_024
MAX_EXPIRY_S = 365 * 24 * 3_600
DEFAULT_EXPIRY_S = 24 * 3_600
FINAL_CLTV = 80
# Blocks that lnd adds to a route, so that a block that comes in between does no harm.
_CLTV_PADDING = 3
_EVENTS_MOST = 100_000
_PEER_POLL_S = 0.05


class NodeRefusal(Exception):
    """The node says no: a gRPC code and lnd's sentence."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class Faults:
    """What the node is told to do wrong; all may be changed while it runs."""

    slow_s: float = 0.0  # every answer comes this much later
    refuse: frozenset[str] = frozenset()  # names of calls that answer UNAVAILABLE; "*" is all of them
    hold_incoming: bool = False  # payments to any invoice stay accepted until `settle`
    fail_payments: str = ""  # outgoing payments fail with this reason, e.g. NO_ROUTE
    keep_payments_in_flight: bool = False  # outgoing payments wait for `release`
    fee_msat: int = 0  # what the route of an outgoing payment costs


class LightningNetwork:
    """The nodes of one process that can pay each other."""

    def __init__(self) -> None:
        self.nodes: dict[str, LightningLogic] = {}


@dataclass(frozen=True, slots=True)
class PaymentOrder:
    """What SendPaymentV2 asks for."""

    payment_request: str
    amount_msat: int = 0
    fee_limit_msat: int = 0
    cltv_limit: int = 0


@dataclass(slots=True, eq=False)
class Listener:
    """One open stream: events to come; None in the queue cuts the stream."""

    queue: asyncio.Queue[NodeInvoice | NodePayment | None] = field(
        default_factory=lambda: asyncio.Queue(maxsize=_EVENTS_MOST)
    )


class LightningLogic:
    """One node. `currency`: the network in the invoices (bcrt: regtest)."""

    def __init__(self, identity: Identity, book: Book, network: LightningNetwork, *, currency: str) -> None:
        self.identity = identity
        self.book = book
        self.faults = Faults()
        self.invoice_listeners: set[Listener] = set()
        self.payment_listeners: dict[bytes, set[Listener]] = {}
        self._currency = currency
        self._network = network
        self._expiries: list[tuple[int, bytes]] = []
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._held: dict[bytes, asyncio.Future[bytes | str]] = {}
        self._gates: dict[bytes, asyncio.Future[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Join the network, take up the expiries and the payments that were in flight."""
        self._network.nodes[self.identity.public_key] = self
        for invoice in self.book.in_order:
            if invoice.state == "open":
                heapq.heappush(self._expiries, (invoice.expires_at_s, invoice.payment_hash))
        self._expire_due()
        for payment in self.book.payments.values():
            if payment.state == "in_flight":
                self._send(payment, decode(payment.payment_request), again=True)

    async def stop(self) -> None:
        """Leave the network and cut every stream; what is in flight is taken up at the next start."""
        self._network.nodes.pop(self.identity.public_key, None)
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        self.drop_streams()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop_streams(self) -> None:
        """Cut every open stream."""
        for listener in [*self.invoice_listeners, *(one for many in self.payment_listeners.values() for one in many)]:
            listener.queue.put_nowait(None)

    def add_invoice(
        self, *, amount_msat: int, memo: str = "", expiry_s: int = 0, cltv: int = 0, held_hash: bytes = b""
    ) -> NodeInvoice:
        """A new invoice; with `held_hash` a hold invoice, whose preimage somebody else knows."""
        self._check_invoice(amount_msat, memo, expiry_s, held_hash)
        preimage = b"" if held_hash else secrets.token_bytes(32)
        request = Request(
            currency=self._currency,
            amount_msat=amount_msat or None,
            timestamp_s=int(time.time()),
            payment_hash=held_hash or hashlib.sha256(preimage).digest(),
            secret=secrets.token_bytes(32),
            description=memo,
            expiry_s=expiry_s or DEFAULT_EXPIRY_S,
            cltv_expiry=cltv or FINAL_CLTV,
        )
        invoice = NodeInvoice(
            payment_hash=request.payment_hash,
            preimage=preimage,
            secret=request.secret,
            payment_request=encode(request, self.identity.key),
            amount_msat=amount_msat,
            memo=memo,
            created_at_s=request.timestamp_s,
            expiry_s=request.expiry_s,
            cltv_expiry=request.cltv_expiry,
            add_index=len(self.book.in_order) + 1,
            held=bool(held_hash),
        )
        self.book.add_invoice(invoice)
        heapq.heappush(self._expiries, (invoice.expires_at_s, invoice.payment_hash))
        if self._expiries[0][1] == invoice.payment_hash:
            self._expire_due()
        self._tell(invoice)
        return invoice

    def _check_invoice(self, amount_msat: int, memo: str, expiry_s: int, held_hash: bytes) -> None:
        size = len(memo.encode())
        if size > MAX_MEMO_BYTES:
            text = f"memo too large: {size} bytes (maxsize={MAX_MEMO_BYTES})"
        elif amount_msat < 0:
            text = f"payments of negative value are not allowed, value is {amount_msat // 1000}"
        elif expiry_s > MAX_EXPIRY_S:
            text = f"expiry of {expiry_s} seconds greater than max expiry of {MAX_EXPIRY_S} seconds"
        elif held_hash in self.book.invoices:
            text = "invoice with payment hash already exists"
        else:
            return
        raise NodeRefusal(grpc.StatusCode.UNKNOWN, text)

    def invoice(self, payment_hash: bytes) -> NodeInvoice:
        """An invoice of ours."""
        found = self.book.invoices.get(payment_hash)
        if found is None:
            raise NodeRefusal(grpc.StatusCode.NOT_FOUND, "unable to locate invoice")
        return found

    def cancel(self, payment_hash: bytes) -> None:
        """Nobody can pay it any more; what was held for it goes back. Canceled already: nothing happens."""
        invoice = self.invoice(payment_hash)
        if invoice.state == "settled":
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, "invoice already settled")
        if invoice.state != "canceled":
            invoice.state, invoice.paid_msat = "canceled", 0
            self.book.change_invoice(invoice)
            self._resolve(payment_hash, "INCORRECT_PAYMENT_DETAILS")
            self._tell(invoice)

    def settle(self, payment_hash: bytes, *, amount_msat: int | None = None, preimage: bytes = b"") -> None:
        """Paid for good: an open invoice as if by a stranger, an accepted one with what is held for it."""
        invoice = self.invoice(payment_hash)
        if invoice.state == "settled":
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, "invoice already settled")
        if invoice.state == "canceled":
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, "invoice already canceled")
        invoice.preimage = invoice.preimage or preimage
        paid_msat = invoice.paid_msat if invoice.state == "accepted" else (amount_msat or invoice.amount_msat)
        self.book.settle(invoice, paid_msat=paid_msat, now_s=int(time.time()))
        self.book.move(paid_msat)
        self._resolve(payment_hash, invoice.preimage)
        self._tell(invoice)

    def settle_held(self, preimage: bytes) -> None:
        """The owner of a hold invoice takes what is held for it."""
        invoice = self.invoice(hashlib.sha256(preimage).digest())
        if invoice.state == "open":
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, "invoice still open")
        self.settle(invoice.payment_hash, preimage=preimage)

    async def receive(self, payment_hash: bytes, secret: bytes, amount_msat: int, *, again: bool) -> bytes | str:
        """A payment arrives: the preimage, or why not. `again`: it may have arrived before its sender was restarted."""
        invoice = self.book.invoices.get(payment_hash)
        if invoice is None or invoice.secret != secret or amount_msat < invoice.amount_msat:
            return "INCORRECT_PAYMENT_DETAILS"
        if again and invoice.state == "settled":
            return invoice.preimage
        if invoice.state == "open":
            invoice.paid_msat = amount_msat
            if not (invoice.held or self.faults.hold_incoming):
                self.settle(payment_hash, amount_msat=amount_msat)
                return invoice.preimage
            invoice.state = "accepted"
            self.book.change_invoice(invoice)
            self._tell(invoice)
        elif not (again and invoice.state == "accepted"):
            return "INCORRECT_PAYMENT_DETAILS"
        held = self._held.setdefault(payment_hash, asyncio.get_running_loop().create_future())
        return await asyncio.shield(held)

    def pay(self, order: PaymentOrder) -> NodePayment:
        """Begin an outgoing payment; it goes on by itself, whoever listens."""
        try:
            request = decode(order.payment_request)
        except ValueError as error:
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, str(error)) from error
        self._check_payment(order, request)
        payment = NodePayment(
            payment_hash=request.payment_hash,
            payment_request=order.payment_request,
            amount_msat=request.amount_msat or order.amount_msat,
            created_at_ns=time.time_ns(),
            index=len(self.book.payments) + 1,
            fee_msat=self.faults.fee_msat,
        )
        self.book.keep_payment(payment)
        self._tell_payment(payment)
        failure = self._no_way(payment, request, order)
        if failure:
            asyncio.get_running_loop().call_soon(self._end_payment, payment, failure)
        else:
            self.book.move(-payment.amount_msat - payment.fee_msat)
            self._send(payment, request, again=False)
        return payment

    def _check_payment(self, order: PaymentOrder, request: Request) -> None:
        known = self.book.payments.get(request.payment_hash)
        code = grpc.StatusCode.UNKNOWN
        if time.time() > request.expires_at_s:
            text = f"invoice expired. Valid until {time.strftime('%Y-%m-%d %H:%M:%S +0000 UTC', time.gmtime(request.expires_at_s))}"
        elif request.amount_msat is None and not order.amount_msat:
            text = "amount must be specified when paying a zero amount invoice"
        elif request.amount_msat is not None and order.amount_msat:
            text = "amount must not be specified when paying a non-zero  amount invoice"
        elif request.currency != self._currency:
            text = f"invoice not for current active network '{self._currency}'"
        elif request.destination == self.identity.public_key:
            text = "self-payments not allowed"
        elif known is not None and known.state != "failed":
            code = grpc.StatusCode.ALREADY_EXISTS
            text = "invoice is already paid" if known.state == "succeeded" else "payment is in transition"
        else:
            return
        raise NodeRefusal(code, text)

    def _no_way(self, payment: NodePayment, request: Request, order: PaymentOrder) -> str:
        if payment.amount_msat + payment.fee_msat > self.book.balance_msat:
            return "INSUFFICIENT_BALANCE"
        blocks = request.cltv_expiry + _CLTV_PADDING
        if request.destination not in self._network.nodes or (order.cltv_limit and blocks > order.cltv_limit):
            return "NO_ROUTE"
        return "NO_ROUTE" if payment.fee_msat > order.fee_limit_msat else ""

    def _send(self, payment: NodePayment, request: Request, *, again: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(payment, request, again=again))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, payment: NodePayment, request: Request, *, again: bool) -> None:
        outcome: bytes | str = self.faults.fail_payments
        if not outcome and self.faults.keep_payments_in_flight:
            gate = self._gates[payment.payment_hash] = asyncio.get_running_loop().create_future()
            outcome = await gate
        if not outcome:
            # A peer that went away together with us keeps what is in flight between us, and comes back.
            while again and request.destination not in self._network.nodes:
                await asyncio.sleep(_PEER_POLL_S)
            payee = self._network.nodes[request.destination]
            outcome = await payee.receive(payment.payment_hash, request.secret, payment.amount_msat, again=again)
        if isinstance(outcome, str):
            self.book.move(payment.amount_msat + payment.fee_msat)
            self._end_payment(payment, outcome)
            return
        payment.state, payment.preimage = "succeeded", outcome
        self.book.keep_payment(payment)
        self._tell_payment(payment)

    async def ended(self, payment: NodePayment) -> NodePayment:
        """Wait until a payment has ended, or the node's streams are cut."""
        listener = Listener()
        self.payment_listeners.setdefault(payment.payment_hash, set()).add(listener)
        try:
            while payment.state == "in_flight" and await listener.queue.get() is not None:
                pass
        finally:
            self.payment_listeners[payment.payment_hash].discard(listener)
        return payment

    def release(self, payment_hash: bytes, *, failure: str = "") -> None:
        """Let a payment that was kept in flight go on, or fail with this reason."""
        self._gates.pop(payment_hash).set_result(failure)

    def _end_payment(self, payment: NodePayment, failure: str) -> None:
        payment.state, payment.failure = "failed", failure
        self.book.keep_payment(payment)
        self._tell_payment(payment)

    def _resolve(self, payment_hash: bytes, outcome: bytes | str) -> None:
        held = self._held.pop(payment_hash, None)
        if held is not None and not held.done():
            held.set_result(outcome)

    def _tell(self, invoice: NodeInvoice) -> None:
        event = replace(invoice) if self.invoice_listeners else invoice
        for listener in self.invoice_listeners:
            listener.queue.put_nowait(event)

    def _tell_payment(self, payment: NodePayment) -> None:
        for listener in self.payment_listeners.get(payment.payment_hash, ()):
            listener.queue.put_nowait(replace(payment))

    def _expire_due(self) -> None:
        """Cancel what nobody paid in time, and wake again at the next expiry."""
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        while self._expiries and self._expiries[0][0] <= time.time():
            _, payment_hash = heapq.heappop(self._expiries)
            if self.book.invoices[payment_hash].state == "open":
                self.cancel(payment_hash)
        if self._expiries:
            wait_s = max(0.01, self._expiries[0][0] - time.time())
            self._expiry_timer = asyncio.get_running_loop().call_later(wait_s, self._expire_due)
