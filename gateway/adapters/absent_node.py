"""The Lightning node of a gateway that has none: every call says so, and nothing further in needs a special case."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from gateway.core.errors import Unavailable
from gateway.ports import Invoice, Payment, PaymentRequest


class AbsentNode:
    """Implements `ports.LightningNode` by refusing."""

    async def add_invoice(self, *, amount_msat: int, memo: str, expiry_s: int) -> Invoice:
        """Errors: Unavailable."""
        raise _absent()

    async def lookup_invoice(self, payment_hash: bytes) -> Invoice | None:
        """Errors: Unavailable."""
        raise _absent()

    async def cancel_invoice(self, payment_hash: bytes) -> None:
        """Errors: Unavailable."""
        raise _absent()

    async def settled_invoices(self, *, after_settle_index: int) -> AsyncIterator[Invoice]:
        """Errors: Unavailable."""
        raise _absent()
        yield

    async def list_invoices(self, *, after_add_index: int, most: int) -> Sequence[Invoice]:
        """Nothing was ever sold."""
        return ()

    async def decode(self, payment_request: str) -> PaymentRequest:
        """Errors: Unavailable."""
        raise _absent()

    async def pay(
        self, payment_request: str, *, amount_msat: int | None, fee_limit_msat: int, timeout_s: int, cltv_limit: int
    ) -> Payment:
        """Errors: Unavailable."""
        raise _absent()

    async def track(self, payment_hash: bytes) -> Payment:
        """Errors: Unavailable."""
        raise _absent()

    async def identity(self) -> str:
        """Errors: Unavailable."""
        raise _absent()

    async def close(self) -> None:
        """Nothing to close."""


def _absent() -> Unavailable:
    return Unavailable("no Lightning node is configured (lightning.lnd.address)", code="lightning_unavailable")
