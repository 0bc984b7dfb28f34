"""What an agent has paid, what it holds for it, and what it may still pay.

Everything is one set of payments by payment hash: tokens are the paid ones, spending is their sum, the circuit breaker
counts those that bought nothing. So merging two purses is a union, and one hash can never be paid twice.

Invariants: a payment is recorded as started before the wallet is asked; amount and routing fee together never pass a
cap; a payment whose outcome is unknown counts as spent, and nothing more is paid to its host until it is known.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.client.challenges import Challenge

MSAT_PER_SAT = 1_000
DAY_S = 86_400
# A peer's client paid 92,107 times in ten minutes, because every payment was answered with another 402.
UNSERVED_MOST = 2
UNSERVED_PAUSE_S = 600
# A route through strangers costs a little: 1 %, at least 5 sats; less where a cap leaves less.
FEE_PPM = 10_000
LEAST_FEE_LIMIT_MSAT = 5_000
# Payments are remembered longer than tokens usually live, so that none is paid twice and none is lost.
MEMORY_S = 90 * DAY_S


class PaymentState(StrEnum):
    """STARTED: the wallet was asked, the outcome is not known. LOST: it will not be known; it counts as spent."""

    STARTED = "started"
    PAID = "paid"
    FAILED = "failed"
    LOST = "lost"


_RANK = {PaymentState.STARTED: 0, PaymentState.LOST: 1, PaymentState.FAILED: 2, PaymentState.PAID: 3}


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that may be spent, routing fees included: in one payment, on one host in 24 hours, on all in 24
    hours."""

    per_call_sats: int = 2_000
    per_host_sats: int = 10_000
    per_day_sats: int = 20_000


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment. `fee_msat` is the limit until the fee is known. `served`: the host answered with something else than
    402 to this token. What is worth money does not show when it is printed."""

    payment_hash: str
    origin: str
    service: str
    macaroon: str = field(repr=False)
    invoice: str = field(repr=False)
    amount_msat: int
    fee_msat: int
    started_at_s: float
    expires_at_s: int
    state: PaymentState = PaymentState.STARTED
    preimage: str = field(default="", repr=False)
    served: bool = False

    @property
    def credential(self) -> str:
        """`<macaroon>:<preimage>`, what goes behind `L402 ` or in the place of an API key."""
        return f"{self.macaroon}:{self.preimage}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing was paid. Codes: call_cap, host_cap, day_cap, unserved, already_paid, payment_open, payment_failed,
    bad_challenge, insecure, other_host, not_served. `left_sats`: what a cap that was too small for it would allow."""

    code: str
    detail: str
    left_sats: int = 0


class Use:
    """Which token a call shows at the moment."""

    def __init__(self, purse: Purse) -> None:
        self._purse = purse
        self._token: Payment | None = None

    def shows(self, token: Payment | None) -> Payment | None:
        """From now on this one, or none. Gives it back."""
        self._purse.mark(self._token, token)
        self._token = token
        return token


class Purse:
    """Safe to share between threads and loops."""

    def __init__(self, caps: Caps, payments: Iterable[Payment] = ()) -> None:
        self.caps = caps
        self._payments: dict[str, Payment] = {}
        self._shown: Counter[str] = Counter()  # tokens that calls under way show
        self._lock = threading.Lock()
        self.merge(payments)

    def payments(self) -> list[Payment]:
        """All that is remembered, oldest first."""
        with self._lock:
            return sorted(self._payments.values(), key=lambda payment: payment.started_at_s)

    def merge(self, payments: Iterable[Payment]) -> None:
        """Take in what another purse knows; a known outcome stands above an unknown one."""
        with self._lock:
            for theirs in payments:
                ours = self._payments.get(theirs.payment_hash)
                if ours is None or _RANK[theirs.state] > _RANK[ours.state]:
                    self._payments[theirs.payment_hash] = theirs
                elif theirs.served and not ours.served:
                    self._payments[ours.payment_hash] = replace(ours, served=True)

    def token(self, origin: str, service: str | None = None) -> Payment | None:
        """The newest paid token for a host (and service)."""
        with self._lock:
            return max(
                (
                    payment
                    for payment in reversed(self._payments.values())
                    if payment.state is PaymentState.PAID
                    and payment.origin == origin
                    and service in {None, payment.service}
                ),
                key=lambda payment: payment.started_at_s,
                default=None,
            )

    def open_payment(self, origin: str) -> Payment | None:
        """A payment to this host whose outcome is not known."""
        with self._lock:
            for payment in self._payments.values():
                if payment.origin == origin and payment.state is PaymentState.STARTED:
                    return payment
        return None

    def start(self, challenge: Challenge, origin: str, *, now_s: float) -> Payment | Refusal:
        """Record a payment that is about to be made, within the caps; the check and the record are one step."""
        with self._lock:
            known = self._payments.get(challenge.payment_hash)
            if known is not None and known.state is not PaymentState.FAILED:
                return Refusal("already_paid", "this very invoice has been paid before")
            room = self._room(challenge, origin, now_s)
            if isinstance(room, Refusal):
                return room
            wanted = max(challenge.amount_msat * FEE_PPM // 1_000_000, LEAST_FEE_LIMIT_MSAT)
            payment = Payment(
                payment_hash=challenge.payment_hash,
                origin=origin,
                service=challenge.service,
                macaroon=challenge.macaroon,
                invoice=challenge.invoice,
                amount_msat=challenge.amount_msat,
                fee_msat=min(wanted, room - challenge.amount_msat),
                started_at_s=now_s,
                expires_at_s=challenge.expires_at_s,
            )
            self._payments[payment.payment_hash] = payment
            self._forget(now_s)
            return payment

    def paid(self, payment: Payment, *, preimage: str, fee_msat: int | None) -> Payment:
        """The wallet has paid. Without a known fee its limit goes on counting."""
        fee_msat = payment.fee_msat if fee_msat is None else fee_msat
        return self._put(replace(payment, state=PaymentState.PAID, preimage=preimage, fee_msat=fee_msat))

    def failed(self, payment: Payment) -> Payment:
        """The wallet says that it has not paid and will not."""
        return self._put(replace(payment, state=PaymentState.FAILED))

    def lost(self, payment: Payment) -> Payment:
        """Nobody can tell any more."""
        return self._put(replace(payment, state=PaymentState.LOST))

    def served(self, payment: Payment) -> None:
        """The host accepted the token."""
        if not payment.served:
            self._put(replace(payment, served=True))

    @contextmanager
    def using(self) -> Iterator[Use]:
        """One call's way through its tokens."""
        use = Use(self)
        try:
            yield use
        finally:
            use.shows(None)

    def mark(self, before: Payment | None, after: Payment | None) -> None:
        """A call shows another token than before. While a call shows it, a token is not judged as unserved."""
        with self._lock:
            if before is not None:
                self._shown[before.payment_hash] -= 1
            if after is not None:
                self._shown[after.payment_hash] += 1
            self._shown += Counter()  # drops what nobody shows

    def spent_msat(self, *, now_s: float, origin: str | None = None) -> int:
        """What the last 24 hours cost, fees and open payments included."""
        with self._lock:
            return self._spent(now_s, origin)

    def _put(self, payment: Payment) -> Payment:
        with self._lock:
            self._payments[payment.payment_hash] = payment
        return payment

    def _spent(self, now_s: float, origin: str | None) -> int:
        return sum(
            payment.amount_msat + payment.fee_msat
            for payment in self._payments.values()
            if payment.state is not PaymentState.FAILED
            and payment.started_at_s > now_s - DAY_S
            and origin in {None, payment.origin}
        )

    def _room(self, challenge: Challenge, origin: str, now_s: float) -> int | Refusal:
        """How much this payment may cost, fee included."""
        if self._unserved(origin, now_s) >= UNSERVED_MOST:
            return Refusal("unserved", f"{origin} was paid {UNSERVED_MOST} times and served nothing for it")
        rooms = {
            "call_cap": self.caps.per_call_sats * MSAT_PER_SAT,
            "host_cap": self.caps.per_host_sats * MSAT_PER_SAT - self._spent(now_s, origin),
            "day_cap": self.caps.per_day_sats * MSAT_PER_SAT - self._spent(now_s, None),
        }
        code = min(rooms, key=lambda name: rooms[name])
        if challenge.amount_msat > rooms[code]:
            asked, left = challenge.amount_msat, max(0, rooms[code])
            why = f"the invoice asks for {asked} msat, the {code.replace('_', ' ')} leaves {left} msat"
            return Refusal(code, why, left // MSAT_PER_SAT)
        return rooms[code]

    def _unserved(self, origin: str, now_s: float) -> int:
        """Payments to this host since it last served one of them, within the pause."""
        own = [each for each in self._payments.values() if each.origin == origin and each.state is PaymentState.PAID]
        last_served_s = max((each.started_at_s for each in own if each.served), default=0.0)
        since_s = max(last_served_s, now_s - UNSERVED_PAUSE_S)
        unserved = [each for each in own if not each.served and each.started_at_s > since_s]
        return sum(1 for each in unserved if not self._shown[each.payment_hash])

    def _forget(self, now_s: float) -> None:
        for payment in list(self._payments.values()):
            if payment.started_at_s < now_s - MEMORY_S:
                del self._payments[payment.payment_hash]
