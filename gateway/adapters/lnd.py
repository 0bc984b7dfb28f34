"""The Lightning node behind Farebox: lnd over grpc.aio.

Rules:
* Every call has a deadline. A node that is away, slow or refuses us raises `Unavailable(lightning_unavailable)`.
* A payment is `failed` only when the node says so, or refuses its invoice for a reason that cannot change *and* knows
  no payment of this hash. Everything else is `in_flight` or unavailable: a refund voided on a mere timeout would be
  paid twice.
* The subscription never ends by itself: it comes back after a loss, a little before where it was, so that an event
  may come twice but is never missed. Crediting is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gateway import lnrpc
from gateway.adapters.lnd_wire import (
    Connection,
    about_us,
    final_refusal,
    invoice_of,
    no_such_invoice,
    no_such_payment,
    payment_of,
    read_connection,
    request_head,
    request_of,
    unavailable,
)
from gateway.core import errors
from gateway.ports import Invoice, Payment, PaymentRequest

_log = logging.getLogger(__name__)

# gRPC's own greatest pause between attempts to connect is two minutes; a restarted node is back within seconds.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A peer that vanished without a word is noticed within 40 s, also by a silent subscription. lnd allows a ping
    # every 5 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A page of invoices with long memos; gRPC's default is 4 MiB.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
)
DEADLINE_S = 10.0
# How long after its own limit a payment's stream is listened to: the node needs a moment to say how it ended.
PAYMENT_GRACE_S = 5.0
# Splitting a refund helps it through small channels; lnd's command line takes the same number.
_MAX_PARTS = 16
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
# Events are numbered when they are stored and told a moment later, so a loss of connection can swap neighbours.
_REWIND = 16
# From the very first index lnd tells no past events: then the newest invoices are listed, not all that were ever made.
_BACKLOG_MOST = 1_000
_PAGE = 500
# Without it lnd tells the subscriber of every invoice that is added, 500 a second under a flood.
_NO_ADDED = 2**63 - 1
_NOTHING_KNOWN = frozenset({"unknown"})


class LndNode:
    """`LightningNode` over lnd's gRPC API.

    An invoice macaroon is enough to sell; `pay`, `track` and `decode` also need `offchain:read` and `offchain:write`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        deadline_s: float = DEADLINE_S,
        payment_grace_s: float = PAYMENT_GRACE_S,
        tls_name: str = "",
    ) -> None:
        """`tls_name`: the name in the node's certificate, where it is not the name in the address."""
        self.connection = connection
        self._deadline_s = deadline_s
        self._payment_grace_s = payment_grace_s
        self._tls_name = tls_name
        self._metadata = (("macaroon", connection.macaroon_hex),)
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}
        self._closed = False

    @classmethod
    def open(cls, address: str, *, tls_cert: str | bytes | Path, macaroon: str | bytes | Path) -> LndNode:
        """From the configuration's `lightning.lnd`. Errors: ValueError where a file cannot be read."""
        return cls(read_connection(address, tls_cert, macaroon))

    async def add_invoice(self, *, amount_msat: int, memo: str, expiry_s: int) -> Invoice:
        """A new invoice. Errors: InvalidRequest without an amount above zero: one msat would pay it."""
        if amount_msat <= 0:
            raise errors.InvalidRequest("An invoice needs an amount above zero.", param="amount_msat")
        request = lnrpc.lightning.Invoice(value_msat=amount_msat, memo=memo, expiry=expiry_s)
        added = await self._ask(lnrpc.ADD_INVOICE, request)
        created_at_s, _ = request_head(added.payment_request)
        return Invoice(
            payment_request=added.payment_request,
            payment_hash=added.r_hash,
            amount_msat=amount_msat,
            memo=memo,
            created_at_s=created_at_s,
            expires_at_s=created_at_s + expiry_s,
            add_index=added.add_index,
        )

    async def lookup_invoice(self, payment_hash: bytes) -> Invoice | None:
        """One of our invoices as it stands, or None."""
        try:
            return invoice_of(await self._call(lnrpc.LOOKUP_INVOICE, lnrpc.lightning.PaymentHash(r_hash=payment_hash)))
        except grpc.aio.AioRpcError as error:
            if no_such_invoice(error):
                return None
            raise unavailable(error) from error

    async def cancel_invoice(self, payment_hash: bytes) -> None:
        """Nobody can pay it any more. A settled invoice stays so: it was paid. Unknown, canceled: nothing to do."""
        try:
            await self._call(lnrpc.CANCEL_INVOICE, lnrpc.invoices.CancelInvoiceMsg(payment_hash=payment_hash))
        except grpc.aio.AioRpcError as error:
            if not no_such_invoice(error) and "already settled" not in (error.details() or ""):
                raise unavailable(error) from error

    async def settled_invoices(self, *, after_settle_index: int) -> AsyncGenerator[Invoice, None]:
        """Every invoice settled after this index, for ever. An event can come twice. After zero: of the past, those
        among the newest thousand invoices."""
        last, pause_s = after_settle_index, _FIRST_PAUSE_S
        lost = False
        while not self._closed:
            start = last if last == after_settle_index else max(last - _REWIND, after_settle_index, 1)
            try:
                async with aclosing(self._settled_since(start)) as events:
                    async for invoice in events:
                        last, pause_s, lost = max(last, invoice.settle_index), _FIRST_PAUSE_S, False
                        yield invoice
            except errors.Unavailable as error:
                if self._closed:
                    return
                # Once an outage: a node that is away for a day must not fill the log.
                if not lost:
                    _log.warning("lost the node's settled invoices, trying again: %s", error.detail)
                lost = True
            # Workers that lost the node together should not come back together.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _settled_since(self, settle_index: int) -> AsyncGenerator[Invoice, None]:
        request = lnrpc.lightning.InvoiceSubscription(add_index=_NO_ADDED, settle_index=settle_index)
        call = self._method(lnrpc.SUBSCRIBE_INVOICES)(request, metadata=self._metadata)
        try:
            if settle_index == 0:
                for invoice in await self._newest_settled():
                    yield invoice
            # Only the reading is guarded: what is thrown at a yield is the caller's.
            while True:
                with self._open():
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                if message.state == lnrpc.lightning.Invoice.SETTLED:
                    yield invoice_of(message)
        except grpc.aio.AioRpcError as error:
            raise unavailable(error) from error
        finally:
            call.cancel()

    async def _newest_settled(self) -> list[Invoice]:
        request = lnrpc.lightning.ListInvoiceRequest(num_max_invoices=_BACKLOG_MOST, reversed=True)
        page = await self._ask(lnrpc.LIST_INVOICES, request)
        settled = [invoice_of(message) for message in page.invoices if message.settle_index]
        return sorted(settled, key=lambda invoice: invoice.settle_index)

    async def list_invoices(self, *, after_add_index: int, most: int) -> Sequence[Invoice]:
        """The invoices added after this index, oldest first, at most so many."""
        found: list[Invoice] = []
        while len(found) < most:
            request = lnrpc.lightning.ListInvoiceRequest(
                index_offset=found[-1].add_index if found else after_add_index,
                num_max_invoices=min(most - len(found), _PAGE),
            )
            page = (await self._ask(lnrpc.LIST_INVOICES, request)).invoices
            found.extend(map(invoice_of, page))
            if len(page) < request.num_max_invoices:
                break
        return found

    async def decode(self, payment_request: str) -> PaymentRequest:
        """Somebody's invoice. Errors: InvalidRequest where the node cannot read it."""
        try:
            return request_of(
                await self._call(lnrpc.DECODE_PAY_REQ, lnrpc.lightning.PayReqString(pay_req=payment_request))
            )
        except grpc.aio.AioRpcError as error:
            # lnd has a sentence for each way to misspell an invoice, all of them as UNKNOWN.
            if error.code() is grpc.StatusCode.UNKNOWN and not about_us(error):
                raise errors.InvalidRequest(
                    f"This is not a BOLT11 invoice that our node can read: {error.details()}", param="payment_request"
                ) from error
            raise unavailable(error) from error

    async def pay(
        self, payment_request: str, *, amount_msat: int | None, fee_limit_msat: int, timeout_s: int, cltv_limit: int
    ) -> Payment:
        """Pay, or say how it stands: the same invoice again gives the first payment, not a second.

        `amount_msat` only for an invoice without one. `in_flight` after `timeout_s`: `track` tells how it ends.
        """
        if not request_head(payment_request)[1]:
            raise errors.InvalidRequest("This is not a BOLT11 invoice.", param="payment_request")
        request = lnrpc.router.SendPaymentRequest(
            payment_request=payment_request,
            amt_msat=amount_msat or 0,
            fee_limit_msat=fee_limit_msat,
            timeout_seconds=timeout_s,
            cltv_limit=cltv_limit,
            max_parts=_MAX_PARTS,
        )
        last: Payment | None = None
        try:
            with self._open():
                call = self._method(lnrpc.SEND_PAYMENT)(
                    request, timeout=timeout_s + self._payment_grace_s, metadata=self._metadata
                )
                async for message in call:
                    last = payment_of(message)
        except grpc.aio.AioRpcError as error:
            if last is None:
                return await self._refused(payment_request, error)
        if last is None:
            raise errors.Unavailable(
                "The Lightning node ended a payment without a word.", code="lightning_unavailable", retry_after_s=5
            )
        return last

    async def _refused(self, payment_request: str, error: grpc.aio.AioRpcError) -> Payment:
        """The node took no payment this time; it may have done so before, and then that is the answer."""
        _, payment_hash = request_head(payment_request)
        refusal = final_refusal(error)
        if refusal is None and error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise unavailable(error) from error
        known = await self.track(payment_hash)
        if known.state in _NOTHING_KNOWN and refusal is not None:
            return Payment(payment_hash, "failed", failure=refusal)
        return known

    async def track(self, payment_hash: bytes) -> Payment:
        """How an outgoing payment stands now."""
        request = lnrpc.router.TrackPaymentRequest(payment_hash=payment_hash)
        try:
            with self._open():
                call = self._method(lnrpc.TRACK_PAYMENT)(request, timeout=self._deadline_s, metadata=self._metadata)
                message = await call.read()
                call.cancel()
        except grpc.aio.AioRpcError as error:
            if no_such_payment(error):
                return Payment(payment_hash, "unknown")
            raise unavailable(error) from error
        if message is grpc.aio.EOF:
            raise errors.Unavailable(
                "The Lightning node told nothing of a payment.", code="lightning_unavailable", retry_after_s=5
            )
        return payment_of(message)

    async def identity(self) -> str:
        """The node's public key as hex; empty where the macaroon does not let us ask (a mere invoice macaroon)."""
        try:
            return str((await self._call(lnrpc.GET_INFO, lnrpc.lightning.GetInfoRequest())).identity_pubkey)
        except grpc.aio.AioRpcError as error:
            if "permission denied" in (error.details() or ""):
                return ""
            raise unavailable(error) from error

    async def close(self) -> None:
        """End every call and subscription."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def _ask(self, method: lnrpc.Method, request: Any) -> Any:
        try:
            return await self._call(method, request)
        except grpc.aio.AioRpcError as error:
            raise unavailable(error) from error

    async def _call(self, method: lnrpc.Method, request: Any) -> Any:
        with self._open():
            return await self._method(method)(request, timeout=self._deadline_s, metadata=self._metadata)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Closing the channel cancels the calls on it: for their callers the node is unavailable."""
        try:
            yield
        except grpc.aio.UsageError as error:
            raise unavailable(error) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise unavailable(error) from error

    def _method(self, method: lnrpc.Method) -> Any:
        """The call's stub. The channel is made at the first call: it belongs to the loop that runs then."""
        known = self._calls.get(method.path)
        if known is not None:
            return known
        if self._channel is None:
            options = [*_CHANNEL_OPTIONS]
            if self._tls_name:
                options.append(("grpc.ssl_target_name_override", self._tls_name))  # type: ignore[arg-type]
            credentials = grpc.ssl_channel_credentials(self.connection.tls_pem)
            self._channel = grpc.aio.secure_channel(self.connection.address, credentials, options=options)
        make = self._channel.unary_stream if method.streams else self._channel.unary_unary
        stub = make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return self._calls.setdefault(method.path, stub)
