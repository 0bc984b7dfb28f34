"""Which rule lets a request of an account through, and what it then reserves: an approved quote, an allowance, the
automatic tier; else the tier that must be asked.

Pure, and the same for a request and for one that is only explained. An approval is bound to what was looked at: the
request's own bytes and how they are read, person and price book. The failure this prevents: a yes to one thing that is
used for another.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.core.allowances import per_call
from gateway.core.approvals import ApprovalPolicy, tier_of
from gateway.core.call import Call
from gateway.core.directory import Allowance
from gateway.core.errors import InvalidRequest
from gateway.core.holds import Measure, ScopeClaim
from gateway.core.quotes import Tier, canonical, request_digest
from gateway.core.terms import Amounts, HoldPolicy, Terms, amounts_of
from gateway.flows.callers import Caller
from gateway.flows.claiming import Standing
from gateway.policies import Policies

# The rules by which somebody is asked.
ASKED = ("tier", "cumulative")


class Attempt(Struct):
    """What the next attempt to place is made with. `tried`: allowances that are used up. `whole`: all that the request
    allows or nothing, because a budget that asks is asked before an answer is cut short; streams ask in mid-stream."""

    terms: Terms
    standing: Standing
    now_ms: int
    tried: tuple[str, ...] = ()
    escalated: bool = False  # the automatic sum is used up
    whole: bool = False
    counted: bool = False
    guessed: Terms | None = None  # from before a count that is an estimate with a margin: too high to tell of

    @property
    def told(self) -> Terms:
        """What the estimate that is shown is made from."""
        return self.guessed or self.terms

    def count_input(self, found: Terms, *, exact: bool) -> None:
        """Go on with the input counted."""
        self.counted, self.guessed, self.terms = True, None if exact else self.terms, found


class Chosen(Struct, frozen=True):
    """What an attempt reserves, and under which rule: quote, allowance, auto, or the tier that must be asked."""

    amounts: Amounts
    scopes: tuple[ScopeClaim, ...]
    tier: Tier
    rule: str  # quote | allowance | auto | tier | cumulative
    allowance: Allowance | None = None


def choose(call: Call, caller: Caller, attempt: Attempt, policy: HoldPolicy, policies: Policies) -> Chosen:
    """The rule that decides about this attempt. Errors: InvalidRequest, for a quote of an upload without a digest."""
    amounts, standing, approval = amounts_of(attempt.terms, policy), attempt.standing, policies.approvals
    if caller.said.quote:
        digest = approval_digest(call, caller, policies.digest)
        quote = ScopeClaim(caller.said.quote, "", Measure.QUOTE, detail=digest)
        return Chosen(amounts, (*standing.plain, quote), tier_of(approval, amounts.ceiling), "quote")
    for allowance, scopes in standing.allowed:
        capped = _capped(attempt, amounts, per_call(allowance), approval)
        if allowance.allowance_id not in attempt.tried and capped.ceiling <= per_call(allowance):
            return Chosen(capped, scopes, Tier.AUTO, "allowance", allowance)
    capped = _capped(attempt, amounts, approval.auto_most, approval)
    tier = tier_of(approval, capped.ceiling)
    if tier is Tier.AUTO and not attempt.escalated:
        return Chosen(capped, standing.automatic, tier, "auto")
    asked = Tier.EXPLICIT if tier is Tier.AUTO else tier
    return Chosen(amounts, standing.plain, asked, "cumulative" if tier is Tier.AUTO else "tier")


def _capped(attempt: Attempt, amounts: Amounts, most: int, approval: ApprovalPolicy) -> Amounts:
    """A request that names no limit of its own costs no more than goes without asking, where that buys a useful
    answer."""
    facts = attempt.terms.facts
    if facts.session and amounts.floor <= most < amounts.ceiling:
        return Amounts(amounts.floor, amounts.first, most)  # it ends, or asks, where that is spent
    if amounts.ceiling <= most or facts.output_limit_tokens is not None or not facts.limit_can_be_spliced:
        return amounts
    useful = attempt.terms.bound(approval.least_auto_tokens * facts.choices)
    if useful > most or amounts.floor > most:
        return amounts
    return Amounts(amounts.floor, min(amounts.first, most), most)


def approval_digest(call: Call, caller: Caller, prices: str) -> str:
    """What an approval of this request is bound to. Errors: InvalidRequest for an upload that does not say which bytes
    it is: approved is what was looked at, not what has its length. Of a form the Content-Type counts too: with another
    boundary the same bytes are other fields."""
    if call.upload is not None and not call.upload_digest:
        message = "an upload that takes an approval names its bytes: Content-Digest: sha-256=:...: (RFC 9530)"
        raise InvalidRequest(message, param="content-digest")
    body = canonical(call.body) if call.upload is None else b"upload " + call.upload_digest.encode()
    content_type = b", ".join(value for name, value in call.headers if name == b"content-type")
    is_form = call.upload is not None or content_type[:10].lower() == b"multipart/"  # small ones of raw routes too
    return request_digest(
        method=call.method, path=call.path, query=call.query, body=body,
        content_type=content_type if is_form else b"", person_id=caller.person_id,
        key_org=caller.key.org_id, prices=prices,
    )  # fmt: skip
