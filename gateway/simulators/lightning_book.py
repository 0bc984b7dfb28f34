"""The invoices and payments of a simulated node: its whole memory, in a SQLite file if it has a data directory.

Everything is read into memory at the start; each change is written behind, once a turn of the event loop, so that
hundreds of invoices a second stay cheap. A restarted node knows every invoice that it handed out.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(slots=True)
class NodeInvoice:
    """An invoice of this node. `held`: a hold invoice, settled by its owner only, and only he knows the preimage."""

    payment_hash: bytes
    preimage: bytes
    secret: bytes
    payment_request: str
    amount_msat: int
    memo: str
    created_at_s: int
    expiry_s: int
    cltv_expiry: int
    add_index: int
    held: bool = False
    state: str = "open"
    paid_msat: int = 0
    settled_at_s: int = 0
    settle_index: int = 0

    @property
    def expires_at_s(self) -> int:
        """When it is canceled if nobody paid."""
        return self.created_at_s + self.expiry_s


@dataclass(slots=True)
class NodePayment:
    """An outgoing payment. `failure`: lnd's name of the reason, without its prefix."""

    payment_hash: bytes
    payment_request: str
    amount_msat: int
    created_at_ns: int
    index: int
    state: str = "in_flight"
    fee_msat: int = 0
    preimage: bytes = b""
    failure: str = ""


class Book:
    """All invoices by payment hash and by index, all payments by hash, and the balance in the node's channels."""

    def __init__(self, path: Path | None, *, balance_msat: int) -> None:
        self.invoices: dict[bytes, NodeInvoice] = {}
        self.in_order: list[NodeInvoice] = []
        self.settled: list[NodeInvoice] = []
        self.payments: dict[bytes, NodePayment] = {}
        self.balance_msat = balance_msat
        self._database: sqlite3.Connection | None = None
        self._commit_is_due = False
        if path is not None:
            self._database = sqlite3.connect(path)
            self._load()

    def _load(self) -> None:
        database = self._database
        assert database is not None
        # Written ahead, so that killing the process loses nothing that was committed; a power cut may, and may here.
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=off")
        for table in ("invoices", "payments", "facts"):
            database.execute(f"create table if not exists {table} (id blob primary key, record blob)")
        for (record,) in database.execute("select record from invoices"):
            self.in_order.append(msgspec.json.decode(record, type=NodeInvoice))
        self.in_order.sort(key=lambda invoice: invoice.add_index)
        self.invoices = {invoice.payment_hash: invoice for invoice in self.in_order}
        self.settled = sorted(
            (invoice for invoice in self.in_order if invoice.settle_index), key=lambda invoice: invoice.settle_index
        )
        for (record,) in database.execute("select record from payments"):
            payment = msgspec.json.decode(record, type=NodePayment)
            self.payments[payment.payment_hash] = payment
        for (record,) in database.execute("select record from facts where id = 'balance_msat'"):
            self.balance_msat = int(record)
        database.commit()

    def add_invoice(self, invoice: NodeInvoice) -> None:
        """A new invoice; its add_index is the next one."""
        self.invoices[invoice.payment_hash] = invoice
        self.in_order.append(invoice)
        self._keep("invoices", invoice.payment_hash, invoice)

    def change_invoice(self, invoice: NodeInvoice) -> None:
        """Write a changed invoice."""
        self._keep("invoices", invoice.payment_hash, invoice)

    def settle(self, invoice: NodeInvoice, *, paid_msat: int, now_s: int) -> None:
        """Paid for good: it gets the next settle_index."""
        invoice.state, invoice.paid_msat, invoice.settled_at_s = "settled", paid_msat, now_s
        invoice.settle_index = len(self.settled) + 1
        self.settled.append(invoice)
        self._keep("invoices", invoice.payment_hash, invoice)

    def keep_payment(self, payment: NodePayment) -> None:
        """Write a new or changed payment."""
        self.payments[payment.payment_hash] = payment
        self._keep("payments", payment.payment_hash, payment)

    def move(self, amount_msat: int) -> None:
        """Change the balance."""
        self.balance_msat += amount_msat
        if self._database is not None:
            record = str(self.balance_msat).encode()
            self._database.execute("insert or replace into facts values ('balance_msat', ?)", (record,))
            self._commit_soon()

    def close(self) -> None:
        """Write what is left and let go of the file."""
        if self._database is not None:
            self._database.commit()
            self._database.close()
            self._database = None

    def _keep(self, table: str, key: bytes, record: object) -> None:
        if self._database is None:
            return
        self._database.execute(
            f"insert or replace into {table} values (?, ?)",  # noqa: S608 - one of our own tables
            (key, msgspec.json.encode(record)),
        )
        self._commit_soon()

    def _commit_soon(self) -> None:
        if not self._commit_is_due:
            self._commit_is_due = True
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        self._commit_is_due = False
        if self._database is not None:
            self._database.commit()
