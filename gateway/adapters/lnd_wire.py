"""What lnd's messages and errors mean in our terms; and how its certificate and macaroon are read.

Kept apart from the calls so that each translation is a plain function. lnd answers most refusals with the code
UNKNOWN and a sentence, so some sentences are matched here, and only here: what is not matched counts as "outcome
unknown", never as "failed".
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from gateway.core import errors
from gateway.ports import Invoice, Payment, PaymentRequest

_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TO_BASE32 = str.maketrans(_BECH32, _BASE32)
# In groups of 5 bits (BOLT 11): a timestamp in front; checksum and signature behind; each field has 3 groups of head.
_TIMESTAMP_GROUPS = 7
_TAIL_GROUPS = 104 + 6
_HASH_TAG = "p"
_HASH_GROUPS = 52

_STATES = {0: "open", 1: "settled", 2: "canceled", 3: "accepted"}
_SUCCEEDED, _FAILED = 2, 3
# PaymentFailureReason, with the one that is newer than the compiled messages.
_FAILURES = {
    1: "timeout",
    2: "no_route",
    3: "error",
    4: "incorrect_payment_details",
    5: "insufficient_balance",
    6: "canceled",
}
# Refusals that cannot change by trying again: the node took nothing, and takes nothing of the same invoice later.
_FINAL_REFUSALS = {
    "self-payments not allowed": "self_payment",
    "invoice expired": "invoice_expired",
    "amount must": "wrong_amount",
    "cltv limit": "cltv_limit",
    "payment request must contain": "unpayable_invoice",
    "invoice not for current active network": "wrong_network",
    "checksum failed": "unreadable_invoice",
    "invalid bech32": "unreadable_invoice",
    "invoice is malformed": "unreadable_invoice",
}
# "... enable full RPC access", "the RPC server is in the process of starting up": a node that is not ready says RPC.
_ABOUT_US = ("macaroon", "permission denied", "verification failed", "rpc ")
_UNKNOWN_INVOICE = ("unable to locate invoice", "there are no existing invoices")
_UNKNOWN_PAYMENT = "payment isn't initiated"


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a node: the certificate as PEM (None: one that public authorities signed), the macaroon as hex."""

    address: str
    tls_pem: bytes | None
    macaroon_hex: str


def read_connection(address: str, tls_cert: str | bytes | Path, macaroon: str | bytes | Path) -> Connection:
    """Read certificate (PEM or path) and macaroon (bytes, hex or path). Errors: ValueError that names the key."""
    return Connection(address, _read_certificate(tls_cert), _read_macaroon(macaroon))


def _read_certificate(value: str | bytes | Path) -> bytes | None:
    if not value:
        return None
    pem = value if isinstance(value, bytes) else str(value).encode()
    if pem.lstrip().startswith(b"-----BEGIN"):
        return pem
    return _read_file("lightning.lnd.tls_cert", Path(pem.decode()))


def _read_macaroon(value: str | bytes | Path) -> str:
    if isinstance(value, bytes):
        return value.hex()
    text = str(value).strip()
    # A macaroon has more than 40 bytes, and no path is a long even number of hex digits.
    if len(text) > 80 and len(text) % 2 == 0 and all(digit in "0123456789abcdefABCDEF" for digit in text):
        return text.lower()
    return _read_file("lightning.lnd.macaroon", Path(text)).hex()


def _read_file(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{key}: cannot read {path}: {error.strerror}"
        raise ValueError(message) from error


def request_head(payment_request: str) -> tuple[int, bytes]:
    """The time of creation and the payment hash of a BOLT11 invoice, read without checking its signature.

    For invoices of our own node, and to name a payment to the node; zero and b"" where it cannot be read.
    """
    text = payment_request.strip().lower()
    data = text[text.rfind("1") + 1 :]
    if len(data) < _TIMESTAMP_GROUPS + _TAIL_GROUPS or not set(data) <= set(_BECH32):
        return 0, b""
    created_at_s = 0
    for letter in data[:_TIMESTAMP_GROUPS]:
        created_at_s = created_at_s * 32 + _BECH32.index(letter)
    position, end = _TIMESTAMP_GROUPS, len(data) - _TAIL_GROUPS
    while position + 3 <= end:
        length = _BECH32.index(data[position + 1]) * 32 + _BECH32.index(data[position + 2])
        if data[position] == _HASH_TAG and length == _HASH_GROUPS:
            groups = data[position + 3 : position + 3 + length].translate(_TO_BASE32)
            return created_at_s, base64.b32decode(groups + "AAAA")[:32]
        position += 3 + length
    return created_at_s, b""


def invoice_of(message: Any) -> Invoice:
    """Our invoice from lnd's `Invoice`."""
    return Invoice(
        payment_request=message.payment_request,
        payment_hash=message.r_hash,
        amount_msat=message.value_msat,
        memo=message.memo,
        created_at_s=message.creation_date,
        expires_at_s=message.creation_date + message.expiry,
        state=_STATES[message.state],
        paid_msat=message.amt_paid_msat,
        settled_at_s=message.settle_date or None,
        settle_index=message.settle_index,
        add_index=message.add_index,
        preimage=message.r_preimage,
    )


def request_of(message: Any) -> PaymentRequest:
    """Our view of somebody's invoice from lnd's `PayReq`."""
    return PaymentRequest(
        payment_hash=bytes.fromhex(message.payment_hash),
        destination=message.destination,
        amount_msat=message.num_msat or None,
        expires_at_s=message.timestamp + message.expiry,
        final_cltv_delta=message.cltv_expiry,
        description=message.description,
    )


def payment_of(message: Any) -> Payment:
    """Our payment from lnd's `Payment`. Every status but the two final ones is in flight, those that come later too."""
    state = {_SUCCEEDED: "succeeded", _FAILED: "failed"}.get(message.status, "in_flight")
    succeeded = state == "succeeded"
    return Payment(
        payment_hash=bytes.fromhex(message.payment_hash),
        state=state,
        amount_msat=message.value_msat,
        fee_msat=message.fee_msat if succeeded else 0,
        preimage=bytes.fromhex(message.payment_preimage) if succeeded else b"",
        failure=_FAILURES.get(message.failure_reason, "error") if state == "failed" else "",
    )


def final_refusal(error: grpc.aio.AioRpcError) -> str | None:
    """The word for a refusal to pay that will not change, or None: then nothing is known about the payment."""
    said = (error.details() or "").lower()
    return next((word for sentence, word in _FINAL_REFUSALS.items() if sentence in said), None)


def about_us(error: grpc.aio.AioRpcError) -> bool:
    """Whether a refusal is about our macaroon, or the node is only starting: lnd gives these as UNKNOWN, too."""
    said = (error.details() or "").lower()
    return any(word in said for word in _ABOUT_US)


def no_such_invoice(error: grpc.aio.AioRpcError) -> bool:
    """Whether the node says that it has no such invoice. By its words: NOT_FOUND alone could come from a proxy."""
    said = (error.details() or "").lower()
    return any(sentence in said for sentence in _UNKNOWN_INVOICE)


def no_such_payment(error: grpc.aio.AioRpcError) -> bool:
    """Whether the node says that it never began this payment. By its words: a refund may be voided on it."""
    return error.code() is grpc.StatusCode.NOT_FOUND and _UNKNOWN_PAYMENT in (error.details() or "").lower()


def unavailable(error: BaseException) -> errors.Unavailable:
    """The 503 for a node that cannot be reached, is too slow, refuses the macaroon or fails in a way we do not know."""
    if isinstance(error, grpc.aio.AioRpcError):
        reason = f"{error.code().name.lower()}: {error.details() or 'no details'}"
    else:
        reason = "the connection was closed"
    return errors.Unavailable(
        f"The Lightning node did not answer ({reason}).", code="lightning_unavailable", retry_after_s=5
    )
