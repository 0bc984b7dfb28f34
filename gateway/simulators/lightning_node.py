"""What a simulated Lightning node does, without the wire: invoices, payments between linked nodes, expiry, subscribers.

It follows lnd where the contract suite looks: a paid hash is not paid again, a node pays not itself, an unpaid
invoice is canceled at its expiry, an invoice may be settled above its amount, a held invoice stays `accepted` until
its owner decides. Refusals are `NodeRefusal` with lnd's code and words.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import secrets
import time
from dataclasses import replace

import grpc

from gateway.simulators.bolt11 import Request, decode, encode
from gateway.simulators.lightning_book import Book, NodeInvoice, NodePayment
from gateway.simulators.lightning_identity import Identity
from gateway.simulators.lightning_terms import (
    Faults,
    Listener,
    NodeRefusal,
    PaymentOrder,
    check_invoice,
    check_payment,
)

DEFAULT_EXPIRY_S = 24 * 3_600
FINAL_CLTV = 80
_PEER_POLL_S = 0.05


class LightningNetwork:
    """The nodes of one process that can pay each other."""

    def __init__(self) -> None:
        self.nodes: dict[str, LightningLogic] = {}


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
        check_invoice(amount_msat=amount_msat, memo=memo, expiry_s=expiry_s)
        if held_hash in self.book.invoices:
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, "invoice with payment hash already exists")
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
        if invoice.state != "settled":
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
        if request.currency != self._currency:
            text = f"invoice not for current active network '{self._currency}'"
            raise NodeRefusal(grpc.StatusCode.UNKNOWN, text)
        own = request.destination == self.identity.public_key
        check_payment(order, request, self.book.payments.get(request.payment_hash), own=own)
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

    def _no_way(self, payment: NodePayment, request: Request, order: PaymentOrder) -> str:
        if payment.amount_msat + payment.fee_msat > self.book.balance_msat:
            return "INSUFFICIENT_BALANCE"
        if request.destination not in self._network.nodes:
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
