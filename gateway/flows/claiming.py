"""What a request of an account reserves beside money: budgets, caps, the day's usage; and what makes it allowed without
being asked: an allowance, or the automatic tier's running sum. All of it is checked in one step with the money.

Choosing the claims is pure and remembered until the first of their windows ends; whoever remembers wrongly is told by
the guards.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.allowances import AllowanceFacts, allowance_claims, matches
from gateway.core.approvals import ApprovalPolicy, cumulative_claims
from gateway.core.budgets import BudgetFacts, claims_for, holding_claims, usage_claim
from gateway.core.directory import Allowance, OrgView, PersonView
from gateway.core.holds import Guard, ScopeClaim
from gateway.core.windows import day_at
from gateway.flows.callers import Caller
from gateway.flows.directory import Directory

# Combinations of key, person, session and model that a worker remembers: about 2 KB each.
REMEMBERED_MOST = 8_192
_FOREVER_MS = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands for every request of a combination until `valid_until_ms`. `allowed`: each allowance that fits, with
    the claims of a request within it; `automatic`: those of a request that nobody is asked about; `plain` has neither,
    for a request that shows an approved quote."""

    org: OrgView
    person: PersonView | None
    policy: ApprovalPolicy
    plain: tuple[ScopeClaim, ...]
    automatic: tuple[ScopeClaim, ...]
    allowed: tuple[tuple[Allowance, tuple[ScopeClaim, ...]], ...]
    guards: tuple[Guard, ...]
    asks: tuple[str, ...]  # budgets that ask at their limit
    valid_until_ms: int


class Claiming:
    """Chooses claims, and remembers what it chose."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._known: dict[tuple[str, str, str, str, tuple[str, ...]], Standing] = {}

    def standing(
        self, caller: Caller, policy: ApprovalPolicy, *, model: str, names: tuple[str, ...], now_ms: int
    ) -> Standing:
        """What stands for this caller and model now. `names`: what a route glob may fit."""
        session, person_id = caller.said.session, caller.person_id
        identity = (caller.key.key_id, person_id, session, model, names)
        known = self._known.get(identity)
        if (
            known is not None
            and now_ms < known.valid_until_ms
            and known.org is caller.org
            and known.person is caller.person
            and known.policy is policy
        ):
            return known
        if len(self._known) >= REMEMBERED_MOST:
            self._known.clear()
        facts = BudgetFacts(caller.key.org_id, caller.key.key_id, person_id, session, "", model)
        found = self._known[identity] = self._choose(caller, policy, facts, names, now_ms)
        return found

    def _choose(
        self, caller: Caller, policy: ApprovalPolicy, facts: BudgetFacts, names: tuple[str, ...], now_ms: int
    ) -> Standing:
        org = caller.org.org
        claims, valid_until_ms = claims_for(caller.org, caller.person, facts, now_ms)
        day, day_ends_ms = day_at(org.time_zones, now_ms)
        usage = usage_claim(caller.account, day, model=facts.model, person_id=facts.person_id, key_id=facts.key_id)
        plain = (*claims, *holding_claims(org, caller.account, facts.key_id, facts.person_id), usage)
        automatic = cumulative_claims(policy, org.org_id, caller.actor, now_ms)
        asked = AllowanceFacts(facts.session, facts.model, names)
        allowances = caller.person.allowances if caller.person is not None else ()
        fitting = [each for each in allowances if matches(each, asked, now_ms)]
        ends = [each.expires_at_ms for each in allowances if each.expires_at_ms > now_ms]
        cumulative_ends = automatic[0].window_ends_at_ms or _FOREVER_MS
        return Standing(
            org=caller.org,
            person=caller.person,
            policy=policy,
            plain=plain,
            automatic=plain + automatic,
            allowed=tuple((each, plain + allowance_claims(each)) for each in fitting),
            asks=tuple(claim.budget_id for claim in claims if claim.on_exceed == "ask" and claim.budget_id),
            guards=self._directory.guards(caller.org, caller.person),
            valid_until_ms=min(valid_until_ms, day_ends_ms, cumulative_ends, *ends) if ends
            else min(valid_until_ms, day_ends_ms, cumulative_ends),
        )  # fmt: skip
