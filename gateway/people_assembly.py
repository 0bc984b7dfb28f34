"""Opens what serves people: the directory, keys, budgets, quotes, allowances, accounts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.routing import BaseRoute

from gateway.adapters.identity import Identity, Provider
from gateway.adapters.metrics import Metrics
from gateway.adapters.proofs import OneTimeCodes, Passkeys, Passwords
from gateway.adapters.redis.audit import RedisAudit
from gateway.adapters.redis.budget_alerts import RedisBudgetAlerts
from gateway.adapters.redis.directory import RedisDirectory
from gateway.adapters.redis.leases import Lease
from gateway.adapters.redis.outbox import RedisOutbox
from gateway.adapters.redis.person_secrets import RedisPersonSecrets
from gateway.adapters.redis.questions import RedisQuestions
from gateway.adapters.redis.quotes import RedisQuotes
from gateway.adapters.redis.usage import RedisUsage
from gateway.adapters.redis.usage_feed import RedisUsageFeed
from gateway.adapters.system import Machine
from gateway.adapters.vault import Vault
from gateway.adapters.webhooks import WebhookSender, make_secret
from gateway.agents_assembly import master_secrets
from gateway.background import Background
from gateway.config import Config
from gateway.core.approvals import ApprovalPolicy
from gateway.flows.account_refusals import AccountRefusals
from gateway.flows.accounts import AccountDesk
from gateway.flows.allowing import Allowing
from gateway.flows.answering import Answering
from gateway.flows.asking import AskDesk
from gateway.flows.auditing import Auditing
from gateway.flows.balances import Balances
from gateway.flows.budget_telling import BudgetTelling
from gateway.flows.budgeting import Budgeting
from gateway.flows.callers import Callers
from gateway.flows.claiming import Claiming
from gateway.flows.counting import Counting
from gateway.flows.delivering import Deliverer
from gateway.flows.directory import Directory
from gateway.flows.explaining import Explaining, Reading
from gateway.flows.forecasting import Forecaster
from gateway.flows.keying import Keying
from gateway.flows.pausing import Pausing
from gateway.flows.peopling import Peopling
from gateway.flows.quoting import Quoting
from gateway.flows.step_up import StepUp
from gateway.flows.sweeping import Sweep, log_report, run_sweeps
from gateway.flows.usage_feeding import UsageFeeder
from gateway.flows.using import Using
from gateway.policies import Policies
from gateway.ports import IdempotencyRecords
from gateway.routes import DEFAULT_PROVIDERS
from gateway.store_assembly import Store
from gateway.web.addresses import Addresses
from gateway.web.api.account import account_routes
from gateway.web.api.allowances import allowance_routes
from gateway.web.api.budgets import budget_routes
from gateway.web.api.events import event_routes
from gateway.web.api.explain import explain_routes
from gateway.web.api.keys import key_routes
from gateway.web.api.persons import person_routes
from gateway.web.api.quotes import quote_routes
from gateway.web.api.usage import usage_routes
from gateway.web.api.webhooks import Webhooks, webhook_routes
from gateway.web.principal import Api

# A person who waits for an approval has heard of it within a second; a forecast has time.
WEBHOOKS_EVERY_S, FORECASTS_EVERY_S = 1.0, 60.0


@dataclass(slots=True)
class People:
    """What serves people."""

    desk: AccountDesk
    directory: Directory
    store: RedisDirectory
    quotes: RedisQuotes
    quoting: Quoting
    keying: Keying
    peopling: Peopling
    budgeting: Budgeting
    allowing: Allowing
    using: Using
    questions: RedisQuestions
    answering: Answering
    balances: Balances
    alerts: RedisBudgetAlerts
    outbox: RedisOutbox
    usage_feed: RedisUsageFeed
    sender: WebhookSender
    vault: Vault
    audit: RedisAudit
    auditing: Auditing
    secrets: RedisPersonSecrets
    identity: Identity | None
    explaining: Callable[[Reading], Explaining]
    step_up: StepUp


def open_people(
    config: Config, *, store: Store, counting: Counting, policies: Callable[[], Policies], system: Machine
) -> People:
    """Connects to nobody yet."""
    records, audit = RedisDirectory(store.link), RedisAudit(store.link)
    directory = Directory(records, system)
    vault = Vault(master_secrets(config))
    secrets = RedisPersonSecrets(store.link, records)

    def approvals() -> ApprovalPolicy:
        return policies().approvals

    step_up = StepUp(
        secrets=secrets, vault=vault, passwords=Passwords(), codes=OneTimeCodes(), passkeys=Passkeys(config.public_url),
        policy=approvals, system=system,
    )  # fmt: skip
    quotes = RedisQuotes(store.link, records)
    quoting = Quoting(quotes=quotes, policy=approvals, system=system, prove=step_up.prove)
    keying = Keying(store=records, directory=directory, system=system)
    peopling = Peopling(store=records, directory=directory, ledger=store.ledger, policies=policies, system=system)
    using = Using(usage=RedisUsage(store.link), store=records)
    alerts = RedisBudgetAlerts(store.link)
    budgeting = Budgeting(
        store=records, alerts=alerts, directory=directory, used_since=using.used_since,
        canonical=_canonical(config, policies, system), key_exists=keying.exists, system=system,
    )  # fmt: skip
    allowing = Allowing(
        store=records, counters=records, directory=directory, policy=approvals, prove=step_up.prove, system=system
    )
    questions = RedisQuestions(store.link, records)
    identity = _identity(config, system)
    claiming = Claiming(directory)
    desk = AccountDesk(
        callers=Callers(directory=directory, identity=identity, system=system), claiming=claiming,
        refusals=AccountRefusals(
            quoting=quoting, pausing=Pausing(records, system), public_url=config.public_url
        ),
        renewing=peopling,
        asking=AskDesk(questions=questions, ledger=store.ledger, policy=approvals, system=system),
        ledger=store.ledger, counters=records, counting=counting, policies=policies, system=system,
    )  # fmt: skip
    return People(
        desk=desk,
        directory=directory,
        store=records,
        quotes=quotes,
        quoting=quoting,
        keying=keying,
        peopling=peopling,
        budgeting=budgeting,
        allowing=allowing,
        using=using,
        questions=questions,
        answering=Answering(questions=questions, policy=approvals, prove=step_up.prove, system=system),
        balances=Balances(ledger=store.ledger, store=records, renewing=peopling, system=system),
        explaining=partial(
            Explaining, claiming=claiming, counting=counting, store=records, ledger=store.ledger,
            policies=policies, system=system,
        ),
        step_up=step_up,
        alerts=alerts,
        outbox=RedisOutbox(store.link),
        usage_feed=RedisUsageFeed(store.link, store.ledger, records),
        sender=_sender(config),
        vault=vault,
        audit=audit,
        auditing=Auditing(log=audit, system=system),
        secrets=secrets,
        identity=identity,
    )  # fmt: skip


def _sender(config: Config) -> WebhookSender:
    settings = config.webhooks
    return WebhookSender(allow_private=settings.allow_private_addresses, timeout_s=settings.timeout_s)


def _identity(config: Config, system: Machine) -> Identity | None:
    """None where no provider is configured: then a token says nothing."""
    providers = [
        Provider(
            issuer=each.issuer, audience=each.audience, jwks=each.jwks,
            person_claim=each.person_claim, org_id=each.account, key_id=each.key, algorithms=each.algorithms,
            leeway_s=each.leeway_s,
        )
        for each in config.identity.providers
    ]  # fmt: skip
    return Identity(providers, system.now_s) if providers else None


def providers(config: Config) -> list[str]:
    """Whose prices apply, in the order of the upstreams."""
    names = (each.provider or DEFAULT_PROVIDERS.get(each.dialect, "") for each in config.upstreams.values())
    return [name for name in dict.fromkeys(names) if name]


def _canonical(config: Config, policies: Callable[[], Policies], system: Machine) -> Callable[[str], str | None]:
    """The canonical name of a model with any of the configured providers."""

    def find(model: str) -> str | None:
        for provider in providers(config):
            card = policies().price_book.card(provider, model, system.now_s())
            if card is not None:
                return card.model
        return None

    return find


def run_people(
    stack: AsyncExitStack,
    people: People,
    *,
    store: Store,
    system: Machine,
    metrics: Metrics,
    background: Background,
) -> None:
    """What goes on beside the requests: webhooks and forecasts."""

    def counted(outcome: str) -> None:
        metrics.webhooks.add((outcome,))

    deliverer = Deliverer(
        outbox=people.outbox,
        sender=people.sender,
        vault=people.vault,
        system=system,
        witness=people.auditing.witness,
        readable=BudgetTelling(people.store).readable,
        counted=counted,
    )
    stack.push_async_callback(people.sender.close)
    if people.identity is not None:
        stack.push_async_callback(people.identity.close)
    stack.push_async_callback(deliverer.close)
    store.upkeep.drainer.before_trim = UsageFeeder(feed=people.usage_feed, books=store.ledger).once
    forecaster = Forecaster(store=people.store, alerts=people.alerts, system=system)
    sweeps = [
        Sweep("webhooks", WEBHOOKS_EVERY_S, deliverer.once, Lease(store.link, "sweep:webhooks", store.worker)),
        Sweep("forecasts", FORECASTS_EVERY_S, forecaster.once, Lease(store.link, "sweep:forecasts", store.worker)),
    ]
    background.run("sweeps of people", lambda: run_sweeps(sweeps, report=log_report))


def open_api(people: People, records: IdempotencyRecords, addresses: Addresses, system: Machine) -> Api:
    """Who asks our own paths."""
    return Api(people.directory, people.identity, records, addresses, system)


def _webhooks(people: People) -> Webhooks:
    def seal(secret: str, org_id: str) -> str:
        return people.vault.seal(secret.encode(), of=f"{org_id}|hook").decode()

    return Webhooks(
        outbox=people.outbox, feed=people.usage_feed, make_secret=make_secret, seal=seal, check=people.sender.check
    )


def people_routes(
    people: People,
    *,
    api: Api,
    store: Store,
    public_url: str,
    reading: Reading,
) -> list[BaseRoute]:
    """The paths of apps and people."""

    async def waiting(org_id: str, now_ms: int) -> Any:
        return [
            *await people.quotes.waiting(org_id, now_ms=now_ms),
            *await people.questions.waiting(org_id, now_ms=now_ms),
        ]

    return [
        *key_routes(api, people.keying),
        *person_routes(api, people.peopling, people.budgeting, people.store, people.step_up),
        *budget_routes(api, people.budgeting),
        *allowance_routes(api, people.allowing),
        *quote_routes(api, people.quoting, waiting, people.step_up.options),
        *usage_routes(api, people.using),
        *account_routes(api, people.balances),
        *explain_routes(api, people.explaining(reading)),
        *event_routes(api, store.ledger, people.questions, people.answering, public_url),
        *webhook_routes(api, _webhooks(people)),
    ]
