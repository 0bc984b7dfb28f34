"""Who may pass, and with how much reserved: facts, price, payer, hold - in this order, so that nobody pays for a bad
request.

A refusal changes nothing and says what would help: a challenge where money would, a reason where it would not, 503
where the fault is ours. A valid, paid credential is never answered with 402 for our own fault.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.call import Call
from gateway.core.challenges import asked_deposit
from gateway.core.credentials import (
    NO_CREDENTIAL,
    AppKey,
    Credential,
    IdentityToken,
    L402Credential,
    Malformed,
    NoCredential,
)
from gateway.core.dialects import gemini
from gateway.core.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound, Problem, UpgradeRequired
from gateway.core.facts import RequestFacts
from gateway.core.headers import is_grpc, speaks
from gateway.core.multipart import upload_request
from gateway.core.operations import FREE_OPERATIONS, Dialect, Operation
from gateway.core.price_cards import PriceCard
from gateway.core.prices import bills, flat_card, steps
from gateway.core.requests import read_request
from gateway.core.restrictions import RequestContext
from gateway.core.routing import AGENT, Match, MethodMismatch, RouteTable
from gateway.core.terms import Terms
from gateway.flows.accounts import AccountDesk
from gateway.flows.agents import AgentDesk
from gateway.flows.asking import Asker
from gateway.flows.settling import Work
from gateway.flows.trace import Trace
from gateway.policies import Policies
from gateway.ports import System

_UPGRADE = {"connection": "upgrade", "upgrade": "websocket"}


class Admitted(Struct):
    """A request that may pass. `work` None: it costs nothing."""

    match: Match
    facts: RequestFacts
    card: PriceCard | None
    provider: str | None
    work: Work | None = None


class Admission:
    """Admits requests. `policies` and `routes` are replaced as wholes on a reload; each request reads them once."""

    def __init__(
        self,
        *,
        routes: RouteTable,
        policies: Policies,
        agents: AgentDesk,
        accounts: AccountDesk,
        system: System,
        upload_most_bytes: int,
    ) -> None:
        self.routes = routes
        self.policies = policies
        self._agents = agents
        self._accounts = accounts
        self._system = system
        self._upload_most_bytes = upload_most_bytes

    async def admit(self, call: Call, credential: Credential, trace: Trace) -> Admitted:
        """Admit a request, its money reserved. Errors: Problem; nothing is reserved then."""
        if isinstance(credential, AppKey) or (isinstance(credential, IdentityToken) and self._accounts.knows_identity):
            return await self._admit_account(call, credential, trace)
        if isinstance(credential, IdentityToken):
            credential = NO_CREDENTIAL  # nobody here vouches for it
        deposit = asked_deposit(call.headers)
        try:
            admitted = self._asked(call, trace)
        except (InvalidRequest, MethodNotAllowed, UpgradeRequired) as refused:
            if _only_buys(call, credential, deposit, refused):
                raise await self._agents.challenge(call, credential, deposit) from None
            raise
        if not isinstance(credential, L402Credential):
            raise await self._agents.challenge(call, credential, deposit, admitted, self.policies.hold)
        if AGENT not in admitted.match.route.payers:
            raise Forbidden("this route does not admit agents")
        payer = self._agents.known(credential, context := self._context(call, admitted))
        if payer is None:
            payer = await self._agents.identify(call, credential, context, deposit)
        trace.account = payer.account
        if admitted.card is None:
            await self._agents.must_be_known(call, payer, deposit)
            call.belong_to(payer.token[:2])
            return admitted
        admitted.work = await self._agents.place(call, payer, admitted, deposit, self.policies.hold)
        return admitted

    async def _admit_account(self, call: Call, credential: AppKey | IdentityToken, trace: Trace) -> Admitted:
        """Admit a request with an app key: the key first, then the request, then its money."""
        caller = trace.caller = await self._accounts.callers.known(call, credential)
        admitted = self._asked(call, trace)
        card = admitted.card
        self._accounts.callers.admit(call, caller, admitted.match, card.model if card is not None else "")
        if card is None:
            await self._accounts.callers.check_fresh(caller)
        else:
            admitted.work = await self._accounts.place(call, caller, admitted, self.policies.hold)
        return admitted

    def read(self, call: Call) -> Admitted:
        """What a request asks for, and its prices; nothing is reserved, nobody is looked up. Errors: InvalidRequest,
        NotFound, MethodNotAllowed."""
        return self._facts(call, self._match(call))

    def asker(self, work: Work, dialect: Dialect) -> Asker | None:
        """Who asks for more when a stream comes to what was agreed."""
        return self._accounts.asker(work, bears_comments=dialect in (Dialect.OPENAI, Dialect.ANTHROPIC))

    def _asked(self, call: Call, trace: Trace) -> Admitted:
        """What the request asks for, and its prices. Errors: as `read`; UpgradeRequired."""
        match = trace.match = self._match(call)
        if match.operation is Operation.REALTIME and not call.upgrades:
            raise UpgradeRequired(f"{call.path} is served over WebSocket alone", headers=_UPGRADE)
        admitted = self._facts(call, match)
        trace.match, trace.model = admitted.match, admitted.facts.model
        return admitted

    def _match(self, call: Call) -> Match:
        found = self.routes.match(call.method, call.path)
        if found is None:
            raise NotFound(f"no route serves {call.path}", code="unknown_route")
        if isinstance(found, MethodMismatch):
            allowed = ", ".join(found.allowed)
            raise MethodNotAllowed(f"{call.path} takes {allowed}", headers={"allow": allowed})
        if found.operation is Operation.LISTING and found.others:
            return found.speaking(speaks(call.headers))
        return found

    def _facts(self, call: Call, match: Match) -> Admitted:
        """The facts and the price. Errors: InvalidRequest; NotFound(unknown_model)."""
        facts = self._read(call, match)
        if match.operation in FREE_OPERATIONS:
            return Admitted(match, facts, None, match.provider)
        unknown: NotFound | None = None
        for each in (match, *match.others) if match.others else (match,):
            if each.route.models and not each.route.takes(facts.model):
                continue
            try:
                card = self._card(each, facts)
            except NotFound as error:
                unknown = error  # another upstream of the same path may have a price for it
                continue
            # What the body does not show, a stream does not either: cut before its usage it would be nearly free.
            if facts.shows_all and (facts.unseen_input_tokens or steps(card, facts)):
                facts = replace(facts, shows_all=False)
            return Admitted(each, facts, card, each.provider)
        raise unknown or NotFound(f"the model {facts.model!r} is not served here", code="unknown_model", param="model")

    def _read(self, call: Call, match: Match) -> RequestFacts:
        limits = self.policies.request_limits
        if call.query and match.dialect is Dialect.GEMINI:
            gemini.check_query(call.query)
        if call.form is None:
            model = match.path_model or call.model
            facts = read_request(match.operation, call.body, path_model=model, limits=limits)
            unseen = facts.input_bound_tokens - len(call.body) - limits.overhead_tokens
            return facts if unseen <= 0 else replace(facts, unseen_input_tokens=unseen)
        return upload_request(
            match.operation,
            call.form,
            content_length_bytes=call.upload_bytes or self._upload_most_bytes,
            path_model=match.path_model,
            limits=limits,
        )

    def _card(self, match: Match, facts: RequestFacts) -> PriceCard:
        price = match.route.price
        if isinstance(price, int):
            return flat_card(price, name=match.route.path)
        if isinstance(price, str):
            card = self.policies.price_book.rule(price)
        else:
            card = self.policies.price_book.card(match.provider or "", facts.model, self._system.now_s())
        if card is None or not bills(card, facts):
            raise NotFound(
                f"the model {facts.model!r} has no price here and is not served", code="unknown_model", param="model"
            )
        return card

    def terms_for_served(self, admitted: Admitted, terms: Terms, served: str) -> Terms | None:
        """The terms of the model that was served, None where the book has no price for it. Another name of the same
        model changes nothing."""
        if admitted.match.route.price is not None:
            return None
        card = self.card_of(admitted, served)
        if card is None or not bills(card, admitted.facts):
            return None
        return terms if card.model == terms.card.model else terms.with_card(card)

    def card_of(self, admitted: Admitted, model: str) -> PriceCard | None:
        """The prices of another model that takes part in the request; None where the book does not know it."""
        return self.policies.price_book.card(admitted.provider or "", model, self._system.now_s())

    def _context(self, call: Call, admitted: Admitted) -> RequestContext:
        match = admitted.match
        return RequestContext(
            now_s=int(self._system.now_s()),
            service=self.policies.challenge.service,
            method=call.method,
            path=call.path,
            route=match.route.path,
            model=admitted.facts.model,
            names=(match.operation, match.upstream_name),
        )


def _only_buys(call: Call, credential: Credential, deposit: int | None, refused: Problem) -> bool:
    """Whether a request that cannot be served gets a challenge. Somebody who only buys credit sends no real request: a
    GET of the path is enough, or its own method without a body; and gRPC's bodies are read by nobody here. Any other
    method that the path does not take is refused before it costs an invoice."""
    if not isinstance(credential, NoCredential | Malformed) or call.upload is not None:
        return False
    if isinstance(refused, MethodNotAllowed) and call.method != "GET":
        return False
    return deposit is not None or not call.body or is_grpc(call.headers)
