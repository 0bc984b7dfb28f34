"""Leftovers back to the agent, over Lightning, exactly once.

The order is the safety: the intent is written (one per payment hash), the money is held, both are certainly on disk,
and only then is anything sent. Who may have how much back is decided here; the way of the money is `payouts`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from gateway.core.errors import Conflict, Forbidden, InvalidRequest, Problem, RateLimited, Unavailable
from gateway.core.holds import Refusal, Refused
from gateway.core.invoices import payment_hash_of
from gateway.core.money import Rate
from gateway.core.refunds import (
    Refund,
    RefundCaps,
    RefundPolicy,
    RefundState,
    TooManyRefunds,
    amount_of_rest,
    check_invoice,
    fee_limit_msat,
)
from gateway.flows.crediting import Crediting
from gateway.flows.payouts import Driven, Payouts
from gateway.flows.together import Together
from gateway.flows.verifying import NeedsChallenge, VerifiedPayer
from gateway.ports import Ledger, LightningNode, PaymentRequest, RefundBook, System

log = logging.getLogger("farebox.lightning")

# A BOLT11 invoice with every field and many route hints stays below it.
GREATEST_INVOICE_CHARACTERS = 4_096
SWEEP_PAUSE_S = 5.0
_AGAIN = frozenset({Refusal.NO_ACCOUNT, Refusal.CREDIT_UNKNOWN, Refusal.RATE_CHANGED})


class Refunder:
    """Pays refunds and sees unfinished ones through."""

    def __init__(
        self,
        *,
        policy: Callable[[], RefundPolicy],
        node: LightningNode,
        ledger: Ledger,
        crediting: Crediting,
        book: RefundBook,
        system: System,
    ) -> None:
        self._policy = policy
        self._node = node
        self._ledger = ledger
        self._crediting = crediting
        self._book = book
        self._system = system
        self._payouts = Payouts(policy=policy, node=node, ledger=ledger, book=book, system=system)
        self._drives: Together[Driven] = Together()
        self._retries: dict[bytes, tuple[float, float]] = {}  # payment hash -> next try, pause; both seconds

    async def refund(self, payer: VerifiedPayer, payment_request: str) -> Refund | NeedsChallenge:
        """Pay this invoice from the payer's credit, or say how the refund of it stands. NeedsChallenge: the token was
        never paid.

        Errors: Forbidden (attenuated), InvalidRequest (the invoice, or not enough), Conflict (another account's, or
        paid otherwise), RateLimited (caps), Unavailable.
        """
        if payer.attenuated:
            raise Forbidden("A refund needs the token as it was issued, without caveats of your own.")
        payment_request = _plain(payment_request)
        for _ in range(3):
            refund = await self._intent(payer, payment_request)
            if isinstance(refund, NeedsChallenge):
                return refund
            if refund.account != payer.account:
                raise Conflict("This invoice belongs to another refund.")
            driven = await self._answer_in_time(refund)
            refusal = driven[1]
            if refusal is None or refusal.reason not in _AGAIN:
                break
            mended = await self._mend(payer, refusal)
            if isinstance(mended, NeedsChallenge):
                return mended
        return _ended(*driven)

    async def _intent(self, payer: VerifiedPayer, payment_request: str) -> Refund | NeedsChallenge:
        """The refund of this invoice as it stands, begun if there is none."""
        payment_hash = payment_hash_of(payment_request)
        if payment_hash is None:
            raise InvalidRequest("payment_request is a BOLT11 invoice.", param="payment_request")
        before = await self._book.find(payment_hash)
        if before is not None and before.state is not RefundState.REFUSED:
            return before
        policy, request = self._policy(), await self._decode(payment_request)
        rate = await self._crediting.rate_of(payer)
        if isinstance(rate, NeedsChallenge):
            return rate
        amount_msat = await self._amount(policy, payer, request)
        if (await self._node.track(payment_hash)).state != "unknown":
            raise Conflict("This invoice was paid, or is being paid, by other means.")
        durability = await self._book.durability(payer.account)
        if durability.never:
            raise Unavailable("The store keeps nothing on disk; no refund can be sent.", code="store_not_durable")
        refund = Refund(
            payment_hash=payment_hash,
            payment_request=payment_request,
            destination=request.destination,
            account=payer.account,
            token_id=payer.token,
            credit_id=payer.credit_id,
            amount_msat=amount_msat,
            fee_limit_msat=fee_limit_msat(policy, amount_msat),
            rate_microusd_per_btc=rate.microusd_per_btc,
            expires_at_s=request.expires_at_s,
            names_amount=bool(request.amount_msat),
            run_id=durability.run_id,
        )
        caps = RefundCaps(policy.in_flight_in_all, policy.in_flight_per_destination)
        intended = await self._book.intend(refund, caps)
        if isinstance(intended, TooManyRefunds):
            where = "to this destination" if intended.per_destination else "in all"
            raise RateLimited(f"Too many refunds {where} are under way.", retry_after_s=30)
        return intended

    async def _decode(self, payment_request: str) -> PaymentRequest:
        request = await self._node.decode(payment_request)
        check_invoice(
            self._policy(),
            expires_at_s=request.expires_at_s,
            final_cltv_delta=request.final_cltv_delta,
            now_s=int(self._system.now_s()),
        )
        if request.destination == await self._node.identity():
            raise InvalidRequest("The invoice is our own; send one of your wallet's.", param="payment_request")
        return request

    async def _amount(self, policy: RefundPolicy, payer: VerifiedPayer, request: PaymentRequest) -> int:
        """What the invoice asks for, else all that is left; never more than what is left less the greatest fee."""
        balance = await self._ledger.balance(payer.account)
        available = balance.available if balance is not None else 0
        most = amount_of_rest(policy, available)
        amount = request.amount_msat or most
        if not policy.least_amount_msat <= amount or amount + fee_limit_msat(policy, amount) > available:
            raise InvalidRequest(
                f"At least {policy.least_amount_msat} msat and at most {most} msat can be refunded now.",
                param="payment_request",
                members={"refundable_msat": most, "available_msat": available},
            )
        return amount

    async def _mend(self, payer: VerifiedPayer, refused: Refused) -> Rate | NeedsChallenge:
        """What `place` wanted before it could hold."""
        if refused.reason is Refusal.RATE_CHANGED and refused.rate is not None:
            self._crediting.note_rate(payer.account, refused.rate)
            return refused.rate
        return await self._crediting.credit(payer)

    async def _answer_in_time(self, refund: Refund) -> Driven:
        """How it stands after a while; the drive goes on without whoever waits."""
        drive = self._drives.run(refund.payment_hash, partial(self._payouts.drive, refund))
        try:
            return await asyncio.wait_for(drive, self._policy().answer_within_s)
        except TimeoutError:
            return await self._book.find(refund.payment_hash) or refund, None

    async def see_through(self) -> None:
        """Take unfinished refunds on, for ever; each again after a growing pause."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("refunds wait: %s", error.detail)
            await asyncio.sleep(SWEEP_PAUSE_S)

    async def sweep(self) -> int:
        """One round over unfinished refunds; how many there are."""
        unfinished = await self._book.unfinished()
        self._retries = {one: self._retries[one] for one in unfinished if one in self._retries}
        for payment_hash in unfinished:
            next_s, pause_s = self._retries.get(payment_hash, (0.0, self._policy().first_retry_s))
            now_s = self._system.now_s()
            if now_s < next_s:
                continue
            self._retries[payment_hash] = now_s + pause_s, min(pause_s * 2, self._policy().greatest_retry_s)
            refund = await self._book.find(payment_hash)
            if refund is not None:
                await self._drives.run(payment_hash, partial(self._payouts.drive, refund))
        return len(unfinished)


def _plain(payment_request: str) -> str:
    text = payment_request.strip().lower().removeprefix("lightning:")
    if not text.startswith("ln") or len(text) > GREATEST_INVOICE_CHARACTERS:
        raise InvalidRequest("payment_request is a BOLT11 invoice.", param="payment_request")
    return text


def _ended(refund: Refund, refused: Refused | None) -> Refund:
    """The refund, or why nothing could be held for it."""
    if refused is None:
        return refund
    problem: Problem
    match refused.reason:
        case Refusal.REVOKED:
            problem = Forbidden("The token is revoked.")
        case Refusal.FROZEN | Refusal.MEMORY:
            problem = Unavailable("No money can be moved now.", code="frozen", retry_after_s=30)
        case Refusal.INSUFFICIENT | Refusal.DEBT:
            detail = "There is not enough left for this amount and its greatest fee."
            problem = InvalidRequest(detail, param="payment_request", members={"available_msat": refused.available})
        case _:
            problem = Conflict("The refund cannot be held now; try again.")
    raise problem
