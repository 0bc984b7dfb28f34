"""Accounts at the counter: what a request with an app key may cost, who agreed to it, and its hold.

Order: hard limits, allowance, tier. All budgets, the allowance or the automatic sum, an approved quote and the versions
of everything remembered are checked in the one step that reserves the money. What can be mended without anybody is
mended here (a directory that changed, a window that ended, a plan's period that is over, an input counted too
coarsely) before anything is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.core.allowances import allowance_scope
from gateway.core.approvals import automatic_scope
from gateway.core.call import Call
from gateway.core.errors import Unavailable
from gateway.core.estimates import estimate, quote_header
from gateway.core.facts import RequestFacts
from gateway.core.holds import Placed, PlaceHold, Refusal, Refused
from gateway.core.ids import hold_of_request, quote_of_request
from gateway.core.money import NO_RATE, Unit
from gateway.core.price_cards import PriceCard
from gateway.core.quotes import Estimate, Quote, Tier
from gateway.core.request_record import labels_json
from gateway.core.routing import Match
from gateway.core.terms import HoldPolicy, Terms
from gateway.flows.account_refusals import AccountRefusals, lifts_of_organization
from gateway.flows.asking import AskDesk, Asker
from gateway.flows.callers import Caller, Callers
from gateway.flows.choosing import ASKED, Attempt, Chosen, approval_digest, choose
from gateway.flows.claiming import Claiming, Standing
from gateway.flows.counting import Counting
from gateway.flows.limits import Counters, refusal_of
from gateway.flows.settling import Work
from gateway.policies import Policies
from gateway.ports import Ledger, System

# Each thing that can be mended once, and some more for races. An allowance that is used up takes none of them.
PLACE_ATTEMPTS = 8
_TOO_LITTLE = frozenset({Refusal.LIMIT, Refusal.INSUFFICIENT})


class Request(Protocol):
    """What of an admitted request matters here."""

    match: Match
    facts: RequestFacts
    card: PriceCard | None
    provider: str | None


class Renewing(Protocol):
    """Begins a plan's next period."""

    async def renew(self, caller: Caller) -> None: ...


class AccountDesk:
    """Places the holds of callers."""

    def __init__(
        self,
        *,
        callers: Callers,
        claiming: Claiming,
        refusals: AccountRefusals,
        renewing: Renewing,
        asking: AskDesk,
        ledger: Ledger,
        counters: Counters,
        counting: Counting,
        policies: Callable[[], Policies],
        system: System,
    ) -> None:
        self.callers = callers
        self._claiming = claiming
        self._refusals = refusals
        self._renewing = renewing
        self._asking = asking
        self._ledger = ledger
        self._counters = counters
        self._counting = counting
        self._policies = policies
        self._system = system
        self._voiding: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def knows_identity(self) -> bool:
        """Whether tokens of an identity provider say anything here."""
        return self.callers.knows_identity

    async def place(self, call: Call, caller: Caller, request: Request, policy: HoldPolicy) -> Work:
        """Reserve what the request may cost. Errors: PaymentRequired, Forbidden, RateLimited, Conflict, Unavailable."""
        if request.card is None:
            raise Unavailable("a request without a price reached the ledger", code="internal")
        await self.callers.with_person(caller)
        now_ms = int(self._system.now_s() * 1_000)
        terms = Terms(request.card, request.facts, Unit.NANOUSD, NO_RATE)
        attempt = Attempt(terms, self._standing(call, caller, request, now_ms), now_ms)
        attempt.whole = bool(attempt.standing.asks) and not (request.facts.stream and request.facts.shows_all)
        attempts_left = PLACE_ATTEMPTS - 1
        while True:
            chosen = choose(call, caller, attempt, policy, self._policies())
            if chosen.rule in ASKED and await self._count(call, request, attempt):
                continue  # what the bytes could have cost may take a yes, and what was counted none
            hold = self._hold(call, caller, request, attempt, chosen, policy)
            placed_at_s = self._loop.time()
            answer: Placed | Refused | None
            if chosen.rule in ASKED:
                answer = await self._refusal(caller, hold, attempt.now_ms)
                if answer is None:
                    raise await self._ask(call, caller, request, attempt, chosen, policy, lifts=())
            else:
                answer = await self._place(hold)
            if isinstance(answer, Placed):
                if answer.granted < hold.ceiling and not attempt.counted:
                    closer = await self._counting.closer(request, attempt.terms, call)
                    attempt.count_input(closer, exact=self._counting.is_exact(request))
                return self._work(call, caller, attempt, chosen, policy, answer, placed_at_s)
            if attempt.whole and answer.reason in _TOO_LITTLE and not _asks(answer):
                attempt.whole = False  # where nobody is asked, less is better than nothing
                continue
            tried = attempt.tried
            if not attempts_left or not await self._mended(call, caller, request, attempt, answer):
                raise await self._refused(call, caller, request, attempt, chosen, policy, answer)
            if attempt.tried == tried:
                attempts_left -= 1

    async def _refusal(self, caller: Caller, hold: PlaceHold, now_ms: int) -> Refused | None:
        """What refuses a request that would be asked about: nobody is asked to approve what a limit refuses in any
        case, nor what a key asks for that was revoked meanwhile. No hold checks the guards here."""
        if not await self.callers.is_fresh(caller):
            return Refused(Refusal.DIRECTORY_CHANGED)
        return await refusal_of(self._counters, self._ledger, caller.key.org_id, hold, now_ms)

    async def _place(self, hold: PlaceHold) -> Placed | Refused:
        try:
            return await self._ledger.place(hold)
        except BaseException:
            self._void_later(hold)
            raise

    def _standing(self, call: Call, caller: Caller, request: Request, now_ms: int) -> Standing:
        match = request.match
        model = request.card.model if request.card is not None else ""
        names = (call.path, match.route.path, match.operation.value, match.upstream_name)
        return self._claiming.standing(caller, self._policies().approvals, model=model, names=names, now_ms=now_ms)

    async def _mended(self, call: Call, caller: Caller, request: Request, attempt: Attempt, refused: Refused) -> bool:
        """Whether another attempt is worth it, and what it is made with."""
        hit = refused.limit
        match refused.reason:
            case Refusal.DIRECTORY_CHANGED | Refusal.NO_BUDGET:
                await self.callers.refresh(caller)
                self.callers.admit(call, caller, request.match, request.card.model if request.card else "")
            case Refusal.STALE_WINDOW if hit is not None:
                # The store's clock says that the window has ended: it decides.
                attempt.now_ms = max(attempt.now_ms, hit.resets_at_ms or 0)
                if hit.scope in (allowance_scope(each) for each, _ in attempt.standing.allowed):
                    attempt.tried += tuple(each.allowance_id for each, _ in attempt.standing.allowed
                                           if allowance_scope(each) == hit.scope)  # fmt: skip
            case Refusal.PERIOD_OVER:
                await self._renewing.renew(caller)
            case Refusal.LIMIT | Refusal.INSUFFICIENT if await self._count(call, request, attempt):
                pass
            case Refusal.LIMIT if hit is not None:
                used_up = [each for each, _ in attempt.standing.allowed if allowance_scope(each) == hit.scope]
                if used_up:
                    attempt.tried += tuple(each.allowance_id for each in used_up)
                elif hit.scope == automatic_scope(caller.key.org_id, caller.actor):
                    attempt.escalated = True
                else:
                    return False
            case _:
                return False
        attempt.standing = self._standing(call, caller, request, attempt.now_ms)
        return True

    async def _count(self, call: Call, request: Request, attempt: Attempt) -> bool:
        """Count the input that was only bounded by its bytes so far; False where there is nothing to count any more."""
        if attempt.counted or call.upload is not None:
            return False
        found = await self._counting.counted(request, attempt.terms, call.body)
        attempt.count_input(found, exact=self._counting.is_exact(request))
        return True

    def _hold(
        self, call: Call, caller: Caller, request: Request, attempt: Attempt, chosen: Chosen, policy: HoldPolicy
    ) -> PlaceHold:
        amounts = chosen.amounts
        return PlaceHold(
            hold_id=hold_of_request(call.request_id),
            account=caller.account,
            floor=amounts.ceiling if attempt.whole and chosen.rule != "quote" else amounts.floor,
            first=amounts.first,
            ceiling=amounts.ceiling,
            rate=NO_RATE,
            scopes=chosen.scopes,
            guards=attempt.standing.guards,
            lifetime_ms=int(policy.hold_lifetime_s * 1_000),
            greatest_age_ms=int(policy.hold_greatest_age_s * 1_000),
            labels=labels_json(
                request.facts.model, request.match.dialect, request.match.route.path, caller.key.org_id,
                caller.person_id, caller.key.key_id,
            ),
        )  # fmt: skip

    def _work(
        self, call: Call, caller: Caller, attempt: Attempt, chosen: Chosen, policy: HoldPolicy, placed: Placed,
        placed_at_s: float,
    ) -> Work:  # fmt: skip
        ceiling = chosen.amounts.ceiling if placed.ceiling is None else placed.ceiling
        of = self._estimate(attempt, policy, ceiling)
        quote_id = caller.said.quote or quote_of_request(call.request_id)
        work = Work(
            call.request_id,
            placed.hold_id,
            caller.account,
            attempt.terms,
            placed.granted,
            placed.available,
            placed_at_s,
        )
        work.ceiling = ceiling
        work.quote = quote_header(quote_id, of)
        work.caller = caller
        work.asks, work.shows_balance = attempt.standing.asks, caller.sees_balance
        work.told_above = None if chosen.rule == "quote" else self._policies().approvals.notify_above
        return work

    def asker(self, work: Work, *, bears_comments: bool) -> Asker | None:
        """Who asks for more when the stream of this work comes to what was agreed; None for other payers."""
        if work.caller is None:
            return None
        return Asker(
            self._asking,
            hold_id=work.hold_id,
            org_id=work.caller.key.org_id,
            person_id=work.caller.person_id,
            ceiling=work.ceiling,
            lifts=work.asks,
            of_organization=lifts_of_organization(work.caller, work.asks),
            bears_comments=bears_comments,
        )

    def _estimate(self, attempt: Attempt, policy: HoldPolicy, most: int) -> Estimate:
        policies = self._policies()
        overhead = policies.request_limits.overhead_tokens
        return estimate(attempt.told, policy, policies.approvals, most, overhead_tokens=overhead)

    async def _ask(
        self, call: Call, caller: Caller, request: Request, attempt: Attempt, chosen: Chosen, policy: HoldPolicy,
        *, lifts: tuple[str, ...],
    ) -> Exception:  # fmt: skip
        """The 402 with a quote that waits."""
        approval, most = self._policies().approvals, chosen.amounts.ceiling
        tier = chosen.tier if chosen.tier is not Tier.AUTO else Tier.EXPLICIT
        quote = Quote(
            quote_id="",
            org_id=caller.key.org_id,
            account=caller.account,
            person_id=caller.person_id,
            key_id=caller.key.key_id,
            session=caller.said.session,
            digest=approval_digest(call, caller, self._policies().digest),
            prices=self._policies().digest,
            estimate=self._estimate(attempt, policy, most),
            tier=tier,
            reason="budget" if lifts else chosen.rule,
            lifts=lifts,
            of_organization=lifts_of_organization(caller, lifts),
            two_persons=approval.two_persons_above is not None and most > approval.two_persons_above,
            model=request.facts.model,
            route=request.match.route.path,
        )
        return await self._refusals.ask(quote, call)

    async def _refused(
        self, call: Call, caller: Caller, request: Request, attempt: Attempt, chosen: Chosen, policy: HoldPolicy,
        refused: Refused,
    ) -> Exception:  # fmt: skip
        hit = refused.limit
        if hit is not None and hit.budget_id and _asks(refused):
            before = await self._refusals.lifted_by(caller)
            return await self._ask(
                call, caller, request, attempt, chosen, policy, lifts=tuple(dict.fromkeys((*before, hit.budget_id)))
            )
        of = self._estimate(attempt, policy, chosen.amounts.ceiling)
        return await self._refusals.of(call, caller, refused, chosen.amounts, of, attempt.now_ms)

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


def _asks(refused: Refused) -> bool:
    """Whether a budget refused that asks at its limit."""
    hit = refused.limit
    return refused.reason is Refusal.LIMIT and hit is not None and hit.on_exceed == "ask" and bool(hit.budget_id)
