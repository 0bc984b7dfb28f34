"""From a credential to the account that pays, and from a settled invoice to its credit.

What is remembered of a credential is only "the signature is good": time is looked at on every request, revocation,
credit and counters inside `ledger.place`. Money is credited once per payment hash, whoever notices the payment first
(the agent that shows its token, or the node's own stream), and only when the node says that the invoice is settled: a
preimage alone is no proof, the payer of a hold invoice may know it before it has paid. After a valid proof our own
failures are 503, never another invoice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

from gateway.core.challenges import ChallengePolicy, Memo, read_memo, token_of_top_up
from gateway.core.credentials import L402Credential
from gateway.core.errors import Unavailable
from gateway.core.holds import Refusal, Refused, ScopeClaim
from gateway.core.money import Rate, Unit
from gateway.core.restrictions import Denied, RequestContext, Restrictions, judge, restrictions_of
from gateway.core.tokens import Unverified, Verified, account_of
from gateway.flows.together import Together
from gateway.ports import ChallengeBook, Invoice, Ledger, LightningNode, System, TokenMint

log = logging.getLogger("farebox.lightning")

# 2 KiB each: a worker that serves more tokens than this verifies some of them again, at 100 us each.
REMEMBERED_CREDENTIALS = 8_192
# Settled invoices are read again from so far back at each start: crediting is idempotent, and a store that lost its
# last seconds gets them back.
SETTLE_INDEX_MARGIN = 1_000
KEEP_INDEX_EVERY = 20
FIRST_PAUSE_S, GREATEST_PAUSE_S = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class VerifiedPayer:
    """A credential whose signature, preimage and caveats hold. Whether it is credited, spent or revoked, `place`
    says."""

    account: str
    token_id: bytes
    payment_hash: bytes
    token: str  # hexadecimal, as the ledger's `token_id` wants it
    credit_id: str  # hexadecimal payment hash
    claims: tuple[ScopeClaim, ...]
    attenuated: bool
    expires_at_s: int

    @property
    def top_up_of(self) -> bytes | None:
        """What the challenge to this payer carries once it has spent its credit."""
        return token_of_top_up(self.token_id, attenuated=self.attenuated)


@dataclass(frozen=True, slots=True)
class NeedsChallenge:
    """The proof is missing, wrong, expired or unpaid: a fresh challenge (or one for `top_up_of`)."""

    reason: str
    top_up_of: bytes | None = None


@dataclass(frozen=True, slots=True)
class Forbids:
    """The proof is good, a caveat forbids this request: 403, no challenge."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Known:
    payer: VerifiedPayer
    restrictions: tuple[Restrictions | Denied, ...]


class Verifier:
    """Looks at credentials. No I/O: a microsecond or two for one that was seen before."""

    def __init__(self, *, mint: TokenMint, policy: Callable[[], ChallengePolicy]) -> None:
        self._mint = mint
        self._policy = policy
        self._known: dict[bytes, _Known] = {}
        self._ignorable: frozenset[str] = frozenset()

    def verify(self, credential: L402Credential, context: RequestContext) -> VerifiedPayer | NeedsChallenge | Forbids:
        """Whether this credential may pay for this request now, as far as it can be said without the ledger."""
        known = self._known.get(credential.digest)
        if known is None or self._policy().ignorable_caveats != self._ignorable:
            checked = self._check(credential)
            if isinstance(checked, NeedsChallenge):
                return checked
            known = checked
        for restrictions in known.restrictions:
            judged = judge(restrictions, context)
            if isinstance(judged, Denied):
                return NeedsChallenge(judged.reason) if judged.expired else Forbids(judged.reason)
        return known.payer

    def owner(self, credential: L402Credential, context: RequestContext) -> VerifiedPayer | NeedsChallenge | Forbids:
        """The same for what concerns the credit itself (balance, refund, revocation): the expiry of an unattenuated
        token ends what it may buy, not whose money is left."""
        timeless = self.verify(credential, replace(context, now_s=0))
        if isinstance(timeless, VerifiedPayer) and not timeless.attenuated:
            return timeless
        return self.verify(credential, context)

    def _check(self, credential: L402Credential) -> _Known | NeedsChallenge:
        """Signature, preimage, caveats; remembered when the proof is good."""
        ignorable = self._policy().ignorable_caveats
        if ignorable != self._ignorable:
            self._known.clear()
            self._ignorable = ignorable
        verified: list[Verified] = []
        for raw in credential.macaroons:
            outcome = self._mint.verify(raw)
            if isinstance(outcome, Unverified):
                return NeedsChallenge(outcome.reason)
            verified.append(outcome)
        first = verified[0]
        if any((other.token_id, other.payment_hash) != (first.token_id, first.payment_hash) for other in verified):
            return NeedsChallenge("the macaroons are of different tokens")
        restrictions = tuple(
            restrictions_of(one.links, payment_hash=one.payment_hash, own=one.own_caveats, ignorable=ignorable)
            for one in verified
        )
        if not _proves(credential.preimage, first.payment_hash, restrictions):
            return NeedsChallenge("the preimage is not the payment's")
        known = _Known(_payer(first, restrictions), restrictions)
        if len(self._known) >= REMEMBERED_CREDENTIALS:
            del self._known[next(iter(self._known))]
        self._known[credential.digest] = known
        return known


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
    ) -> None:
        self._policy = policy
        self._node = node
        self._ledger = ledger
        self._mint = mint
        self._book = book
        self._system = system
        self._rates: dict[str, Rate] = {}
        self._lookups: Together[Rate | NeedsChallenge] = Together()
        self._reading: asyncio.Task[None] | None = None

    def known_rate(self, payer: VerifiedPayer) -> Rate | None:
        """The rate that this account's credit is converted at, where this worker knows it."""
        return self._rates.get(payer.account)

    def note_rate(self, account: str, rate: Rate) -> None:
        """What the ledger answered with `rate_changed`."""
        self._rates.pop(account, None)
        if len(self._rates) >= REMEMBERED_CREDENTIALS:
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
        pause_s = FIRST_PAUSE_S
        while True:
            self._reading = asyncio.create_task(self._read_settled())
            try:
                await asyncio.wait((self._reading,))
            finally:
                self._reading.cancel()
            if not self._reading.cancelled():
                error = self._reading.exception()
                if error is not None and not isinstance(error, Unavailable):
                    raise error
                log.warning("the stream of settled invoices ended (%s); again in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, GREATEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    def rewind(self) -> None:
        """The store has gone back in time (another run, a failover): read the last settled invoices again."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read_settled(self) -> None:
        """One subscription. A node's index of 0 means "from now on": a first start does not read every invoice ever
        made."""
        node = await self._node.identity()
        kept = await self._book.settle_index(node)
        after = max(kept - SETTLE_INDEX_MARGIN, 0)
        async for invoice in self._node.settled_invoices(after_settle_index=after):
            memo = self._memo_of(invoice)
            if memo is not None and invoice.state == "settled" and not self._is_too_old(invoice):
                await self._apply_settled(invoice, memo)
            if invoice.settle_index >= kept + KEEP_INDEX_EVERY or kept == 0:
                kept = invoice.settle_index
                await self._book.keep_settle_index(node, kept)

    async def _apply_settled(self, invoice: Invoice, memo: Memo) -> None:
        """A payment that the ledger refuses must not keep the others from being credited."""
        try:
            await self._apply(invoice, memo)
        except Unavailable as error:
            if error.code != "credit_refused":
                raise

    async def _apply(self, invoice: Invoice, memo: Memo) -> None:
        """Credit what was paid (it can exceed what was asked), once per payment hash; its place is free again."""
        account, credit_id = account_of(memo.token_id), invoice.payment_hash.hex()
        credited = await self._ledger.credit(
            credit_id, account, invoice.paid_msat, unit=Unit.MSAT, rate=memo.rate, source="lightning"
        )
        if isinstance(credited, Refused):
            log.error("a settled invoice was not credited: %s, %s", credit_id, credited.reason)
            code = "frozen" if credited.reason is Refusal.FROZEN else "credit_refused"
            raise Unavailable("The payment cannot be credited now.", code=code, retry_after_s=30)
        if credited.outcome == "applied":
            self._rates.pop(account, None)
            await self._book.release(memo.nonce)
            await self._book.forget_top_up(memo.token_id)

    def _memo_of(self, invoice: Invoice) -> Memo | None:
        return read_memo(invoice.memo, amount_msat=invoice.amount_msat, keys=self._mint.memo_keys)

    def _is_too_old(self, invoice: Invoice) -> bool:
        settled_at_s = invoice.settled_at_s or invoice.created_at_s
        return settled_at_s < self._system.now_s() - self._policy().retention_s


def _proves(preimage: bytes | None, payment_hash: bytes, restrictions: tuple[Restrictions | Denied, ...]) -> bool:
    """The preimage as shown, or one that a caveat carries (which was compared when it was read)."""
    if preimage is not None:
        return sha256(preimage).digest() == payment_hash
    return any(isinstance(one, Restrictions) and one.preimage is not None for one in restrictions)


def _payer(verified: Verified, restrictions: tuple[Restrictions | Denied, ...]) -> VerifiedPayer:
    """The payer under all restrictions of all its macaroons."""
    readable = [one for one in restrictions if isinstance(one, Restrictions)]
    return VerifiedPayer(
        account=account_of(verified.token_id),
        token_id=verified.token_id,
        payment_hash=verified.payment_hash,
        token=verified.token_id.hex(),
        credit_id=verified.payment_hash.hex(),
        claims=tuple(claim for one in readable for claim in one.claims),
        attenuated=len(readable) < len(restrictions) or any(one.attenuated for one in readable),
        expires_at_s=min((one.expires_at_s for one in readable), default=0),
    )
