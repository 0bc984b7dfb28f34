"""How an agent pays for a call: a conversation of commands and their outcomes, without any I/O.

The driver (`gateway.client.auth`) carries out each command and sends back what became of it. One payment a call at
most; one payment a host at a time; what another call has bought meanwhile is used first; a payment with an unknown
outcome is tracked before anything else is paid. A challenge above a cap is asked for once more, at what the cap allows,
where the server sells credit in any size. A 402 that answers a token just paid for, or any other status, is handed to
the caller as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.client.challenges import BadChallenge, Challenge, NoChallenge, read_challenge
from gateway.client.purse import Payment, PaymentState, Purse, Refusal

PAYMENT_REQUIRED = 402
SERVER_ERROR = 500
# So many tokens that other calls bought are tried before one is bought: where many calls share a small credit, each new
# token may be spent before the last call comes to show it.
OTHERS_MOST = 2
# A payment that is still open so long after its invoice ended blocks its host no longer; it goes on counting as spent.
LOST_AFTER_S = 3_600


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request, with this token or as it is; `deposit_sats`: how much a challenge should be for, None: as the
    server likes. Outcome: `Answered`."""

    token: Payment | None
    deposit_sats: int | None = None


@dataclass(frozen=True, slots=True)
class Haggle:
    """Find out whether another deposit may be asked for: the last answer says how much credit it sells, and nobody
    asked for so much. Outcome: bool."""


@dataclass(frozen=True, slots=True)
class Enter:
    """Wait until no other call pays this host. Outcome: the time, in unix seconds."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Let others pay this host. Outcome: None."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write the purse down, where it has a file. Outcome: None."""


@dataclass(frozen=True, slots=True)
class Pay:
    """Have the wallet pay. Outcome: `Outcome`."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class Track:
    """Ask the wallet what became of a payment. Outcome: `Outcome`."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class Refuse:
    """Hand the last answer to the caller, and say why nothing was paid. Outcome: None."""

    refusal: Refusal


Command = Send | Haggle | Enter | Leave | Save | Pay | Track | Refuse


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer's head. `challenges`: its `WWW-Authenticate` headers; `origin`: who answered, after redirects."""

    status: int
    challenges: Sequence[str]
    origin: str
    now_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a wallet says of a payment. `state`: paid | failed (it has not paid and will not) | open (not known yet) |
    unknown (it knows of no such payment). `fee_msat` None: not told."""

    state: str
    preimage: str = ""
    fee_msat: int | None = None
    reason: str = ""


Flow = Generator[Command, Any, None]


def call(purse: Purse, origin: str, *, secure: bool) -> Flow:
    """One call of an agent. `secure`: the address may be trusted with tokens and payments."""
    with purse.using() as use:
        shown = use.shows(purse.token(origin) if secure else None)
        tried: set[str] = set()
        has_paid = False
        deposit_sats: int | None = None
        while True:
            answer: Answered = yield Send(shown, deposit_sats)
            if answer.status != PAYMENT_REQUIRED:
                if shown is not None and answer.status < SERVER_ERROR:
                    purse.served(shown)
                return
            challenge = _payable(answer, origin, secure=secure, has_paid=has_paid)
            if isinstance(challenge, NoChallenge):
                return
            if isinstance(challenge, Refusal):
                yield Refuse(challenge)
                return
            if shown is not None:
                tried.add(shown.payment_hash)
            now_s: float = yield Enter()
            bought = purse.token(origin, challenge.service)
            if bought is None or bought.payment_hash in tried or len(tried) > OTHERS_MOST:
                use.shows(None)
                got = yield from _buy(purse, challenge, origin, now_s)
                if isinstance(got, Refusal):
                    yield Leave()
                    if deposit_sats is None and got.left_sats and (yield Haggle()):
                        deposit_sats, shown = got.left_sats, use.shows(shown)
                        continue
                    yield Refuse(got)
                    return
                bought, has_paid = got, True
            shown = use.shows(bought)
            yield Leave()


def _payable(answer: Answered, origin: str, *, secure: bool, has_paid: bool) -> Challenge | NoChallenge | Refusal:
    """The challenge of a 402, if it may be paid."""
    challenge = read_challenge(answer.challenges, now_s=answer.now_s)
    if isinstance(challenge, NoChallenge):
        return challenge
    if isinstance(challenge, BadChallenge):
        return Refusal("bad_challenge", challenge.reason)
    return _forbidden(answer, origin, secure=secure, has_paid=has_paid) or challenge


def _forbidden(answer: Answered, origin: str, *, secure: bool, has_paid: bool) -> Refusal | None:
    if not secure:
        return Refusal("insecure", "tokens and payments do not go over plain http to another machine")
    if answer.origin != origin:
        return Refusal("other_host", f"the challenge came from {answer.origin}, after a redirect")
    if has_paid:
        return Refusal("not_served", "paid, and asked to pay again: the token is kept, and shown at the next call")
    return None


def _buy(purse: Purse, challenge: Challenge, origin: str, now_s: float) -> Generator[Command, Any, Payment | Refusal]:
    """A paid token: of an earlier payment that has come through, or of a new one."""
    earlier = purse.open_payment(origin)
    if earlier is not None:
        settled = yield from _resolve(purse, earlier, now_s)
        if settled.state is PaymentState.PAID:
            return settled
        if settled.state is PaymentState.STARTED:
            return Refusal("payment_open", "an earlier payment to this host is still on its way")
    started = purse.start(challenge, origin, now_s=now_s)
    if isinstance(started, Refusal):
        return started
    yield Save()
    outcome: Outcome = yield Pay(started)
    ended = _ended(purse, started, outcome)
    yield Save()
    if ended.state is PaymentState.PAID:
        return ended
    code = "payment_failed" if ended.state is PaymentState.FAILED else "payment_open"
    return Refusal(code, outcome.reason or "the wallet did not say how the payment ended")


def _resolve(purse: Purse, payment: Payment, now_s: float) -> Generator[Command, Any, Payment]:
    """What became of a payment. One that the wallet never saw is given to it again while its invoice lives: a
    Lightning invoice is paid once, whoever is asked how often."""
    outcome: Outcome = yield Track(payment)
    if outcome.state == "unknown":
        if payment.expires_at_s <= now_s:
            outcome = Outcome("failed", reason="the invoice expired unpaid")
        else:
            outcome = yield Pay(payment)
    ended = _ended(purse, payment, outcome)
    if ended.state is PaymentState.STARTED and payment.expires_at_s + LOST_AFTER_S <= now_s:
        ended = purse.lost(payment)
    if ended.state is not PaymentState.STARTED:
        yield Save()
    return ended


def _ended(purse: Purse, payment: Payment, outcome: Outcome) -> Payment:
    if outcome.state == "paid" and _proves(outcome.preimage, payment.payment_hash):
        return purse.paid(payment, preimage=outcome.preimage, fee_msat=outcome.fee_msat)
    if outcome.state == "failed":
        return purse.failed(payment)
    return payment


def _proves(preimage: str, payment_hash: str) -> bool:
    try:
        return hashlib.sha256(bytes.fromhex(preimage)).hexdigest() == payment_hash
    except ValueError:
        return False
