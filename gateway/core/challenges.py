"""The 402 that an agent can pay: how much it asks for, what the invoice says of it, and how it is written down.

The invoice's memo names the token, so that an account can be rebuilt from the node, and carries a short MAC over
everything that crediting relies on (the amount asked for too): an invoice of another program on the same node, or a
memo copied into one, is never credited. The header's parameters stand in the one order that every client tried can
parse.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.core.errors import InvalidRequest
from gateway.core.money import MSAT_PER_BTC, MSAT_PER_SAT, Rate, ceil_div, usd_string

TOKEN_BYTES = 32
NONCE_BYTES = 8
# 128 bits: nobody finds a memo by trying, and the memo stays far below the 639 bytes an invoice can hold.
MAC_HEX_DIGITS = 32
DEPOSIT_HEADERS = (b"farebox-deposit", b"x-bolthub-credit")
_SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_SATS = re.compile(r"[0-9]{1,12}\Z")
_MEMO = re.compile(
    r"farebox credit: service=([a-z0-9_-]{1,32}) token=([0-9a-f]{64}) nonce=([0-9a-f]{16}) rate=([0-9]{1,18}) "
    r"mac=([0-9a-f]{32})\Z"
)


@dataclass(frozen=True, slots=True)
class ChallengePolicy:
    """How much challenges ask for, how long they live, and how many may stand open."""

    service: str = "farebox"
    default_deposit_sats: int = 1_000
    least_deposit_sats: int = 1
    greatest_deposit_sats: int = 1_000_000
    # Long enough to pay by hand, short enough that the rate recorded with it stays honest.
    invoice_expiry_s: int = 600
    token_lifetime_s: int = 30 * 86_400
    # Challenges a minute for one /24 or /48 network; a burst of one minute's worth may come at once.
    challenges_per_minute: int = 60
    unpaid_per_address: int = 8
    open_per_prefix: int = 256
    # Every open invoice stays in the node's memory and database.
    open_in_all: int = 10_000
    # A settled invoice older than this is never credited: its credit may have been spent and forgotten.
    retention_s: int = 90 * 86_400
    ignorable_caveats: frozenset[str] = frozenset()
    payment_methods: tuple[str, ...] = ("lightning",)

    def __post_init__(self) -> None:
        if not _SERVICE.match(self.service):
            message = "service: lower-case letters, digits, - and _, at most 32"
            raise ValueError(message)
        if not 1 <= self.least_deposit_sats <= self.default_deposit_sats <= self.greatest_deposit_sats:
            message = "default_deposit_sats must lie between least_deposit_sats and greatest_deposit_sats"
            raise ValueError(message)
        if self.retention_s <= self.token_lifetime_s:
            message = "retention_s must be longer than token_lifetime_s"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. Times are unix seconds."""

    macaroon: str
    invoice: str
    payment_hash: bytes
    token_id: bytes
    amount_sats: int
    rate: Rate
    expires_at_s: int


@dataclass(frozen=True, slots=True)
class Memo:
    """What an invoice of ours says of the credit it buys. `nonce` names its place among the open ones."""

    service: str
    token_id: bytes
    nonce: bytes
    rate: Rate


def asked_deposit(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """The deposit in sats that the client asks for, None when it does not.

    Errors: InvalidRequest when it is no positive integer, or two headers disagree.
    """
    asked: int | None = None
    for name, value in headers:
        if name not in DEPOSIT_HEADERS:
            continue
        text = value.decode("latin-1").strip()
        sats = int(text) if _SATS.match(text) else 0
        if sats <= 0 or asked not in (None, sats):
            raise InvalidRequest("A deposit is one positive whole number of sats.", param=name.decode("ascii"))
        asked = sats
    return asked


def deposit_sats(policy: ChallengePolicy, *, asked: int | None, needed_msat: int = 0) -> int:
    """How much to ask for, within the policy's limits: what the client asked, else the default, or more where the
    request at hand needs more, so that nobody pays and is then not served."""
    wanted = asked if asked is not None else max(policy.default_deposit_sats, ceil_div(needed_msat, MSAT_PER_SAT))
    return min(max(wanted, policy.least_deposit_sats), policy.greatest_deposit_sats)


def write_memo(memo: Memo, *, amount_msat: int, key: bytes) -> str:
    """The text of the invoice."""
    text = _memo_text(memo)
    return f"{text} mac={_memo_mac(text, amount_msat, key)}"


def read_memo(text: str, *, amount_msat: int, keys: Sequence[bytes]) -> Memo | None:
    """What an invoice over `amount_msat` (as asked, not as paid) credits; None when it is not ours."""
    match = _MEMO.match(text)
    if match is None:
        return None
    service, token, nonce, rate, mac = match.groups()
    memo = Memo(service, bytes.fromhex(token), bytes.fromhex(nonce), Rate(int(rate)))
    plain = _memo_text(memo)
    ours = any(hmac.compare_digest(_memo_mac(plain, amount_msat, key), mac) for key in keys)
    return memo if ours and memo.rate.microusd_per_btc > 0 else None


def www_authenticate(challenge: Challenge) -> str:
    """The header's value; this order, and no other parameter by these names."""
    token = challenge.macaroon
    return f'L402 macaroon="{token}", invoice="{challenge.invoice}", version="0", token="{token}"'


def challenge_members(
    challenge: Challenge, *, payment_methods: Sequence[str], cost_nanousd: int | None
) -> dict[str, Any]:
    """The members of the 402 body. `cost_nanousd` is the price of the request where it is known, else what the
    deposit is worth."""
    payment_hash = challenge.payment_hash.hex()
    expires_at = datetime.fromtimestamp(challenge.expires_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    worth = cost_nanousd if cost_nanousd is not None else _worth_nanousd(challenge)
    return {
        "cost": {"amount": usd_string(worth), "currency": "USD"},
        "payment_methods": list(payment_methods),
        "invoice": challenge.invoice,
        "macaroon": challenge.macaroon,
        "paymentHash": payment_hash,
        "payment_hash": payment_hash,
        "amountSats": challenge.amount_sats,
        "amount_sats": challenge.amount_sats,
        "priceSats": challenge.amount_sats,
        "creditSats": challenge.amount_sats,
        "expiresAt": expires_at,
        "expires_at": expires_at,
    }


def token_of_top_up(shown_token_id: bytes, *, attenuated: bool) -> bytes | None:
    """The token that a spent credential's challenge carries: its own while only we restricted it, else None (a new
    one). A delegate who pays one sat must not come to own the whole balance."""
    return None if attenuated else shown_token_id


def _worth_nanousd(challenge: Challenge) -> int:
    return challenge.amount_sats * MSAT_PER_SAT * challenge.rate.microusd_per_btc * 1_000 // MSAT_PER_BTC


def _memo_text(memo: Memo) -> str:
    return (
        f"farebox credit: service={memo.service} token={memo.token_id.hex()} nonce={memo.nonce.hex()} "
        f"rate={memo.rate.microusd_per_btc}"
    )


def _memo_mac(text: str, amount_msat: int, key: bytes) -> str:
    return hmac.digest(key, f"{text} amount_msat={amount_msat}".encode(), "sha256").hex()[:MAC_HEX_DIGITS]
