"""From a settled invoice to its credit.

Money is credited once per payment hash, whoever notices the payment first (the agent that shows its token, or the
node's own stream), and only when the node says that the invoice is settled: a preimage alone is no proof, the payer
of a hold invoice may know it before it has paid. After a valid proof our own failures are 503, never another invoice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from gateway.core.challenges import ChallengePolicy, Memo, read_memo
from gateway.core.errors import InvalidRequest, Unavailable
from gateway.core.holds import Credited, Refusal, Refused
from gateway.core.money import Rate, Unit
from gateway.core.tokens import account_of
from gateway.flows.together import Together
from gateway.flows.verifying import NeedsChallenge, VerifiedPayer
from gateway.ports import ChallengeBook, Invoice, Ledger, LightningNode, System, TokenMint

log = logging.getLogger("farebox.lightning")

# Accounts whose rate a worker knows without asking.
REMEMBERED_RATES = 8_192
# Settled invoices are read again from so far back at each start: crediting is idempotent, and a store that lost its
# last seconds gets them back.
SETTLE_INDEX_MARGIN = 1_000
KEEP_INDEX_EVERY = 20
FIRST_PAUSE_S, GREATEST_PAUSE_S = 0.5, 30.0
WATCH_PAUSE_S = 5.0
PAGE = 500
REFUSED_CODE = "credit_refused"


class Crediting:
    """Credits settled invoices, and knows the rate of each account."""

    def __init__(
        self,
        *,
        policy: Callable[[], ChallengePolicy],
        node: LightningNode,
        ledger: Ledger,
        mint: TokenMint,
        book: ChallengeBook,
        system: System,
        credited: Callable[[int], None] | None = None,
    ) -> None:
        """`credited` is told of each payment credited, in msat."""
        self._credited = credited
        self._policy = policy
        self._node = node
        self._ledger = ledger
        self._mint = mint
        self._book = book
        self._system = system
        self._rates: dict[str, Rate] = {}
        self._seen_credited: dict[bytes, None] = {}  # payment hashes, the oldest first
        self._lookups: Together[Rate | NeedsChallenge] = Together()
        self._reading: asyncio.Task[None] | None = None

    def known_rate(self, payer: VerifiedPayer) -> Rate | None:
        """The rate that this account's credit is converted at, where this worker knows it."""
        return self._rates.get(payer.account)

    def note_rate(self, account: str, rate: Rate) -> None:
        """What the ledger answered with `rate_changed`."""
        self._rates.pop(account, None)
        if len(self._rates) >= REMEMBERED_RATES:
            del self._rates[next(iter(self._rates))]
        self._rates[account] = rate

    async def rate_of(self, payer: VerifiedPayer) -> Rate | NeedsChallenge:
        """The rate, from memory, else from the ledger, else by crediting the payment first.

        Errors: Unavailable (store_unavailable, lightning_unavailable).
        """
        known = self._rates.get(payer.account)
        if known is not None:
            return known
        balance = await self._ledger.balance(payer.account)
        if balance is None:
            return await self.credit(payer)
        self.note_rate(payer.account, balance.rate)
        return balance.rate

    async def rate_after_credit(self, payer: VerifiedPayer) -> Rate | NeedsChallenge:
        """The same, for whoever asks what there is: the payment that is shown is credited first, so that a top-up made
        a moment ago is seen. With the node away what is known is told."""
        if payer.payment_hash not in self._seen_credited:
            try:
                credited = await self.credit(payer)
            except Unavailable:
                credited = None
            if isinstance(credited, Rate):
                if len(self._seen_credited) >= REMEMBERED_RATES:
                    del self._seen_credited[next(iter(self._seen_credited))]
                self._seen_credited[payer.payment_hash] = None
        return await self.rate_of(payer)

    async def credit(self, payer: VerifiedPayer) -> Rate | NeedsChallenge:
        """On `no_account` and `credit_unknown`: look the invoice up and credit it; then place again, at the rate given.

        Errors: Unavailable, also where the node does not know the invoice: its preimage is known, so it was paid.
        """
        return await self._lookups.run(payer.payment_hash, partial(self._look_up, payer))

    async def _look_up(self, payer: VerifiedPayer) -> Rate | NeedsChallenge:
        invoice = await self._node.lookup_invoice(payer.payment_hash)
        if invoice is None:
            log.error("the node does not know a paid invoice: %s", payer.credit_id)
            raise Unavailable("The payment cannot be looked up.", code="lightning_unavailable", retry_after_s=10)
        if invoice.state != "settled":
            return NeedsChallenge("the payment is not settled")
        memo = self._memo_of(invoice)
        if memo is None or memo.token_id != payer.token_id:
            return NeedsChallenge("the invoice does not belong to the token")
        if self._is_too_old(invoice):
            return NeedsChallenge("the payment is too old to be credited")
        await self._apply(invoice, memo)
        balance = await self._ledger.balance(payer.account)
        rate = balance.rate if balance is not None else memo.rate
        self.note_rate(payer.account, rate)
        return rate

    async def credit_settled(self) -> None:
        """Credit what was paid and not shown yet; runs until cancelled, and begins again wherever it is thrown out."""
        watch = asyncio.create_task(self._watch_store())
        try:
            await self._keep_reading()
        finally:
            watch.cancel()
            await asyncio.wait((watch,))

    async def _watch_store(self) -> None:
        """A store that runs anew may have lost its last seconds: read the last settled invoices again."""
        known = ""
        while True:
            with suppress(Unavailable):
                run = await self._book.store_run()
                if known not in ("", run):
                    log.warning("the store runs anew; the last settled invoices are read again")
                    self.rewind()
                known = run
            await asyncio.sleep(WATCH_PAUSE_S)

    async def _keep_reading(self) -> None:
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            began_at_s = loop.time()
            self._reading = asyncio.create_task(self._read_settled())
            try:
                await asyncio.wait((self._reading,))
            finally:
                self._reading.cancel()
                await asyncio.wait((self._reading,))
            if self._reading.cancelled():
                continue  # rewound
            error = self._reading.exception()
            if error is not None and not isinstance(error, Unavailable):
                raise error
            lasted_s = loop.time() - began_at_s
            pause_s = FIRST_PAUSE_S if lasted_s > GREATEST_PAUSE_S else min(pause_s * 2, GREATEST_PAUSE_S)
            log.warning("the stream of settled invoices ended (%s); again in %.1f s", error, pause_s)
            await asyncio.sleep(pause_s)

    async def recover(self) -> int:
        """Credit every settled invoice of ours that the node still knows, within retention: after the store has lost
        its end, or is new. How many were missing."""
        last, missing = 0, 0
        while page := await self._node.list_invoices(after_add_index=last, most=PAGE):
            last = page[-1].add_index
            for invoice in page:
                missing += await self._apply_settled(invoice)
        return missing

    def rewind(self) -> None:
        """The store may have gone back in time: read the last settled invoices again."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read_settled(self) -> None:
        """One subscription. A node's index of 0 means "from now on": a first start does not read every invoice ever
        made."""
        node = await self._node.identity()
        kept = await self._book.settle_index(node)
        after = max(kept - SETTLE_INDEX_MARGIN, 0)
        async for invoice in self._node.settled_invoices(after_settle_index=after):
            await self._apply_settled(invoice)
            if invoice.settle_index >= kept + KEEP_INDEX_EVERY or kept == 0:
                kept = invoice.settle_index
                await self._book.keep_settle_index(node, kept)

    async def _apply_settled(self, invoice: Invoice) -> bool:
        """Credit an invoice if it is ours; whether it had not been. One that the ledger refuses must not keep the
        others from being credited."""
        memo = self._memo_of(invoice)
        if memo is None or invoice.state != "settled" or self._is_too_old(invoice):
            return False
        try:
            return await self._apply(invoice, memo)
        except Unavailable as error:
            if error.code != REFUSED_CODE:
                raise
            return False

    async def _apply(self, invoice: Invoice, memo: Memo) -> bool:
        """Credit what was paid (it can exceed what was asked), once per payment hash; its place is free again. Whether
        this was the once."""
        account, credit_id = account_of(memo.token_id), invoice.payment_hash.hex()
        credited: Credited | Refused
        try:
            credited = await self._ledger.credit(
                credit_id, account, invoice.paid_msat, unit=Unit.MSAT, rate=memo.rate, source="lightning"
            )
        except InvalidRequest:
            credited = Refused(Refusal.TOO_GREAT)
        if isinstance(credited, Refused):
            log.error("a settled invoice was not credited: %s, %s", credit_id, credited.reason)
            raise Unavailable("The payment cannot be credited now.", code=REFUSED_CODE, retry_after_s=30)
        if credited.outcome != "applied":
            return False
        self._rates.pop(account, None)
        await self._book.release(memo.nonce)
        await self._book.forget_top_up(memo.token_id)
        if self._credited is not None:
            self._credited(invoice.paid_msat)
        return True

    def _memo_of(self, invoice: Invoice) -> Memo | None:
        return read_memo(invoice.memo, amount_msat=invoice.amount_msat, keys=self._mint.memo_keys)

    def _is_too_old(self, invoice: Invoice) -> bool:
        settled_at_s = invoice.settled_at_s or invoice.created_at_s
        return settled_at_s < self._system.now_s() - self._policy().retention_s
