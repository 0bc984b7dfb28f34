"""Quotes: offered before the work, answered by whoever may, used by one hold.

Nobody is trusted to say what they approve: the quote is bound to the request by its digest, to the person, to the price
book and to an expiry, and the ledger checks it again in the step that reserves the money. A yes that takes more than a
click (`step_up`, or two persons) takes a proof of each person who gives it: a name in a header is none. Asking again
gets the quote that waits already, so that asking fills no store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.approvals import ApprovalPolicy
from gateway.core.directory import AuditEntry, Permission, Principal
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound, PaymentRequired, RateLimited
from gateway.core.estimates import quote_object
from gateway.core.money import Unit, money_object, usd_string
from gateway.core.quotes import Quote, QuoteState, Tier
from gateway.ports import System

_ANSWER_ATTEMPTS = 5
_QUOTE_ID_BYTES = 13
# Of one payer; each is about 2 KB for an hour and a quarter.
WAITING_MOST = 100
# Somebody who asks the same at this very moment has written the quote within this time.
_SAME_MOMENT_LOOKS, _SAME_MOMENT_S = 20, 0.02

# Proves who approves: raises Problem where the proof is not good; gives the method. The words say what it is for.
Prove = Callable[[Principal, Mapping[str, Any], str], Awaitable[str]]


class Quotes(Protocol):
    """Where quotes are kept."""

    async def put(self, quote: Quote, *, told: bytes = b"") -> None: ...
    async def claim(self, quote: Quote, *, life_ms: int) -> str | None:
        """Be the one that asks this of the payer: None, or the id of the quote that does already."""
        ...

    async def unclaim(self, quote: Quote, *, holder: str = "") -> None:
        """Give that up again (`holder` ""), or take it from a quote that no longer waits."""
        ...

    async def count_waiting(self, quote: Quote, *, now_ms: int) -> int: ...
    async def find(self, quote_id: str) -> Quote | None: ...
    async def answer(self, before: Quote, after: Quote, audit: AuditEntry, *, event: tuple[str, bytes]) -> bool: ...


class Quoting:
    """Offers quotes and takes answers."""

    def __init__(
        self,
        *,
        quotes: Quotes,
        policy: Callable[[], ApprovalPolicy],
        system: System,
        prove: Prove,
    ) -> None:
        self._quotes = quotes
        self._policy = policy
        self._system = system
        self._prove = prove

    async def offer(self, quote: Quote) -> Quote:
        """A quote that waits: the one that asks the same already, else a fresh one (its id, times and state are set
        here), of which is told. Errors: RateLimited where too many of this payer wait."""
        now_ms = self._now_ms()
        quote_id = f"q_{quote.org_id.rpartition('_')[2][:2]}{self._system.token_hex(_QUOTE_ID_BYTES)}"
        fresh = replace(
            quote,
            quote_id=quote_id,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + self._policy().quote_lifetime_s * 1_000,
            state=QuoteState.OPEN,
        )
        same = await self._same(fresh)
        if same is not None:
            return same
        await self._quotes.put(fresh, told=msgspec.json.encode(quote_members(fresh)))
        return fresh

    async def _same(self, fresh: Quote) -> Quote | None:
        """The quote that asks the same already; None where the fresh one now does."""
        life_ms = self._policy().quote_lifetime_s * 1_000
        for _ in range(_SAME_MOMENT_LOOKS):
            earlier = await self._quotes.claim(fresh, life_ms=life_ms)
            if earlier is None:
                break
            found = await self._quotes.find(earlier)
            if found is None:
                await asyncio.sleep(_SAME_MOMENT_S)
            elif found.state is QuoteState.OPEN and self._now_ms() < found.expires_at_ms:
                return found
            else:
                await self._quotes.unclaim(fresh, holder=earlier)
        if await self._quotes.count_waiting(fresh, now_ms=self._now_ms()) >= WAITING_MOST:
            message = f"{WAITING_MOST} quotes of this payer wait for an answer, which is the most at once"
            await self._quotes.unclaim(fresh)
            raise RateLimited(message, retry_after_s=60)
        return None

    def problem(self, quote: Quote, base_url: str) -> PaymentRequired:
        """The 402 that asks for an approval. `base_url`: where we are reached."""
        code = "step_up_required" if quote.tier is Tier.STEP_UP else "approval_required"
        why = {
            "tier": "this request may cost more than goes without asking",
            "cumulative": "what was spent without asking within the hour is used up",
            "budget": "a budget that asks at its limit is used up",
        }[quote.reason]
        return PaymentRequired(
            f"{why}: approve the quote and retry with Farebox-Quote",
            code=code,
            members={
                "cost": money_object(quote.estimate.expected, Unit.NANOUSD),
                "quote": quote_object(quote),
                "tier": quote.tier.value,
                "reason": quote.reason,
                "two_persons": quote.two_persons,
                "approve_url": f"{base_url}/api/quotes/{quote.quote_id}/approve",
            },
        )

    async def find(self, quote_id: str) -> Quote | None:
        """A quote as it stands."""
        return await self._quotes.find(quote_id)

    async def shown_to(self, principal: Principal, quote_id: str) -> Quote:
        """A quote for whoever may see it. Errors: NotFound(unknown_quote); Forbidden(foreign_quote)."""
        quote = await self._quotes.find(quote_id)
        if quote is None or quote.org_id != principal.org_id:
            raise NotFound("there is no such quote", code="unknown_quote", param="quote_id")
        own = not principal.person_id or principal.person_id == quote.person_id
        if not own and not quote.two_persons:
            raise Forbidden("this quote belongs to another person", code="foreign_quote")
        return quote

    async def approve(
        self, principal: Principal, quote_id: str, approved_max: int | None, proof: Mapping[str, Any]
    ) -> Quote:
        """Say yes, up to `approved_max` (None: the quote's maximum). Errors: Problem, each with its own code; nothing
        has changed then."""
        for _ in range(_ANSWER_ATTEMPTS):
            quote = await self.shown_to(principal, quote_id)
            # More than the request can cost buys nothing more.
            most = min(quote.estimate.most if approved_max is None else approved_max, quote.estimate.most)
            if most <= 0:
                raise InvalidRequest("must be above zero", param="approved_max")
            if most < quote.estimate.least:
                least = usd_string(quote.estimate.least)
                raise InvalidRequest(f"the request costs {least} USD at least", param="approved_max")
            by = principal.person_id or f"key {principal.key_id}"
            if self._said_so(quote, by, most, proof):
                return quote
            self._must_be_open(quote)
            self._may_approve(principal, quote, by)
            method = await self._proven(principal, quote, most, proof)
            approvers = (*quote.approved_by, by)
            enough = len(approvers) >= (2 if quote.two_persons else 1)
            after = replace(
                quote,
                state=QuoteState.APPROVED if enough else QuoteState.OPEN,
                approved_max=min(most, quote.approved_max) if quote.approved_by else most,
                approved_by=approvers,
            )
            if await self._write(principal, quote, after, "quote.approve", method):
                return after
        raise Conflict("others are answering this quote; look at it again", members={"state": "open"})

    def _said_so(self, quote: Quote, by: str, most: int, proof: Mapping[str, Any]) -> bool:
        """Whether this very yes was given already, and nobody claims to have proved anything anew."""
        if proof or quote.tier is Tier.STEP_UP or quote.state not in (QuoteState.OPEN, QuoteState.APPROVED):
            return False
        return by in quote.approved_by and most == quote.approved_max

    async def refuse(self, principal: Principal, quote_id: str) -> Quote:
        """Say no. Errors: Problem."""
        for _ in range(_ANSWER_ATTEMPTS):
            quote = await self.shown_to(principal, quote_id)
            if quote.state is QuoteState.REFUSED:
                return quote
            self._must_be_open(quote)
            self._may_answer(principal)
            after = replace(quote, state=QuoteState.REFUSED)
            if await self._write(principal, quote, after, "quote.refuse", _shown_by(principal)):
                return after
        raise Conflict("others are answering this quote; look at it again", members={"state": "open"})

    async def _write(self, principal: Principal, before: Quote, after: Quote, action: str, method: str) -> bool:
        audit = AuditEntry(
            at_ms=self._now_ms(),
            org_id=before.org_id,
            actor=principal.actor,
            authenticated=method,
            action=action,
            subject=before.quote_id,
            before=msgspec.json.encode(quote_members(before)),
            after=msgspec.json.encode(quote_members(after)),
        )
        event = ("", b"{}")
        if after.state is not QuoteState.OPEN:
            event = ("quote.answered", msgspec.json.encode(quote_members(after)))
        return await self._quotes.answer(before, after, audit, event=event)

    def _must_be_open(self, quote: Quote) -> None:
        if quote.state is not QuoteState.OPEN:
            message = f"this quote was {quote.state.value} already"
            raise Conflict(message, code=f"quote_{quote.state.value}", members={"state": quote.state.value})
        if self._now_ms() >= quote.expires_at_ms:
            raise Conflict("this quote has expired; ask again", code="quote_expired", members={"state": "expired"})

    def _may_answer(self, principal: Principal) -> None:
        if Permission.APPROVE not in principal.permissions:
            raise Forbidden("this key may not approve")
        if principal.vouched == "app" and not principal.operator and not self._policy().app_may_approve:
            raise Forbidden("the person must answer themselves, with a token of the identity provider")

    def _may_approve(self, principal: Principal, quote: Quote, by: str) -> None:
        self._may_answer(principal)
        if by in quote.approved_by:
            raise Forbidden("one person cannot approve twice", code="same_person")
        if quote.of_organization and principal.vouched == "jwt":
            raise Forbidden("this lifts a budget of the organization: it answers with its key", code="not_yours")
        if not quote.two_persons:
            return
        if not principal.person_id:
            raise Forbidden("this quote takes two persons; name the one who approves", code="person_needed")
        if by == quote.person_id:
            raise Forbidden("nobody approves their own request where two are needed", code="own_request")

    async def _proven(self, principal: Principal, quote: Quote, most: int, proof: Mapping[str, Any]) -> str:
        """How the approver showed who they are. Errors: Forbidden(step_up_required | step_up_failed), RateLimited."""
        shown = _shown_by(principal)
        only_named = quote.two_persons and principal.vouched != "jwt"
        if quote.tier is not Tier.STEP_UP and not only_named and not proof:
            return shown
        return f"{shown}+{await self._prove(principal, proof, bound_to(quote, most))}"

    def _now_ms(self) -> int:
        return int(self._system.now_s() * 1_000)


def _shown_by(principal: Principal) -> str:
    """How whoever answers was known before any proof."""
    return "key" if principal.vouched == "app" else principal.vouched


def bound_to(quote: Quote, approved_max: int) -> str:
    """What a passkey's challenge is made of: quote, amount and expiry."""
    return f"{quote.quote_id} {approved_max} {quote.expires_at_ms}"


def quote_members(quote: Quote) -> dict[str, Any]:
    """A quote as the API and webhooks show it."""
    return {
        **quote_object(quote),
        "quote_id": quote.quote_id,
        "state": quote.state.value,
        "tier": quote.tier.value,
        "reason": quote.reason,
        "two_persons": quote.two_persons,
        "user": quote.person_id or None,
        "session": quote.session or None,
        "model": quote.model,
        "route": quote.route,
        "approved_max": money_object(quote.approved_max, Unit.NANOUSD) if quote.approved_by else None,
        "approved_by": list(quote.approved_by),
        "lifts": list(quote.lifts),
    }
