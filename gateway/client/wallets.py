"""Wallets that an agent pays with: lnd over gRPC, and a simple one over HTTP.

A wallet says `failed` only when it knows that nothing was and will be paid; everything doubtful is `open`, and is
tracked before anything else is paid.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2

from gateway.adapters.lnd import LndNode
from gateway.client.flow import Outcome
from gateway.client.purse import Payment
from gateway.core.errors import Problem
from gateway.ports import Payment as NodePayment

PAY_TIMEOUT_S = 60
# A payment may be locked in for so many blocks at worst: two days.
_CLTV_LIMIT_BLOCKS = 288
_OUTCOMES = {"succeeded": "paid", "failed": "failed", "unknown": "unknown"}
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
# A node that has paid, or is paying, this invoice refuses to begin again: that is not a failure of the payment.
_PAID_BEFORE = re.compile(r"already|in transition|in flight", re.IGNORECASE)

_Result = TypeVar("_Result")


class Wallet(Protocol):
    """Blocking calls; asynchronous callers make them in a thread. Neither raises."""

    def pay(self, payment: Payment) -> Outcome:
        """Pay `payment.invoice` with at most `payment.fee_msat` of routing fee."""
        ...

    def track(self, payment: Payment) -> Outcome:
        """What became of it."""
        ...


class HttpWallet:
    """`POST {wallet_url}/pay {"invoice"}` answers `{"preimage"}`. No invoice is ever paid twice on Lightning, so asking
    again is how a payment is tracked."""

    def __init__(self, wallet_url: str, *, timeout_s: float = PAY_TIMEOUT_S) -> None:
        self._url = wallet_url.rstrip("/")
        self._timeout_s = timeout_s

    def pay(self, payment: Payment) -> Outcome:
        """Pay. A refusal in words is `failed`, silence is `open`."""
        try:
            with httpx2.Client(timeout=self._timeout_s) as client:
                answer = client.post(f"{self._url}/pay", json={"invoice": payment.invoice})
                body = answer.json()
        except httpx2.ConnectError as error:
            return Outcome("failed", reason=f"the wallet cannot be reached: {error}")
        except (httpx2.HTTPError, ValueError) as error:
            return Outcome("open", reason=f"the wallet's answer was lost: {error!r}")
        if not isinstance(body, dict):
            return Outcome("open", reason="the wallet's answer cannot be read")
        if answer.is_success:
            return Outcome("paid", preimage=str(body.get("preimage", "")), fee_msat=_fee(body.get("fee_msat")))
        reason = str(body.get("detail") or f"the wallet answered {answer.status_code}")
        refused = _CLIENT_ERROR <= answer.status_code < _SERVER_ERROR and not _PAID_BEFORE.search(reason)
        return Outcome("failed" if refused else "open", reason=reason)

    def track(self, payment: Payment) -> Outcome:
        """Ask again."""
        return self.pay(payment)

    def invoice(self, amount_msat: int) -> str:
        """A new invoice of this wallet (0: the payer chooses), to take leftovers back. Errors: httpx2.HTTPError."""
        with httpx2.Client(timeout=self._timeout_s) as client:
            answer = client.post(f"{self._url}/invoice", json={"amount_msat": amount_msat})
            answer.raise_for_status()
            return str(answer.json()["invoice"])


class LndWallet:
    """An lnd node. Its gRPC channel lives in a loop of its own, in a thread of its own, until `close`."""

    def __init__(self, address: str, *, tls_cert: str | bytes | Path, macaroon: str | bytes | Path) -> None:
        """Errors: ValueError where a file cannot be read. The macaroon needs `offchain:read` and `offchain:write`."""
        self._node = LndNode.open(address, tls_cert=tls_cert, macaroon=macaroon)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lnd-wallet", daemon=True)
        self._thread.start()

    def pay(self, payment: Payment) -> Outcome:
        """Pay; a payment that takes longer than a minute is `open`."""
        return self._asked(
            self._node.pay(
                payment.invoice,
                amount_msat=None,
                fee_limit_msat=payment.fee_msat,
                timeout_s=PAY_TIMEOUT_S,
                cltv_limit=_CLTV_LIMIT_BLOCKS,
            )
        )

    def track(self, payment: Payment) -> Outcome:
        """What the node knows of the payment."""
        return self._asked(self._node.track(bytes.fromhex(payment.payment_hash)))

    def close(self) -> None:
        """End the channel and the thread."""
        self._wait(self._node.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _asked(self, call: Coroutine[Any, Any, NodePayment]) -> Outcome:
        try:
            ended = self._wait(call)
        except Problem as problem:
            return Outcome("open", reason=problem.detail)
        state = _OUTCOMES.get(ended.state, "open")
        return Outcome(state, preimage=ended.preimage.hex(), fee_msat=ended.fee_msat, reason=ended.failure)

    def _wait(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


def _fee(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
