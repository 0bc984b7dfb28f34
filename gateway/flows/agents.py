"""Agents at the counter: who shows a credential, what it may spend, and what to ask of whoever shows none.

Everything that can be mended without the payer is mended here (a payment not yet credited, a rate that changed, an
input counted too coarsely) before anything is refused; after a valid proof our own failures are 503, never another
invoice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.core.call import Call
from gateway.core.credentials import Credential, L402Credential
from gateway.core.errors import Forbidden, Problem, Unavailable
from gateway.core.estimates import estimate, estimate_members
from gateway.core.facts import RequestFacts
from gateway.core.holds import Placed, PlaceHold, Refusal, Refused
from gateway.core.ids import hold_of_request
from gateway.core.money import MARGIN_ONE_PPM, NO_RATE, Rate, Unit, amount_of, money_object
from gateway.core.price_cards import PriceCard
from gateway.core.request_record import labels_json
from gateway.core.restrictions import RequestContext
from gateway.core.routing import Match
from gateway.core.terms import HoldPolicy, Terms, amounts_of
from gateway.flows.challenging import Challenger
from gateway.flows.counting import Counting
from gateway.flows.crediting import Crediting
from gateway.flows.settling import Work
from gateway.flows.verifying import Forbids, NeedsChallenge, VerifiedPayer, Verifier
from gateway.policies import Policies
from gateway.ports import Ledger

# What can be mended is mended once each: credit, rate, input; and one more for a race.
PLACE_ATTEMPTS = 5
_MISSING_CREDIT = frozenset({Refusal.CREDIT_UNKNOWN, Refusal.NO_ACCOUNT})


class Request(Protocol):
    """What of an admitted request matters here."""

    match: Match
    facts: RequestFacts
    card: PriceCard | None
    provider: str | None


class AgentDesk:
    """Identifies agents and places their holds."""

    def __init__(
        self,
        *,
        challenger: Challenger,
        verifier: Verifier,
        crediting: Crediting,
        ledger: Ledger,
        counting: Counting,
        policies: Callable[[], Policies],
    ) -> None:
        self._challenger = challenger
        self._verifier = verifier
        self._crediting = crediting
        self._ledger = ledger
        self._counting = counting
        self._policies = policies
        self._voiding: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()

    def known(self, credential: L402Credential, context: RequestContext) -> VerifiedPayer | None:
        """The payer behind a credential that may pay for this request; None: `identify` says why not."""
        verified = self._verifier.verify(credential, context)
        return verified if isinstance(verified, VerifiedPayer) else None

    async def identify(
        self, call: Call, credential: L402Credential, context: RequestContext, deposit: int | None
    ) -> VerifiedPayer:
        """The payer behind a credential. Errors: PaymentRequired with a fresh challenge; Forbidden; Unavailable."""
        verified = self._verifier.verify(credential, context)
        match verified:
            case VerifiedPayer():
                return verified
            case NeedsChallenge(reason, top_up_of):
                raise await self._refusal(call, reason, deposit, top_up_of=top_up_of)
            case Forbids(reason):
                raise Forbidden(reason)

    async def challenge(
        self,
        call: Call,
        credential: Credential,
        deposit: int | None,
        request: Request | None = None,
        policy: HoldPolicy | None = None,
    ) -> Problem:
        """The 402 for a request that shows nothing that we know: it asks for as much as the request needs to begin."""
        reason = (
            getattr(credential, "reason", None) or "this request must be paid: pay the invoice and retry with the proof"
        )
        rate = self._challenger.rate() if self._challenger is not None else None
        if request is None or request.card is None or policy is None or rate is None:
            return await self._refusal(call, reason, deposit)
        terms = Terms(request.card, request.facts, Unit.MSAT, rate)
        floor = amounts_of(terms, policy).floor
        if self._challenger is not None and floor > self._challenger.usual_msat and call.upload is None:
            # Counting is dear, and here nobody has paid: only where more would be asked for than usual.
            terms = terms.with_input(await self._counting.input_bound_off_loop(request, call.body))
            floor = amounts_of(terms, policy).floor
        return await self._refusal(
            call, reason, deposit, needed_msat=floor, price=_nanousd(floor, terms), members=self._quoted(terms, policy)
        )

    def _quoted(self, terms: Terms, policy: HoldPolicy) -> dict[str, object]:
        """What the request may cost, for the body of a 402."""
        policies = self._policies()
        in_usd = Terms(terms.card, terms.facts, Unit.NANOUSD, NO_RATE)
        of = estimate(
            in_usd, policy, policies.approvals, amounts_of(in_usd, policy).ceiling,
            overhead_tokens=policies.request_limits.overhead_tokens,
        )  # fmt: skip
        return {"quote": estimate_members(of)}

    async def _refusal(
        self,
        call: Call,
        reason: str,
        deposit: int | None,
        *,
        top_up_of: bytes | None = None,
        needed_msat: int = 0,
        price: int | None = None,
        members: dict[str, object] | None = None,
    ) -> Problem:
        challenge = await self._challenger.challenge(
            call.address, asked_sats=deposit, needed_msat=needed_msat, top_up_of=top_up_of
        )
        return self._challenger.refusal(challenge, reason, cost_nanousd=price, members=members)

    async def must_be_known(self, call: Call, payer: VerifiedPayer, deposit: int | None) -> None:
        """For what costs nothing: the credential must have been paid for, and not been revoked. Errors:
        PaymentRequired, Unavailable."""
        rate = await self._crediting.rate_of(payer)
        if isinstance(rate, NeedsChallenge):
            raise await self._refusal(call, rate.reason, deposit, top_up_of=rate.top_up_of)
        if await self._ledger.is_revoked(payer.token, payer.account):
            raise await self._refusal(call, "the token was revoked", deposit)

    async def place(
        self, call: Call, payer: VerifiedPayer, request: Request, deposit: int | None, policy: HoldPolicy
    ) -> Work:
        """Reserve what the request may cost. Errors: PaymentRequired (a top-up), Forbidden, Unavailable."""
        call.belong_to(payer.token[:2])
        rate = self._crediting.known_rate(payer) or await self._rate(call, payer, deposit)
        if request.card is None:
            raise Unavailable("a request without a price reached the ledger", code="internal")
        terms = Terms(request.card, request.facts, Unit.MSAT, rate)
        counted = False
        refused = Refused(Refusal.INSUFFICIENT)
        for _ in range(PLACE_ATTEMPTS):
            hold = self._hold(call, payer, request, terms, policy)
            placed_at_s = self._loop.time()
            try:
                answer = await self._ledger.place(hold)
            except BaseException:
                self._void_later(hold)
                raise
            if isinstance(answer, Placed):
                if answer.granted < hold.ceiling and not counted:
                    terms = await self._counting.closer(request, terms, call)
                return Work(
                    call.request_id, answer.hold_id, payer.account, terms, answer.granted, answer.available, placed_at_s
                )
            refused = answer
            if answer.reason in _MISSING_CREDIT:
                terms = terms.at_rate(await self._credited(call, payer, deposit))
            elif answer.reason is Refusal.RATE_CHANGED and answer.rate is not None:
                self._crediting.note_rate(payer.account, answer.rate)
                terms = terms.at_rate(answer.rate)
            elif answer.reason is Refusal.INSUFFICIENT and not counted and call.upload is None:
                counted = True
                terms = terms.with_input(await self._counting.input_bound_off_loop(request, call.body))
                request.facts = terms.facts
            else:
                break
        raise await self._refused(call, payer, refused, terms, policy, deposit)

    async def _rate(self, call: Call, payer: VerifiedPayer, deposit: int | None) -> Rate:
        rate = await self._crediting.rate_of(payer)
        if isinstance(rate, NeedsChallenge):
            raise await self._refusal(call, rate.reason, deposit, top_up_of=rate.top_up_of)
        return rate

    async def _credited(self, call: Call, payer: VerifiedPayer, deposit: int | None) -> Rate:
        rate = await self._crediting.credit(payer)
        if isinstance(rate, NeedsChallenge):
            raise await self._refusal(call, rate.reason, deposit, top_up_of=rate.top_up_of)
        return rate

    def _hold(self, call: Call, payer: VerifiedPayer, request: Request, terms: Terms, policy: HoldPolicy) -> PlaceHold:
        amounts = amounts_of(terms, policy)
        return PlaceHold(
            hold_id=hold_of_request(call.request_id),
            account=payer.account,
            floor=amounts.floor,
            first=amounts.first,
            ceiling=amounts.ceiling,
            rate=terms.rate,
            scopes=payer.claims,
            credit_id=payer.credit_id,
            token_id=payer.token,
            lifetime_ms=int(policy.hold_lifetime_s * 1_000),
            greatest_age_ms=int(policy.hold_greatest_age_s * 1_000),
            labels=labels_json(request.facts.model, request.match.dialect, request.match.route.path),
        )

    def _void_later(self, hold: PlaceHold) -> None:
        """The outcome is unknown: the void makes it nothing, also when the place arrives after it."""
        task = asyncio.ensure_future(self._void(hold))
        self._voiding.add(task)
        task.add_done_callback(self._voiding.discard)

    async def _void(self, hold: PlaceHold) -> None:
        try:
            await self._ledger.void(hold.hold_id, account=hold.account)
        except Unavailable:
            return  # the store is still away: the sweeper expires the hold, if there is one, at nothing

    async def _refused(
        self, call: Call, payer: VerifiedPayer, refused: Refused, terms: Terms, policy: HoldPolicy, deposit: int | None
    ) -> Problem:
        """What to tell a payer whose hold could not be placed."""
        match refused.reason:
            case Refusal.INSUFFICIENT:
                balance = {
                    "available": money_object(refused.available, Unit.MSAT),
                    "held": money_object(refused.held, Unit.MSAT),
                }
                amounts = amounts_of(terms, policy)
                # A delegate's top-up buys a credit of its own, on which there is nothing yet.
                there = refused.available if payer.top_up_of is not None else 0
                short = max(amounts.floor - there, 0)
                return await self._refusal(
                    call,
                    "the credit does not cover this request: pay the invoice to top it up",
                    deposit,
                    top_up_of=payer.top_up_of,
                    needed_msat=short,
                    price=_nanousd(amounts.floor, terms),
                    members={"balance": balance, **self._quoted(terms, policy)},
                )
            case Refusal.REVOKED:
                return await self._refusal(call, "the token was revoked", deposit)
            case Refusal.LIMIT:
                return Forbidden("a limit that the token carries is used up")
            case Refusal.DEBT | Refusal.TOO_MANY_SHORTFALLS:
                return Forbidden("this credit is suspended: earlier requests cost more than it could pay")
            case Refusal.FROZEN:
                return Unavailable("this credit is being reconciled", code="frozen", retry_after_s=30)
            case Refusal.MEMORY:
                return Unavailable("the store is short of memory", code="store_unavailable", retry_after_s=10)
            case _:
                return Unavailable(f"the hold was refused: {refused.reason.value}", retry_after_s=2)


def _nanousd(amount_msat: int, terms: Terms) -> int:
    """What an amount of msat is worth at the credit's rate."""
    picousd_per_msat = terms.rate.microusd_per_btc * 1_000_000 // 100_000_000_000
    return amount_of(amount_msat * picousd_per_msat, margin_ppm=MARGIN_ONE_PPM, unit=Unit.NANOUSD, rate=terms.rate)
