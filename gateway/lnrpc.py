"""lnd's gRPC messages: the one place where the compiled protocol of lnd is loaded.

The package lnd-grpc-client carries the compiled messages, but its own `__init__` imports a client that rests on
aiogrpc, which nobody keeps any more: a new Python could break it at import, and with it every gateway. So the
compiled modules are loaded beside that `__init__`, which never runs. The messages are generated code without types,
hence `Any`.

`Method` names one call with its two message classes, so that the adapter and the simulated node spell each path once.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

_PACKAGE = "lndgrpc"


def _compiled(*names: str) -> tuple[Any, ...]:
    """Import `lndgrpc.compiled.NAME` without running `lndgrpc/__init__.py`; one that is imported already stays."""
    if _PACKAGE in sys.modules:
        return tuple(importlib.import_module(f"{_PACKAGE}.compiled.{name}") for name in names)
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None:
        message = "the package lnd-grpc-client is not installed"
        raise ImportError(message)
    sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        return tuple(importlib.import_module(f"{_PACKAGE}.compiled.{name}") for name in names)
    finally:
        # The hollow package must not be what somebody else gets who wants the real one.
        del sys.modules[_PACKAGE]


lightning, router, invoices = _compiled("lightning_pb2", "router_pb2", "invoices_pb2")


@dataclass(frozen=True, slots=True)
class Method:
    """One call: its service and name, what goes in, what comes out (once, or as a stream)."""

    service: str
    name: str
    request: Any
    response: Any
    streams: bool = False

    @property
    def path(self) -> str:
        """The path on the wire."""
        return f"/{self.service}/{self.name}"


GET_INFO = Method("lnrpc.Lightning", "GetInfo", lightning.GetInfoRequest, lightning.GetInfoResponse)
WALLET_BALANCE = Method(
    "lnrpc.Lightning", "WalletBalance", lightning.WalletBalanceRequest, lightning.WalletBalanceResponse
)
CHANNEL_BALANCE = Method(
    "lnrpc.Lightning", "ChannelBalance", lightning.ChannelBalanceRequest, lightning.ChannelBalanceResponse
)
ADD_INVOICE = Method("lnrpc.Lightning", "AddInvoice", lightning.Invoice, lightning.AddInvoiceResponse)
LOOKUP_INVOICE = Method("lnrpc.Lightning", "LookupInvoice", lightning.PaymentHash, lightning.Invoice)
LIST_INVOICES = Method("lnrpc.Lightning", "ListInvoices", lightning.ListInvoiceRequest, lightning.ListInvoiceResponse)
SUBSCRIBE_INVOICES = Method(
    "lnrpc.Lightning", "SubscribeInvoices", lightning.InvoiceSubscription, lightning.Invoice, streams=True
)
DECODE_PAY_REQ = Method("lnrpc.Lightning", "DecodePayReq", lightning.PayReqString, lightning.PayReq)
SEND_PAYMENT = Method("routerrpc.Router", "SendPaymentV2", router.SendPaymentRequest, lightning.Payment, streams=True)
TRACK_PAYMENT = Method(
    "routerrpc.Router", "TrackPaymentV2", router.TrackPaymentRequest, lightning.Payment, streams=True
)
CANCEL_INVOICE = Method("invoicesrpc.Invoices", "CancelInvoice", invoices.CancelInvoiceMsg, invoices.CancelInvoiceResp)
ADD_HOLD_INVOICE = Method(
    "invoicesrpc.Invoices", "AddHoldInvoice", invoices.AddHoldInvoiceRequest, invoices.AddHoldInvoiceResp
)
SETTLE_INVOICE = Method("invoicesrpc.Invoices", "SettleInvoice", invoices.SettleInvoiceMsg, invoices.SettleInvoiceResp)
