"""An agent's wallet over HTTP, for demos and tests: pays invoices and makes them, on a simulated node of its own.

* `POST /pay {"invoice", [amount_msat, fee_limit_msat]}` answers `{"preimage", payment_hash, amount_msat, fee_msat}`
* `POST /invoice {[amount_msat, memo, expiry_s]}` answers `{"invoice", payment_hash}`; no amount: the payer chooses
* `GET /balance` answers `{"balance_msat"}`

Errors are problems (RFC 9457): 422 for bad input, 409 where the payment
was refused or failed. It never pays one invoice twice.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.simulators.bolt11 import decode
from gateway.simulators.lightning import NodeRefusal, PaymentOrder, SimulatedNode

# Generous: the wallet's user sets a cap on what it spends, not on routing.
_FEE_LIMIT_MSAT = 1_000_000
_BODY_BYTES = 65_536
_Body = TypeVar("_Body")


class PayBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to pay. `amount_msat` only where the invoice names none."""

    invoice: str
    amount_msat: int = 0
    fee_limit_msat: int = _FEE_LIMIT_MSAT


class InvoiceBody(msgspec.Struct, forbid_unknown_fields=True):
    """The invoice to make."""

    amount_msat: int = 0
    memo: str = ""
    expiry_s: int = 3_600


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


def wallet_app(node: SimulatedNode) -> Starlette:
    """The ASGI application over a started node."""

    async def pay(request: Request) -> Response:
        body = await _read(request, PayBody)
        try:
            payment = await node.pay(PaymentOrder(body.invoice.strip(), body.amount_msat, body.fee_limit_msat))
        except NodeRefusal as refusal:
            raise _Refused(HTTPStatus.CONFLICT, "payment_refused", refusal.text) from refusal
        if payment.state != "succeeded":
            raise _Refused(HTTPStatus.CONFLICT, "payment_failed", payment.failure or "the wallet went away")
        return _json(
            {
                "preimage": payment.preimage.hex(),
                "payment_hash": payment.payment_hash.hex(),
                "amount_msat": payment.amount_msat,
                "fee_msat": payment.fee_msat,
            }
        )

    async def invoice(request: Request) -> Response:
        body = await _read(request, InvoiceBody)
        try:
            text = node.add_invoice(amount_msat=body.amount_msat, memo=body.memo, expiry_s=body.expiry_s)
        except NodeRefusal as refusal:
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", refusal.text) from refusal
        return _json({"invoice": text, "payment_hash": decode(text).payment_hash.hex()})

    async def balance(_: Request) -> Response:
        return _json({"balance_msat": node.balance_msat})

    routes = [
        Route("/pay", pay, methods=["POST"]),
        Route("/invoice", invoice, methods=["POST"]),
        Route("/balance", balance, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={_Refused: _problem})


async def _read(request: Request, shape: type[_Body]) -> _Body:
    content = await request.body()
    if len(content) > _BODY_BYTES:
        raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", "the body is too large")
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.MsgspecError as error:
        raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", str(error)) from error


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    body = {
        "type": "about:blank",
        "title": error.status.phrase,
        "status": error.status.value,
        "code": error.code,
        "detail": error.detail,
    }
    return Response(msgspec.json.encode(body), status_code=error.status, media_type="application/problem+json")


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
