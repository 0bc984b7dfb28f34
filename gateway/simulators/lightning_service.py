"""The gRPC face of a simulated node: lnd's services over `LightningLogic`, behind the macaroon and the faults.

Each handler turns a message into a call of the node and its answer into a message; nothing is decided here but who
may ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from gateway import lnrpc
from gateway.simulators.bolt11 import decode
from gateway.simulators.lightning_book import NodeInvoice, NodePayment
from gateway.simulators.lightning_identity import PERMISSIONS
from gateway.simulators.lightning_node import LightningLogic
from gateway.simulators.lightning_terms import Listener, NodeRefusal, PaymentOrder

_INVOICE_STATES = {"open": 0, "settled": 1, "canceled": 2, "accepted": 3}
_PAYMENT_STATES = {"in_flight": 1, "succeeded": 2, "failed": 3}
_FAILURES = {
    "": 0,
    "TIMEOUT": 1,
    "NO_ROUTE": 2,
    "ERROR": 3,
    "INCORRECT_PAYMENT_DETAILS": 4,
    "INSUFFICIENT_BALANCE": 5,
    "CANCELED": 6,
}
_PAGE = 100
_UNKNOWN = grpc.StatusCode.UNKNOWN


class LightningService:
    """All calls of one node. `handlers` is what a gRPC server takes."""

    def __init__(self, node: LightningLogic) -> None:
        self._node = node
        self._allowed = {text: PERMISSIONS[name] for name, text in node.identity.macaroons.items()}

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """One handler per service."""
        unary: dict[lnrpc.Method, Callable[[Any], Any]] = {
            lnrpc.GET_INFO: self._get_info,
            lnrpc.WALLET_BALANCE: self._wallet_balance,
            lnrpc.CHANNEL_BALANCE: self._channel_balance,
            lnrpc.ADD_INVOICE: self._add_invoice,
            lnrpc.LOOKUP_INVOICE: self._lookup_invoice,
            lnrpc.LIST_INVOICES: self._list_invoices,
            lnrpc.DECODE_PAY_REQ: self._decode_pay_req,
            lnrpc.CANCEL_INVOICE: self._cancel_invoice,
            lnrpc.ADD_HOLD_INVOICE: self._add_hold_invoice,
            lnrpc.SETTLE_INVOICE: self._settle_invoice,
        }
        streams: dict[lnrpc.Method, Callable[[Any], AsyncIterator[Any]]] = {
            lnrpc.SUBSCRIBE_INVOICES: self._subscribe_invoices,
            lnrpc.SEND_PAYMENT: self._send_payment,
            lnrpc.TRACK_PAYMENT: self._track_payment,
        }
        services: dict[str, dict[str, Any]] = {}
        for method, answer in unary.items():
            services.setdefault(method.service, {})[method.name] = self._unary(method, answer)
        for method, events in streams.items():
            services.setdefault(method.service, {})[method.name] = self._stream(method, events)
        return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())

    def _unary(self, method: lnrpc.Method, answer: Callable[[Any], Any]) -> Any:
        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                await self._admit(method, context)
                return answer(request)
            except NodeRefusal as refusal:
                await context.abort(refusal.code, refusal.text)

        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )

    def _stream(self, method: lnrpc.Method, events: Callable[[Any], AsyncIterator[Any]]) -> Any:
        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                await self._admit(method, context)
                async for message in events(request):
                    yield message
            except NodeRefusal as refusal:
                await context.abort(refusal.code, refusal.text)

        return grpc.unary_stream_rpc_method_handler(
            serve,
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )

    async def _admit(self, method: lnrpc.Method, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Macaroon and faults. Refusals in lnd's words."""
        faults = self._node.faults
        if faults.slow_s:
            await asyncio.sleep(faults.slow_s)
        if faults.refuse and (method.name in faults.refuse or "*" in faults.refuse):
            raise NodeRefusal(grpc.StatusCode.UNAVAILABLE, "the node was told to refuse")
        shown = [str(value) for key, value in context.invocation_metadata() or () if key == "macaroon"]
        if len(shown) != 1:
            raise NodeRefusal(_UNKNOWN, f"expected 1 macaroon, got {len(shown)}")
        allowed = self._allowed.get(shown[0].lower())
        if allowed is None and not shown[0].startswith("02"):
            raise NodeRefusal(_UNKNOWN, "cannot determine data format of binary-encoded macaroon")
        if allowed is None:
            raise NodeRefusal(_UNKNOWN, "verification failed: signature mismatch after caveat verification")
        if method.name not in allowed:
            raise NodeRefusal(_UNKNOWN, "permission denied")

    def _get_info(self, _: Any) -> Any:
        info = lnrpc.lightning.GetInfoResponse(
            version="simulated", identity_pubkey=self._node.identity.public_key, alias="simulated", synced_to_chain=True
        )
        info.chains.add(chain="bitcoin", network="regtest")
        return info

    def _wallet_balance(self, _: Any) -> Any:
        return lnrpc.lightning.WalletBalanceResponse()

    def _channel_balance(self, _: Any) -> Any:
        balance_msat = self._node.book.balance_msat
        answer = lnrpc.lightning.ChannelBalanceResponse(balance=balance_msat // 1_000)
        answer.local_balance.sat, answer.local_balance.msat = balance_msat // 1_000, balance_msat
        return answer

    def _add_invoice(self, request: Any) -> Any:
        invoice = self._node.add_invoice(
            amount_msat=_amount(request), memo=request.memo, expiry_s=request.expiry, cltv=request.cltv_expiry
        )
        return lnrpc.lightning.AddInvoiceResponse(
            r_hash=invoice.payment_hash,
            payment_request=invoice.payment_request,
            add_index=invoice.add_index,
            payment_addr=invoice.secret,
        )

    def _lookup_invoice(self, request: Any) -> Any:
        payment_hash = bytes.fromhex(request.r_hash_str) if request.r_hash_str else request.r_hash
        if payment_hash and len(payment_hash) != 32:
            raise NodeRefusal(_UNKNOWN, f"payment hash must be exactly 32 bytes, is instead {len(payment_hash)}")
        return invoice_message(self._node.invoice(payment_hash))

    def _list_invoices(self, request: Any) -> Any:
        most = request.num_max_invoices or _PAGE
        all_of_them = self._node.book.in_order
        if request.reversed:
            end = request.index_offset - 1 if request.index_offset else len(all_of_them)
            chosen = all_of_them[max(0, end - most) : max(0, end)]
        else:
            chosen = all_of_them[request.index_offset : request.index_offset + most]
        if request.pending_only:
            chosen = [invoice for invoice in chosen if invoice.state in ("open", "accepted")]
        answer = lnrpc.lightning.ListInvoiceResponse(invoices=[invoice_message(invoice) for invoice in chosen])
        if chosen:
            answer.first_index_offset, answer.last_index_offset = chosen[0].add_index, chosen[-1].add_index
        return answer

    def _decode_pay_req(self, request: Any) -> Any:
        try:
            found = decode(request.pay_req)
        except ValueError as error:
            raise NodeRefusal(_UNKNOWN, str(error)) from error
        amount_msat = found.amount_msat or 0
        return lnrpc.lightning.PayReq(
            destination=found.destination,
            payment_hash=found.payment_hash.hex(),
            num_satoshis=amount_msat // 1_000,
            num_msat=amount_msat,
            timestamp=found.timestamp_s,
            expiry=found.expiry_s,
            description=found.description,
            cltv_expiry=found.cltv_expiry,
            payment_addr=found.secret,
        )

    def _cancel_invoice(self, request: Any) -> Any:
        with _unnamed():
            self._node.cancel(request.payment_hash)
        return lnrpc.invoices.CancelInvoiceResp()

    def _add_hold_invoice(self, request: Any) -> Any:
        if len(request.hash) != 32:
            raise NodeRefusal(_UNKNOWN, f"invalid hash length of {len(request.hash)}, want 32")
        invoice = self._node.add_invoice(
            amount_msat=_amount(request),
            memo=request.memo,
            expiry_s=request.expiry,
            cltv=request.cltv_expiry,
            held_hash=request.hash,
        )
        return lnrpc.invoices.AddHoldInvoiceResp(
            payment_request=invoice.payment_request, add_index=invoice.add_index, payment_addr=invoice.secret
        )

    def _settle_invoice(self, request: Any) -> Any:
        with _unnamed():
            self._node.settle_held(request.preimage)
        return lnrpc.invoices.SettleInvoiceResp()

    async def _subscribe_invoices(self, request: Any) -> AsyncIterator[Any]:
        """As lnd: from index zero nothing of the past; added ones only after the given index."""
        node = self._node
        listener = Listener()
        node.invoice_listeners.add(listener)
        try:
            added = node.book.in_order[request.add_index :] if request.add_index else []
            settled = node.book.settled[request.settle_index :] if request.settle_index else []
            last_settled = settled[-1].settle_index if settled else request.settle_index
            for invoice in [*(replace(one, state="open") for one in added), *settled]:
                yield invoice_message(invoice)
            while (event := await listener.queue.get()) is not None:
                assert isinstance(event, NodeInvoice)
                told = event.state == "open" and event.add_index <= request.add_index
                if not told and not (event.state == "settled" and event.settle_index <= last_settled):
                    yield invoice_message(event)
        finally:
            node.invoice_listeners.discard(listener)
        raise NodeRefusal(grpc.StatusCode.UNAVAILABLE, "the stream was cut")

    async def _send_payment(self, request: Any) -> AsyncIterator[Any]:
        order = PaymentOrder(
            payment_request=request.payment_request,
            amount_msat=request.amt_msat or request.amt * 1_000,
            fee_limit_msat=request.fee_limit_msat or request.fee_limit_sat * 1_000,
            cltv_limit=request.cltv_limit,
        )
        payment = self._node.pay(order)
        async for message in self._updates(payment, silent=request.no_inflight_updates):
            yield message

    async def _track_payment(self, request: Any) -> AsyncIterator[Any]:
        payment = self._node.book.payments.get(request.payment_hash)
        if payment is None:
            raise NodeRefusal(grpc.StatusCode.NOT_FOUND, "payment isn't initiated")
        async for message in self._updates(payment, silent=request.no_inflight_updates):
            yield message

    async def _updates(self, payment: NodePayment, *, silent: bool) -> AsyncIterator[Any]:
        """The payment as it stands, and each change until it has ended."""
        listener = Listener()
        listeners = self._node.payment_listeners.setdefault(payment.payment_hash, set())
        listeners.add(listener)
        listener.queue.put_nowait(replace(payment))
        try:
            while (event := await listener.queue.get()) is not None:
                assert isinstance(event, NodePayment)
                if event.state != "in_flight" or not silent:
                    yield payment_message(event)
                if event.state != "in_flight":
                    return
        finally:
            listeners.discard(listener)
            if not listeners:
                self._node.payment_listeners.pop(payment.payment_hash, None)
        raise NodeRefusal(grpc.StatusCode.UNAVAILABLE, "the stream was cut")


@contextmanager
def _unnamed() -> Iterator[None]:
    """lnd names the code of a refusal in LookupInvoice only; in the calls that change an invoice it stays UNKNOWN."""
    try:
        yield
    except NodeRefusal as refusal:
        raise NodeRefusal(_UNKNOWN, refusal.text) from refusal


def _amount(request: Any) -> int:
    """Of `value` (sat) and `value_msat` only one may be given."""
    if request.value and request.value_msat:
        raise NodeRefusal(_UNKNOWN, "sat and msat arguments are mutually exclusive")
    return int(request.value_msat or request.value * 1_000)


def invoice_message(invoice: NodeInvoice) -> Any:
    """lnd's `Invoice`."""
    settled = invoice.state == "settled"
    return lnrpc.lightning.Invoice(
        memo=invoice.memo,
        r_preimage=invoice.preimage,
        r_hash=invoice.payment_hash,
        value=invoice.amount_msat // 1_000,
        value_msat=invoice.amount_msat,
        settled=settled,
        creation_date=invoice.created_at_s,
        settle_date=invoice.settled_at_s,
        payment_request=invoice.payment_request,
        expiry=invoice.expiry_s,
        cltv_expiry=invoice.cltv_expiry,
        add_index=invoice.add_index,
        settle_index=invoice.settle_index,
        amt_paid=invoice.paid_msat,
        amt_paid_sat=invoice.paid_msat // 1_000,
        amt_paid_msat=invoice.paid_msat,
        state=_INVOICE_STATES[invoice.state],
        payment_addr=invoice.secret,
    )


def payment_message(payment: NodePayment) -> Any:
    """lnd's `Payment`. The fee is told once it is paid."""
    succeeded = payment.state == "succeeded"
    return lnrpc.lightning.Payment(
        payment_hash=payment.payment_hash.hex(),
        value=payment.amount_msat // 1_000,
        value_sat=payment.amount_msat // 1_000,
        value_msat=payment.amount_msat,
        payment_request=payment.payment_request,
        payment_preimage=payment.preimage.hex() if succeeded else "00" * 32,
        status=_PAYMENT_STATES[payment.state],
        fee=payment.fee_msat // 1_000 if succeeded else 0,
        fee_sat=payment.fee_msat // 1_000 if succeeded else 0,
        fee_msat=payment.fee_msat if succeeded else 0,
        creation_time_ns=payment.created_at_ns,
        payment_index=payment.index,
        failure_reason=_FAILURES[payment.failure],
    )
