"""What would become of a request: which rule decides and why, in the order hard limits, allowance, tier.

Nothing is reserved, nobody is made, no quote is offered. The same choice of claims and rules as the relay's own
(`choosing.choose`), on what the limits stand at now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from gateway.core.allowances import allowance_scope
from gateway.core.approvals import automatic_scope
from gateway.core.call import Call
from gateway.core.directory import Key, OrgView, PersonView, Principal
from gateway.core.errors import Forbidden, NotFound, Problem
from gateway.core.estimates import estimate
from gateway.core.holds import Balance
from gateway.core.hypothetical import Hypothetical
from gateway.core.key_scopes import refusal_of
from gateway.core.money import NO_RATE, Unit, money_object
from gateway.core.person_headers import PersonHeaders
from gateway.core.quotes import Tier
from gateway.core.routing import ACCOUNT
from gateway.core.terms import Terms
from gateway.flows.accounts import Request
from gateway.flows.callers import Caller
from gateway.flows.choosing import ASKED, Attempt, Chosen, choose
from gateway.flows.claiming import Claiming
from gateway.flows.counting import Counting
from gateway.flows.explanations import (
    Verdict,
    allowance_members,
    approval_members,
    cost_members,
    free_members,
    limit_members,
    limit_verdict,
)
from gateway.flows.limits import Counters, LimitState, states_of
from gateway.policies import Policies
from gateway.ports import Ledger, System

# Every allowance may be used up, then the automatic sum, then the input is counted.
_ATTEMPTS = 100


class Reading(Protocol):
    """Reads a request as the relay does (`Admission.read`)."""

    def read(self, call: Call) -> Request: ...


class Store(Counters, Protocol):
    """Who there is, fresh."""

    async def org(self, org_id: str) -> OrgView | None: ...
    async def key(self, key_id: str) -> Key | None: ...
    async def person(self, org_id: str, person_id: str) -> PersonView | None: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that nobody has sent, as it was read."""

    call: Call
    request: Request
    caller: Caller
    balance: Balance | None
    now_ms: int


class Explaining:
    """Explains hypothetical requests."""

    def __init__(
        self,
        reading: Reading,
        *,
        claiming: Claiming,
        counting: Counting,
        store: Store,
        ledger: Ledger,
        policies: Callable[[], Policies],
        system: System,
    ) -> None:
        self._reading = reading
        self._claiming = claiming
        self._counting = counting
        self._store = store
        self._ledger = ledger
        self._policies = policies
        self._system = system

    async def explained(self, principal: Principal, wanted: Hypothetical) -> dict[str, Any]:
        """The answer of the HTTP contract. Errors: Problem, where no such request could be made at all."""
        call, request = self._read(wanted)
        caller = await self._caller(principal, wanted)
        if request.card is None:
            return free_members(request)
        balance = await self._ledger.balance(caller.account)
        asked = _Asked(call, request, caller, balance, int(self._system.now_s() * 1_000))
        attempt, chosen, states = await self._chosen(asked)
        verdict = self._verdict(asked, chosen, states)
        return self._shown(asked, attempt, chosen, states, verdict)

    def _read(self, wanted: Hypothetical) -> tuple[Call, Request]:
        """The first form of the question that a route serves."""
        refusal: Problem | None = None
        for call in wanted.calls:
            try:
                request = self._reading.read(call)
            except NotFound as problem:
                # That a model has no price says more than that a path is not served.
                if refusal is None or problem.code == "unknown_model":
                    refusal = problem
                continue
            request.facts = wanted.with_input(request.facts)
            return call, request
        assert refusal is not None, "there is at least one form"
        raise refusal

    async def _caller(self, principal: Principal, wanted: Hypothetical) -> Caller:
        """Who would ask; a person whom nobody has named yet stays unmade. Errors: Forbidden, NotFound."""
        if principal.person_id and wanted.user not in ("", principal.person_id):
            raise Forbidden("a person asks for themselves only", param="user")
        org = await self._store.org(principal.org_id)
        key = await self._key(principal, wanted.key_id)
        if org is None or key is None:
            raise NotFound("there is no such key", param="key")
        user = wanted.user or principal.person_id
        person = await self._store.person(principal.org_id, user) if user else None
        said, by_token = PersonHeaders(user, wanted.session or principal.session), principal.vouched == "jwt"
        return Caller("", key, org, said, user, person, by_token)

    async def _key(self, principal: Principal, key_id: str) -> Key | None:
        try:
            key = await self._store.key(key_id or principal.key_id)
        except ValueError:
            return None
        if key is not None and principal.operator and not key_id:
            return replace(key, org_id=principal.org_id)
        return key if key is not None and key.org_id == principal.org_id else None

    async def _chosen(self, asked: _Asked) -> tuple[Attempt, Chosen, list[LimitState]]:
        """The rule that decides, with what its limits stand at: what is used up makes room for the next, as in the
        relay."""
        policies, request, caller = self._policies(), asked.request, asked.caller
        assert request.card is not None, "a free request has no rule"
        match = request.match
        names = (asked.call.path, match.route.path, match.operation.value, match.upstream_name)
        standing = self._claiming.standing(
            caller, policies.approvals, model=request.card.model, names=names, now_ms=asked.now_ms
        )
        terms = Terms(request.card, request.facts, Unit.NANOUSD, NO_RATE)
        attempt = Attempt(terms, standing, asked.now_ms)
        for _ in range(_ATTEMPTS):
            chosen = choose(asked.call, caller, attempt, policies.hold, policies)
            states = await states_of(self._store, caller.key.org_id, chosen.scopes, asked.balance, asked.now_ms)
            hit = next((each for each in states if each.refuses(chosen.amounts.floor)), None)
            short = asked.balance is None or asked.balance.available < chosen.amounts.floor
            if not attempt.counted and (hit is not None or short or chosen.rule in ASKED):
                found = await self._counting.counted(request, attempt.terms, asked.call.body)
                attempt.count_input(found, exact=self._counting.is_exact(request))
            elif hit is None or not _makes_room(attempt, caller, chosen, hit):
                break
        return attempt, chosen, states

    def _verdict(self, asked: _Asked, chosen: Chosen, states: Sequence[LimitState]) -> Verdict:
        refused = self._hard(asked, chosen, states)
        if refused is not None:
            return refused
        if chosen.allowance is not None:
            why = f"the allowance {chosen.allowance.allowance_id} covers it"
            return Verdict("allow", "allowance", why, Tier.AUTO)
        most = money_object(chosen.amounts.ceiling, Unit.NANOUSD)["amount"]
        if chosen.rule == "auto":
            return Verdict("allow", "tier", f"at most {most} USD goes without asking", Tier.AUTO)
        if chosen.rule == "cumulative":
            why = "what was spent without asking within the hour is used up, so this takes a yes"
            return Verdict("ask", "cumulative", why, chosen.tier)
        takes = "a yes" if chosen.tier is Tier.EXPLICIT else "a yes with a proof of who gives it"
        return Verdict("ask", "tier", f"it may cost up to {most} USD, which takes {takes}", chosen.tier)

    def _hard(self, asked: _Asked, chosen: Chosen, states: Sequence[LimitState]) -> Verdict | None:
        """What refuses whatever anybody approves; of budgets that ask, that they do."""
        caller, request, tier = asked.caller, asked.request, chosen.tier
        model = request.card.model if request.card is not None else ""
        names = (asked.call.path, request.match.route.path, request.match.operation.value, request.match.upstream_name)
        key = replace(caller.key, addresses=())  # from where it would be asked is not asked
        reason = refusal_of(key, address="", names=names, model=model)
        if reason is None and ACCOUNT not in request.match.route.payers:
            reason = "this route does not admit accounts"
        if reason is not None:
            return Verdict("refuse", "key", reason, tier)
        if caller.org.org.suspended or (caller.person is not None and caller.person.person.suspended):
            return Verdict("refuse", "suspended", "the account or the person is suspended", tier)
        floor, asking = chosen.amounts.floor, None
        # A budget that asks is asked for all that an answer in one piece may cost; a stream asks in mid-stream.
        streams = request.facts.stream and request.facts.shows_all
        for state in states:
            asks = state.claim.on_exceed == "ask" and not state.is_paused
            if state.claim.scope == _automatic(caller):
                continue
            if asks and state.refuses(floor if streams else chosen.amounts.ceiling):
                asking = asking or state
            elif not asks and state.refuses(floor):
                return limit_verdict(caller, state, tier)
        if asked.balance is None or asked.balance.available < floor or asked.balance.debt:
            return Verdict("refuse", "balance", "the balance does not cover what it costs at least", tier)
        if asking is not None:
            why = f"the budget {asking.claim.budget_id} is used up and asks"
            return Verdict("ask", "budget", why, Tier.EXPLICIT if tier is Tier.AUTO else tier)
        return None

    def _shown(
        self, asked: _Asked, attempt: Attempt, chosen: Chosen, states: Sequence[LimitState], verdict: Verdict
    ) -> dict[str, Any]:
        policies, most = self._policies(), chosen.amounts.ceiling
        overhead = policies.request_limits.overhead_tokens
        of = estimate(attempt.told, policies.hold, policies.approvals, most, overhead_tokens=overhead)
        request, caller = asked.request, asked.caller
        automatic = [each for each in states if each.claim.scope == _automatic(caller)]
        budgets = [each for each in states if each.claim.budget_id]
        return {
            "decision": verdict.decision,
            "rule": verdict.rule,
            "why": verdict.why,
            "tier": verdict.tier.value,
            "model": request.card.model if request.card is not None else request.facts.model,
            "route": request.match.route.path,
            "cost": cost_members(of),
            "limits": [limit_members(caller, each, chosen.amounts.floor, asked.now_ms) for each in budgets],
            "allowance": allowance_members(chosen.allowance, states, asked.now_ms),
            "approvals": approval_members(policies.approvals, verdict, most, automatic),
        }


def _makes_room(attempt: Attempt, caller: Caller, chosen: Chosen, hit: LimitState) -> bool:
    """Whether another rule is tried: the next allowance, or asking."""
    if chosen.allowance is not None and hit.claim.scope == allowance_scope(chosen.allowance):
        attempt.tried += (chosen.allowance.allowance_id,)
        return True
    if hit.claim.scope == _automatic(caller):
        attempt.escalated = True
        return True
    return False


def _automatic(caller: Caller) -> str:
    """The name of the counters of what this payer spends without being asked."""
    return automatic_scope(caller.key.org_id, caller.actor)
