"""What the flows need of the outside, as protocols, and the frozen bundle of them.

Every implementation speaks a real protocol (Redis, gRPC, HTTP). Failures of the outside are raised as
`errors.Unavailable` with the code of the port (store_unavailable, lightning_unavailable); refusals are values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.crowds import ChallengeLimits, ChallengePlace, Crowded
from gateway.core.headers import Headers
from gateway.core.holds import (
    NO_TOKENS,
    Balance,
    Credited,
    Debited,
    Extended,
    HoldRecord,
    Placed,
    PlaceHold,
    Posted,
    Refused,
    Renewed,
    UsageTokens,
)
from gateway.core.idempotency import Begun
from gateway.core.money import Rate, Unit
from gateway.core.refunds import Durability, Refund, RefundCaps, RefundState, TooManyRefunds
from gateway.core.tokens import Unverified, Verified


class Ledger(Protocol):
    """The steps of the ledger. Each is one atomic step, idempotent by its id. Raises Unavailable when the outcome is
    unknown: after an unknown `place` the caller voids the id."""

    async def place(self, hold: PlaceHold) -> Placed | Refused: ...
    async def extend_to(self, hold_id: str, total: int) -> Extended | Refused: ...
    async def checkpoint(self, hold_id: str, earned: int, *, outcome: bytes = b"") -> Renewed | Refused: ...
    async def shrink_to(self, hold_id: str, total: int) -> Extended | Refused: ...
    async def post(
        self, hold_id: str, cost: int, *, account: str, outcome: bytes = b"", tokens: UsageTokens = NO_TOKENS
    ) -> Posted | Refused: ...
    async def void(self, hold_id: str, *, account: str, outcome: bytes = b"") -> Posted | Refused: ...
    async def expire(self, hold_id: str) -> Posted | Refused: ...
    async def raise_hold(self, hold_id: str, ceiling: int, *, lifts: tuple[str, ...] = ()) -> Extended | Refused:
        """What a person said yes to: the hold's ceiling becomes `ceiling` (absolute, never lowered), and the budgets
        `lifts` no longer limit this hold, but still count it."""
        ...

    async def renew_allowance(
        self,
        account: str,
        period_id: str,
        amount: int,
        *,
        plan: str,
        ends_at_ms: int,
        follows: str = "",
        limit: int = 0,
    ) -> Credited | Refused:
        """Begin a plan's period: what is left of the old allowance goes, the new one comes, once per period, and what
        may be owed becomes `limit`, unless an operator set it. `plan` "": end the plan. `follows`: where another period
        runs, nothing changes."""
        ...

    async def set_credit_limit(self, account: str, limit: int | None, *, change_id: str) -> Credited | Refused:
        """An operator's own limit of what may be owed, which no plan touches; None: the plan's again."""
        ...

    async def credit(
        self, credit_id: str, account: str, amount: int, *, unit: Unit, rate: Rate, source: str, cause: str = "payment"
    ) -> Credited | Refused: ...
    async def debit(self, debit_id: str, account: str, amount: int, *, cause: str) -> Debited | Refused: ...
    async def revoke(self, token_id: str, account: str) -> None: ...
    async def is_revoked(self, token_id: str, account: str) -> bool: ...
    async def balance(self, account: str) -> Balance | None: ...
    async def hold(self, hold_id: str) -> HoldRecord | None: ...


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice of our node. `payment_hash` is 32 bytes; times are unix seconds."""

    payment_request: str
    payment_hash: bytes
    amount_msat: int
    memo: str
    created_at_s: int
    expires_at_s: int
    state: str = "open"  # open | settled | canceled | accepted (a hold invoice paid but not settled)
    paid_msat: int = 0
    settled_at_s: int | None = None
    settle_index: int = 0
    add_index: int = 0
    preimage: bytes = b""


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """A decoded BOLT11 invoice of somebody else. `amount_msat` None where it names none."""

    payment_hash: bytes
    destination: str
    amount_msat: int | None
    expires_at_s: int
    final_cltv_delta: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class Payment:
    """An outgoing payment. `state`: in_flight | succeeded | failed | unknown (the node knows nothing of it)."""

    payment_hash: bytes
    state: str
    amount_msat: int = 0
    fee_msat: int = 0
    preimage: bytes = b""
    failure: str = ""


class LightningNode(Protocol):
    """A Lightning node. Raises Unavailable(lightning_unavailable) when it cannot be reached in time."""

    async def add_invoice(self, *, amount_msat: int, memo: str, expiry_s: int) -> Invoice: ...
    async def lookup_invoice(self, payment_hash: bytes) -> Invoice | None: ...
    async def cancel_invoice(self, payment_hash: bytes) -> None: ...
    def settled_invoices(self, *, after_settle_index: int) -> AsyncIterator[Invoice]: ...
    async def list_invoices(self, *, after_add_index: int, most: int) -> Sequence[Invoice]: ...
    async def decode(self, payment_request: str) -> PaymentRequest: ...
    async def pay(
        self,
        payment_request: str,
        *,
        amount_msat: int | None,
        fee_limit_msat: int,
        timeout_s: int,
        cltv_limit: int,
    ) -> Payment: ...
    async def track(self, payment_hash: bytes) -> Payment: ...
    async def identity(self) -> str: ...
    async def close(self) -> None: ...


class Rates(Protocol):
    """BTC/USD. `current` never waits: None when there is no fresh rate."""

    def current(self) -> Rate | None: ...


class System(Protocol):
    """Clock and randomness of this machine."""

    def now_s(self) -> float: ...
    def token_hex(self, n_bytes: int) -> str: ...


class Spool(Protocol):
    """Where postings wait that the store could not take: bounded, fsynced, replayed by id."""

    def put(self, hold_id: str, account: str, cost: int, outcome: bytes) -> None: ...


# `Answer.failure` of an answer of which nothing more came in time.
STALLED = "the upstream stalled"


class Answer(Protocol):
    """An upstream's answer, its head already read. After the end `complete` is true, or `failure` says why it is
    not."""

    status: int
    headers: Headers
    complete: bool
    failure: str | None

    async def read_up_to(self, limit_bytes: int) -> bytes | None: ...
    def stream(self, sink: Callable[[bytes], None], ended: Callable[[], None]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True, unsafe_hash=True)
class UpstreamRequest:
    """What goes up. `headers` are the client's that may pass; the adapter adds Host, framing and our own credential."""

    upstream: str
    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    upload: AsyncIterator[bytes] | None = None
    upload_bytes: int = 0  # of the whole body, 0 where the client sends it in chunks


class Upstreams(Protocol):
    """The configured upstreams. Raises UpstreamFailed or UpstreamTimeout before the answer's head has come."""

    async def open(self, request: UpstreamRequest) -> Answer: ...


@dataclass(slots=True)
class SocketRequest:
    """A WebSocket to open. `headers` are the client's that may pass; the adapter adds the handshake's and our own."""

    upstream: str
    path: str
    query: bytes
    headers: Headers
    subprotocols: tuple[str, ...] = ()


class UpstreamSocket(Protocol):
    """An open WebSocket. `receive` gives None at its end; then `close_code` (None: it broke off) and `close_reason`
    stand. `send` waits while the upstream takes nothing, and does nothing once it has gone. `abort` closes at once."""

    subprotocol: str | None
    headers: Headers
    close_code: int | None
    close_reason: str

    async def receive(self) -> str | bytes | None: ...
    async def send(self, frame: str | bytes) -> None: ...
    def abort(self) -> None: ...


class UpstreamSockets(Protocol):
    """WebSockets of the configured upstreams. Raises UpstreamFailed or UpstreamTimeout when it cannot be opened."""

    async def open(self, request: SocketRequest) -> UpstreamSocket: ...


class TokenMint(Protocol):
    """Makes and checks tokens; pure computation. `memo_keys`: newest first; the newest writes, all of them read."""

    @property
    def memo_keys(self) -> tuple[bytes, ...]: ...
    def mint(self, *, payment_hash: bytes, token_id: bytes, service: str, expires_at_s: int) -> str: ...
    def verify(self, raw: bytes) -> Verified | Unverified: ...


class ChallengeBook(Protocol):
    """Open challenges, counted before an invoice is asked for; how far settled invoices were read."""

    async def reserve(self, place: ChallengePlace, limits: ChallengeLimits) -> Crowded | None: ...
    async def release(self, nonce: bytes) -> None: ...
    async def kept_top_up(self, token_id: bytes) -> bytes | None: ...
    async def keep_top_up(self, token_id: bytes, text: bytes, *, life_ms: int) -> None: ...
    async def forget_top_up(self, token_id: bytes) -> None: ...
    async def settle_index(self, node: str) -> int: ...
    async def keep_settle_index(self, node: str, index: int) -> None: ...
    async def store_run(self) -> str: ...


class RefundBook(Protocol):
    """Intents to pay out, one per payment hash. Every answer is the record as it now stands."""

    async def intend(self, refund: Refund, caps: RefundCaps) -> Refund | TooManyRefunds: ...
    async def advance(self, refund: Refund, *, expected: RefundState) -> Refund: ...
    async def find(self, payment_hash: bytes) -> Refund | None: ...
    async def unfinished(self) -> Sequence[bytes]: ...
    async def lock(self, payment_hash: bytes, holder: str, *, life_ms: int) -> bool: ...
    async def unlock(self, payment_hash: bytes, holder: str) -> None: ...
    async def durability(self, account: str) -> Durability: ...


class IdempotencyRecords(Protocol):
    """Answers by payer, path and `Idempotency-Key`. Of many that begin at once one gets `Ours`, and ends it by one of
    the others. `asked` is what the same key must not be used for anything else than."""

    async def begin(self, payer: str, path: str, key: str, asked: bytes) -> Begun: ...
    async def finish(self, payer: str, path: str, key: str, owner: str, answer: bytes) -> None: ...
    async def release(self, payer: str, path: str, key: str, owner: str) -> None: ...
    async def forget(self, payer: str, path: str, key: str, owner: str) -> None: ...
