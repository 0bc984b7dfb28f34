"""Opens what serves agents: the Lightning node, rates, tokens, challenges, credit and refunds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.adapters.absent_node import AbsentNode
from gateway.adapters.lnd import LndNode
from gateway.adapters.macaroons import Mint, load_master_secrets
from gateway.adapters.metrics import Metrics
from gateway.adapters.rates import Feed, FeedRates, FixedRate
from gateway.adapters.redis.challenges import RedisChallenges
from gateway.adapters.redis.idempotency import RedisIdempotency
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.refunds import RedisRefunds
from gateway.adapters.system import Machine
from gateway.adapters.vault import Vault
from gateway.background import Background
from gateway.config import Config
from gateway.core.challenges import ChallengePolicy
from gateway.flows.agents import AgentDesk
from gateway.flows.challenging import Challenger
from gateway.flows.counting import Counting
from gateway.flows.crediting import Crediting
from gateway.flows.refunding import Refunder
from gateway.flows.verifying import Verifier
from gateway.policies import Policies
from gateway.ports import LightningNode
from gateway.store_assembly import Store


@dataclass(slots=True)
class Agents:
    """What serves agents."""

    desk: AgentDesk
    challenger: Challenger
    verifier: Verifier
    crediting: Crediting
    refunder: Refunder
    records: RedisIdempotency
    policy: Callable[[], ChallengePolicy]


async def open_agents(
    stack: AsyncExitStack,
    config: Config,
    *,
    store: Store,
    metrics: Metrics,
    counting: Counting,
    policies: Callable[[], Policies],
    system: Machine,
    background: Background,
) -> Agents:
    """Errors: ConfigError, ValueError (certificate, macaroon, secrets)."""
    node = open_node(config)
    stack.push_async_callback(node.close)
    mint = Mint(master_secrets(config))
    book = RedisChallenges(store.link)
    rates = _rates(config)
    await rates.start()
    stack.push_async_callback(rates.close)

    has_node = bool(config.lightning.lnd.address)

    def challenge_policy() -> ChallengePolicy:
        policy = policies().challenge
        return policy if has_node else replace(policy, payment_methods=())

    def credited(amount_msat: int) -> None:
        metrics.payments.add(("lightning",))
        metrics.paid.add(("lightning",), amount_msat)

    def made(kind: str) -> None:
        metrics.challenges.add((kind,))

    crediting = Crediting(
        policy=challenge_policy, node=node, ledger=store.ledger, mint=mint, book=book, system=system, credited=credited
    )
    challenger = Challenger(
        policy=challenge_policy, node=node, rates=rates, mint=mint, book=book, system=system, made=made
    )
    verifier = Verifier(mint=mint, policy=challenge_policy)
    refunder = Refunder(
        policy=lambda: policies().refund,
        node=node,
        ledger=store.ledger,
        crediting=crediting,
        book=RedisRefunds(store.link, retention_ms=policies().challenge.retention_s * 1_000),
        system=system,
    )
    if has_node:
        background.run("settled invoices", crediting.credit_settled)
        background.run("unfinished refunds", refunder.see_through)
    desk = AgentDesk(
        challenger=challenger,
        verifier=verifier,
        crediting=crediting,
        ledger=store.ledger,
        counting=counting,
        policies=policies,
    )
    records = RedisIdempotency(store.link, Vault(master_secrets(config)))
    return Agents(desk, challenger, verifier, crediting, refunder, records, challenge_policy)


def make_crediting(
    config: Config, node: LightningNode, link: RedisLink, ledger: RedisLedger, policy: ChallengePolicy
) -> Crediting:
    """What `farebox reconcile` needs: to credit what the node was paid and the store does not know."""
    mint = Mint(master_secrets(config))
    return Crediting(
        policy=lambda: policy, node=node, ledger=ledger, mint=mint, book=RedisChallenges(link), system=Machine()
    )


def open_node(config: Config) -> LightningNode:
    """The configured node, not yet asked anything. Errors: ValueError (certificate, macaroon)."""
    lnd = config.lightning.lnd
    if not lnd.address:
        return AbsentNode()
    return LndNode.open(lnd.address, tls_cert=lnd.tls_cert, macaroon=lnd.macaroon)


def master_secrets(config: Config) -> tuple[bytes, ...]:
    """Newest first: the newest signs, all verify."""
    given = config.secrets.macaroon_master
    if given:
        return tuple(bytes.fromhex(given[version]) for version in sorted(given, reverse=True))
    return load_master_secrets({}, Path(config.data_dir), file_name=config.secrets.macaroon_file)


def _rates(config: Config) -> FixedRate | FeedRates:
    rates = config.rates
    if rates.fixed_microusd_per_btc is not None:
        return FixedRate(rates.fixed_microusd_per_btc)
    return FeedRates(
        [Feed(url=each.url, path=each.path) for each in rates.feeds],
        stale_s=rates.stale_s,
        refresh_s=rates.refresh_s,
        timeout_s=rates.timeout_s,
        spread_ppm=rates.spread_ppm,
    )
