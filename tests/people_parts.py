"""An organization with money, its app key and our own paths, on real parts: a store, and the application over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

import httpx
import msgspec
from l402_parts import Clock

from gateway.adapters.redis.idempotency import RedisIdempotency
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.tokens import Vocabularies
from gateway.config import Config, UpstreamConfig
from gateway.core.approvals import ApprovalPolicy
from gateway.core.call import Call
from gateway.core.challenges import ChallengePolicy
from gateway.core.credentials import AppKey
from gateway.core.directory import AuditEntry, Key, Permission, Principal, account_of_org
from gateway.core.facts import RequestLimits
from gateway.core.holds import Posted, UsageTokens
from gateway.core.key_texts import make_key_text
from gateway.core.money import MARGIN_ONE_PPM, NO_RATE, Unit
from gateway.core.operations import Dialect
from gateway.core.plans import Plan
from gateway.core.price_entries import Always, ModelEntry, PriceEntry, PriceUnit, ProviderEntry, Step
from gateway.core.prices import PriceBook
from gateway.core.refunds import RefundPolicy
from gateway.core.terms import HoldPolicy
from gateway.flows.admission import Admission, Admitted
from gateway.flows.counting import Counting
from gateway.flows.settling import Work
from gateway.operator_assembly import Operators, open_operators, operator_routes
from gateway.people_assembly import People, open_api, open_people, people_routes
from gateway.policies import Policies
from gateway.routes import route_table
from gateway.store_assembly import Store
from gateway.web.addresses import Addresses
from gateway.web.principal import Api
from gateway.web.requests import request_routes
from gateway.web.site import own_site

CHAT = "/v1/chat/completions"
USD = 1_000_000_000  # nanousd
PLANS = {"pro": Plan(name="pro", included=5 * USD, credit_limit=2 * USD, app_may_give=True)}


def usd(amount: str) -> dict[str, str]:
    """Money as the API takes it."""
    return {"amount": amount, "currency": "USD"}


def _entry(name: str, *, picousd: int, also: str = "") -> ModelEntry:
    figures = {unit: (Step(-1, picousd),) for unit in (PriceUnit.INPUT, PriceUnit.OUTPUT)}
    return ModelEntry(
        model=name,
        matches=lambda asked: asked in (name, also),
        entries=(PriceEntry(Always(), MappingProxyType(figures)),),
    )


def policies() -> Policies:
    """A token costs a millionth of a dollar with `small`, a ten-thousandth with `large`."""
    models = (_entry("small", picousd=1_000_000, also="small-latest"), _entry("large", picousd=100_000_000))
    return Policies(
        price_book=PriceBook([ProviderEntry("openai", models=models)]),
        request_limits=RequestLimits(overhead_tokens=0),
        hold=HoldPolicy(),
        challenge=cast(ChallengePolicy, None),
        refund=cast(RefundPolicy, None),
        digest="d",
        margin_ppm=MARGIN_ONE_PPM,
        approvals=ApprovalPolicy(),
        plans=PLANS,
    )


@dataclass(slots=True)
class Parts:
    """The policies may be replaced while everything runs."""

    clock: Clock
    link: RedisLink
    ledger: RedisLedger
    policies: Policies
    config: Config
    people: People = field(init=False)
    operators: Operators = field(init=False)
    http: httpx.AsyncClient = field(init=False)
    api: Api = field(init=False)
    org_id: str = ""
    key: str = ""
    operator_key: str = ""
    count: int = 0

    @property
    def account(self) -> str:
        return account_of_org(self.org_id)

    async def make_org(self, **settings: Any) -> None:
        """A fresh organization with an app key, in whose name everything is asked from now on."""
        operator = Principal("", "ak_00operator", permissions=tuple(Permission), operator=True, vouched="operator")
        self.org_id = (await self.operators.operating.make(operator, settings))["id"]
        self.key = await self.make_key()

    async def make_key(self, **members: Any) -> str:
        """Another key of the organization: its text."""
        made = make_key_text(partition=self.org_id[4:6], random_hex=self.clock.token_hex(31))
        key = Key(made.key_id, self.org_id, made.digest, **members)
        audit = self.people.keying._audit(Principal(self.org_id, made.key_id), "key.create", None, key)
        await self.people.store.put_key(key, audit, expected=None)
        return made.text

    async def operate(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """A request of an operator's, to a path under `/admin/api`."""
        if not self.operator_key:
            made = make_key_text(partition="7f", random_hex=self.clock.token_hex(31), operator=True)
            org_id = f"org_{made.key_id.removeprefix('ak_')}"
            key = Key(made.key_id, org_id, made.digest, operator=True)
            audit = self.people.keying._audit(Principal(org_id, made.key_id), "key.create", None, key)
            await self.people.store.put_key(key, audit, expected=None)
            self.operator_key = made.text
        return await self.ask(method, f"/admin/api{path}", body, key=self.operator_key, **headers)

    async def operated(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The same; its answer, which is good."""
        answer = await self.operate(method, path, body, **headers)
        assert answer.is_success, answer.text
        return answer.json()

    async def audited(self) -> list[AuditEntry]:
        """The organization's audit log."""
        return list(await self.people.audit.read(self.org_id, after=0, most=1_000))

    async def credit(self, amount: int, account: str = "") -> None:
        self.count += 1
        await self.ledger.credit(
            f"c{self.count}", account or self.account, amount, unit=Unit.NANOUSD, rate=NO_RATE, source="test"
        )

    async def ask(self, method: str, path: str, body: Any = None, *, user: str = "", key: str = "",
                  **headers: str) -> httpx.Response:  # fmt: skip
        """A request to our own paths."""
        named = {"authorization": f"Bearer {key or self.key}"} | ({"farebox-user": user} if user else {})
        return await self.http.request(method, path, json=body, headers=named | headers)

    async def must(self, method: str, path: str, body: Any = None, *, user: str = "", **headers: str) -> Any:
        """The same; its answer, which is good."""
        answer = await self.ask(method, path, body, user=user, **headers)
        assert answer.is_success, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str | None]:
        """The same; status, code and param of a refusal."""
        answer = await self.ask(method, path, body, **more)
        assert not answer.is_success, answer.text
        return answer.status_code, answer.json()["code"], answer.json().get("param")

    def read(self, call: Call) -> Admitted:
        """A request as admission reads it: its route, facts and price. Errors: Problem."""
        admission = Admission(
            routes=route_table(self.config),
            policies=self.policies,
            agents=cast(Any, None),
            accounts=self.people.desk,
            system=self.clock,
            upload_most_bytes=1,
        )
        return admission.read(call)

    async def place(
        self, *, user: str = "", model: str = "small", tokens: int = 100, text: str = "hi", by_token: bool = False,
        **headers: str,
    ) -> Work:  # fmt: skip
        """Admit one call as the relay does, its money and budgets reserved. `by_token`: an identity provider's names the
        person. Errors: Problem."""
        named = [(b"farebox-user", user.encode())] if user else []
        named += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        body = msgspec.json.encode(
            {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}
        )
        tail = self.clock.token_hex(12)
        call = Call("POST", CHAT, b"", named, "127.0.0.1", tail, f"req_00{tail}", self.clock.now_s(), body)
        caller = await self.people.desk.callers.known(call, AppKey(self.key, ""))
        caller.by_token = by_token
        return await self.people.desk.place(call, caller, self.read(call), self.policies.hold)

    async def spend(self, cost: int, **asked: Any) -> str:
        """One call from beginning to end; the id of its request."""
        work = await self.place(**asked)
        tokens = UsageTokens(10, 4, 5)
        posted = await self.ledger.post(work.hold_id, cost, account=work.account, tokens=tokens)
        assert isinstance(posted, Posted) and posted.posted == cost, posted
        return work.request_id

    def set_plan(self, plan: Plan) -> None:
        self.policies = replace(self.policies, plans={**self.policies.plans, plan.name: plan})

    def change_approvals(self, **figures: Any) -> None:
        self.policies = replace(self.policies, approvals=replace(self.policies.approvals, **figures))


@asynccontextmanager
async def running_people(url: str) -> AsyncIterator[Parts]:
    """Everything, with one organization that has ten dollars."""
    link = await RedisLink.open(url)
    try:
        ledger = RedisLedger(link, worker="w1")
        upstream = UpstreamConfig(Dialect.OPENAI, "http://127.0.0.1:9")
        config = Config(upstreams=MappingProxyType({"openai": upstream}))
        parts = Parts(Clock(), link, ledger, policies(), config)
        vocabularies = Vocabularies()
        store = Store(link, ledger, cast(Any, None), "w1", cast(Any, None))
        parts.people = open_people(
            config,
            store=store,
            counting=Counting(vocabularies.counter_for, vocabularies.is_exact),
            policies=lambda: parts.policies,
            system=cast(Any, parts.clock),
        )
        parts.operators = open_operators(
            config, parts.people, store=store, policies=lambda: parts.policies, system=cast(Any, parts.clock)
        )
        parts.api = open_api(
            parts.people, RedisIdempotency(link, parts.people.vault), Addresses(()), cast(Any, parts.clock)
        )

        async def reload(_principal: Principal) -> str:
            return "same"

        routes = [
            *people_routes(parts.people, api=parts.api, store=store, public_url="http://farebox", reading=parts),
            *operator_routes(parts.operators, parts.people, api=parts.api, reload=reload),
        ]

        async def no_agent(_request: Any) -> str:
            return "tk_none"

        app = own_site([*routes, *request_routes(ledger, no_agent, parts.api)])
        await parts.make_org()
        await parts.credit(10 * USD)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://farebox") as parts.http:
            yield parts
    finally:
        await link.close()
