"""Everything between a credential and its credit, on real parts: a store, a node on a socket, a wallet behind another
node."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gateway.adapters.lnd import LndNode
from gateway.adapters.macaroons import Mint
from gateway.adapters.redis.challenges import RedisChallenges
from gateway.adapters.redis.idempotency import RedisIdempotency
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.refunds import RedisRefunds
from gateway.adapters.vault import Vault
from gateway.core.challenges import Challenge, ChallengePolicy
from gateway.core.credentials import L402Credential, parse_credential
from gateway.core.holds import Placed, PlaceHold, Refused
from gateway.core.money import Rate
from gateway.core.refunds import RefundPolicy
from gateway.core.restrictions import RequestContext
from gateway.flows.challenging import Challenger
from gateway.flows.crediting import Crediting
from gateway.flows.refunding import Refunder
from gateway.flows.verifying import VerifiedPayer, Verifier
from gateway.simulators.lightning import LightningNetwork, PaymentOrder, SimulatedNode

RATE = Rate(60_000_000_000)
MASTER = b"\x01" * 32


class Clock:
    """This machine's clock, moved on at will; real randomness."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_s(self) -> float:
        return time.time() + self.ahead_s

    def token_hex(self, n_bytes: int) -> str:
        return secrets.token_hex(n_bytes)


class FixedRates:
    """A rate, or none."""

    def __init__(self) -> None:
        self.rate: Rate | None = RATE

    def current(self) -> Rate | None:
        return self.rate


@dataclass(slots=True)
class Parts:
    """The policies may be replaced while everything runs."""

    link: RedisLink
    ledger: RedisLedger
    simulated: SimulatedNode
    wallet: SimulatedNode
    node: LndNode
    clock: Clock
    rates: FixedRates
    mint: Mint
    book: RedisChallenges
    refunds: RedisRefunds
    records: RedisIdempotency
    policy: ChallengePolicy
    refund_policy: RefundPolicy
    challenger: Challenger
    verifier: Verifier
    crediting: Crediting
    refunder: Refunder

    async def pay(self, challenge: Challenge) -> bytes:
        """The wallet pays; the preimage."""
        payment = await self.wallet.pay(PaymentOrder(challenge.invoice))
        assert payment.state == "succeeded"
        return payment.preimage

    async def bought(self, sats: int = 1_000, **asked: object) -> tuple[Challenge, L402Credential]:
        """A challenge, paid: the credential as a client shows it."""
        challenge = await self.challenger.challenge("192.0.2.1", asked_sats=sats, **asked)  # type: ignore[arg-type]
        return challenge, shown(challenge.macaroon, await self.pay(challenge))

    def payer(self, credential: L402Credential, **facts: object) -> VerifiedPayer:
        outcome = self.verifier.verify(credential, self.context(**facts))
        assert isinstance(outcome, VerifiedPayer), outcome
        return outcome

    def context(self, **facts: object) -> RequestContext:
        plain = RequestContext(now_s=int(self.clock.now_s()), service="farebox", method="POST", path="/v1/x")
        return replace(plain, **facts)  # type: ignore[arg-type]

    async def place(self, payer: VerifiedPayer, amount: int, name: str = "") -> Placed | Refused:
        """A worker's hold for this payer."""
        return await self.ledger.place(
            PlaceHold(
                hold_id=f"ho_{payer.token[:2]}{name or secrets.token_hex(8)}",
                account=payer.account,
                floor=amount,
                first=amount,
                ceiling=amount,
                rate=RATE,
                scopes=payer.claims,
                credit_id=payer.credit_id,
                token_id=payer.token,
            )
        )


def shown(macaroon: str, preimage: bytes) -> L402Credential:
    credential = parse_credential([(b"authorization", f"L402 {macaroon}:{preimage.hex()}".encode())])
    assert isinstance(credential, L402Credential)
    return credential


@asynccontextmanager
async def running_parts(store_url: str) -> AsyncIterator[Parts]:
    network = LightningNetwork()
    simulated, wallet = SimulatedNode(network=network), SimulatedNode(network=network)
    await simulated.start()
    await wallet.start()
    node = LndNode.open(simulated.address, tls_cert=simulated.tls_cert_pem, macaroon=simulated.macaroon_hex)
    link = await RedisLink.open(store_url)
    try:
        yield assemble(link, node, simulated, wallet)
    finally:
        await node.close()
        await simulated.close()
        await wallet.close()
        await link.close()


def assemble(link: RedisLink, node: LndNode, simulated: SimulatedNode, wallet: SimulatedNode) -> Parts:
    """Everything over one store and one node. Tests against real nodes hand over no simulated ones."""
    clock, rates, mint, ledger = Clock(), FixedRates(), Mint((MASTER,)), RedisLedger(link, worker="w1")
    book, refunds = RedisChallenges(link), RedisRefunds(link, retention_ms=86_400_000)
    policy = ChallengePolicy()
    refund_policy = RefundPolicy(durable_after_ms=1_000, answer_within_s=10.0)
    parts: Parts
    challenger = Challenger(policy=lambda: parts.policy, node=node, rates=rates, mint=mint, book=book, system=clock)
    verifier = Verifier(mint=mint, policy=lambda: parts.policy)
    crediting = Crediting(policy=lambda: parts.policy, node=node, ledger=ledger, mint=mint, book=book, system=clock)
    refunder = Refunder(
        policy=lambda: parts.refund_policy, node=node, ledger=ledger, crediting=crediting, book=refunds, system=clock
    )
    parts = Parts(
        link=link, ledger=ledger, simulated=simulated, wallet=wallet, node=node, clock=clock, rates=rates, mint=mint,
        book=book, refunds=refunds, records=RedisIdempotency(link, Vault((MASTER,))), policy=policy, refund_policy=refund_policy,
        challenger=challenger, verifier=verifier, crediting=crediting, refunder=refunder,
    )  # fmt: skip
    return parts
