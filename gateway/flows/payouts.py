"""A refund on its way: held, durable, sent, and then whatever the node says.

From the moment that something was sent the node's word decides. `failed` and `unknown` give the money back only once
the invoice has expired plus a margin, because until then a worker that froze in the middle may wake and send; before
that the same invoice is simply sent again (the node pays a hash once). A payment in flight stays so until the node
says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.core.holds import PlaceHold, Refused
from gateway.core.money import Rate
from gateway.core.refunds import UNFINISHED, Refund, RefundPolicy, RefundState, is_durable, may_give_up
from gateway.ports import Ledger, LightningNode, Payment, RefundBook, System

log = logging.getLogger("farebox.lightning")

# How often the store is asked whether an intent is on disk.
DURABILITY_POLL_S = 0.25
# What a drive takes besides the attempt itself; after it another worker may try.
LOCK_MARGIN_S = 60
# A hold of a refund ends with its refund; this only bounds a hold that nobody ends.
HOLD_MARGIN_S = 30 * 86_400

Driven = tuple[Refund, Refused | None]


class Payouts:
    """Takes refunds as far as they go."""

    def __init__(
        self,
        *,
        policy: Callable[[], RefundPolicy],
        node: LightningNode,
        ledger: Ledger,
        book: RefundBook,
        system: System,
    ) -> None:
        self._policy = policy
        self._node = node
        self._ledger = ledger
        self._book = book
        self._system = system
        self._holder = system.token_hex(8)

    async def drive(self, refund: Refund) -> Driven:
        """One worker at a time takes a refund as far as it goes now."""
        life_ms = (self._policy().attempt_timeout_s + LOCK_MARGIN_S) * 1_000
        if refund.state not in UNFINISHED:
            return refund, None
        if not await self._book.lock(refund.payment_hash, self._holder, life_ms=life_ms):
            return refund, None
        try:
            current = await self._book.find(refund.payment_hash) or refund
            if current.state is RefundState.INTENDED:
                held = await self._hold(current)
                if isinstance(held, Refused):
                    gone = current.at(RefundState.REFUSED)
                    return await self._book.advance(gone, expected=RefundState.INTENDED), held
                current = held
            if current.state is RefundState.HELD:
                current = await self._send(current)
            return current, None
        finally:
            await self._book.unlock(refund.payment_hash, self._holder)

    async def _hold(self, refund: Refund) -> Refund | Refused:
        """Reserve the amount and its greatest fee under the refund's own hold."""
        placed = await self._ledger.place(self.place(refund))
        if isinstance(placed, Refused):
            return placed
        return await self._book.advance(refund.at(RefundState.HELD), expected=RefundState.INTENDED)

    def place(self, refund: Refund) -> PlaceHold:
        """The hold of a refund: amount and greatest fee, owned by the refund, so that no sweep expires it."""
        most = refund.greatest_cost_msat
        life_ms = (self._policy().greatest_life_s + HOLD_MARGIN_S) * 1_000
        return PlaceHold(
            hold_id=refund.hold_id,
            account=refund.account,
            floor=most,
            first=most,
            ceiling=most,
            rate=Rate(refund.rate_microusd_per_btc),
            credit_id=refund.credit_id,
            token_id=refund.token_id,
            owner=f"refund:{refund.payment_hash.hex()}",
            lifetime_ms=life_ms,
            greatest_age_ms=life_ms,
        )

    async def _send(self, refund: Refund) -> Refund:
        """Ask the node first, send if nothing is under way, then write down what it says."""
        payment = await self._node.track(refund.payment_hash)
        if payment.state in ("failed", "unknown"):
            if may_give_up(refund, self._policy(), now_s=int(self._system.now_s())):
                return await self._give_up(refund)
            if int(self._system.now_s()) >= refund.expires_at_s:
                return refund
            durable = await self._until_durable(refund)
            if durable is None:
                return refund
            refund, payment = durable, await self._pay(durable)
        if payment.state == "succeeded":
            return await self._settle(refund, payment)
        return refund

    async def _until_durable(self, refund: Refund) -> Refund | None:
        """Wait until intent and hold are certainly on disk; written anew where the store has restarted since."""
        polls = int(self._policy().durable_after_ms / 1_000 / DURABILITY_POLL_S) + 8
        for _ in range(polls):
            durability = await self._book.durability(refund.account)
            if is_durable(refund, durability, self._policy()):
                return refund
            if durability.run_id != refund.run_id:
                refused = await self._ledger.place(self.place(refund))
                if isinstance(refused, Refused):
                    log.error("a refund lost its hold: %s, %s", refund.payment_hash.hex(), refused.reason)
                    return None
                again = refund.at(RefundState.HELD, run_id=durability.run_id)
                refund = await self._book.advance(again, expected=RefundState.HELD)
                if refund.state is not RefundState.HELD:
                    return None
            await asyncio.sleep(DURABILITY_POLL_S)
        return None

    async def _pay(self, refund: Refund) -> Payment:
        policy = self._policy()
        return await self._node.pay(
            refund.payment_request,
            amount_msat=None if refund.names_amount else refund.amount_msat,
            fee_limit_msat=refund.fee_limit_msat,
            timeout_s=policy.attempt_timeout_s,
            cltv_limit=policy.cltv_limit,
        )

    async def _settle(self, refund: Refund, payment: Payment) -> Refund:
        """Charge amount and real fee, once: the hold's id is the refund's."""
        amount_msat = payment.amount_msat or refund.amount_msat
        cost_msat = amount_msat + payment.fee_msat
        # An open hold is never forgotten; one that is was charged before, by a worker that did not get to say so.
        if await self._ledger.hold(refund.hold_id) is not None:
            posted = await self._ledger.post(refund.hold_id, cost_msat, account=refund.account)
            if isinstance(posted, Refused):
                log.error("a refund was paid and not posted: %s, %s", refund.payment_hash.hex(), posted.reason)
                return refund
            if posted.state == "voided":
                log.error("a refund was paid after it was given up: %s", refund.payment_hash.hex())
                debit_id = f"refund-{refund.payment_hash.hex()}"
                await self._ledger.debit(debit_id, refund.account, cost_msat, cause="refund")
        paid = refund.at(RefundState.PAID, amount_msat=amount_msat, fee_msat=payment.fee_msat)
        return await self._book.advance(paid, expected=RefundState.HELD)

    async def _give_up(self, refund: Refund) -> Refund:
        voided = await self._ledger.void(refund.hold_id, account=refund.account)
        if isinstance(voided, Refused) or voided.state != "voided":
            log.error("a failed refund could not be voided: %s, %s", refund.payment_hash.hex(), voided)
            return refund
        return await self._book.advance(refund.at(RefundState.FAILED), expected=RefundState.HELD)
