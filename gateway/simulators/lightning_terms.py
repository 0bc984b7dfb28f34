"""What a simulated node is told and what it refuses: faults, orders and limits, with lnd's words for each refusal."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import grpc

from gateway.simulators.bolt11 import Request
from gateway.simulators.lightning_book import NodeInvoice, NodePayment

# lnd's own limits and defaults (v0.20).
MAX_MEMO_BYTES = 1_024
MAX_EXPIRY_S = 365 * 24 * 3_600
MAX_CLTV = 2_016
# Blocks that lnd adds to a route, so that a block that comes in between does no harm.
CLTV_PADDING = 3
_EVENTS_MOST = 100_000


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


def check_invoice(*, amount_msat: int, memo: str, expiry_s: int) -> None:
    """Raise what lnd says to a bad new invoice."""
    size = len(memo.encode())
    if size > MAX_MEMO_BYTES:
        text = f"memo too large: {size} bytes (maxsize={MAX_MEMO_BYTES})"
    elif amount_msat < 0:
        text = "amount cannot be negative"
    elif expiry_s > MAX_EXPIRY_S:
        text = f"expiry of {expiry_s:g} seconds greater than max expiry of {MAX_EXPIRY_S:g} seconds"
    else:
        return
    raise NodeRefusal(grpc.StatusCode.UNKNOWN, text)


def check_payment(order: PaymentOrder, request: Request, known: NodePayment | None, *, own: bool) -> None:
    """Raise what lnd says to a payment that it does not begin. `own`: the invoice is the payer's."""
    code, text = grpc.StatusCode.UNKNOWN, ""
    if time.time() > request.expires_at_s:
        until = time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(request.expires_at_s))
        text = f"invoice expired. Valid until {until}"
    elif request.amount_msat is None and not order.amount_msat:
        text = "amount must be specified when paying a zero amount invoice"
    elif request.amount_msat is not None and order.amount_msat:
        text = "amount must not be specified when paying a non-zero amount invoice"
    elif own:
        text = "self-payments not allowed"
    elif (order.cltv_limit or MAX_CLTV) <= request.cltv_expiry + CLTV_PADDING:
        text = f"cltv limit {order.cltv_limit or MAX_CLTV} should be greater than {request.cltv_expiry + CLTV_PADDING}"
    elif known is not None and known.state != "failed":
        code = grpc.StatusCode.ALREADY_EXISTS
        text = "invoice is already paid" if known.state == "succeeded" else "payment is in transition"
    if text:
        raise NodeRefusal(code, text)
