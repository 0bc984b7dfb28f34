"""A quote: what a piece of work may cost, asked before it runs, and what became of the question.

It is bound to the request by a digest, to the price book in force, to the person and to an expiry, and buys one hold.
Amounts are nanousd.
"""

from __future__ import annotations

import json
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct


class Tier(StrEnum):
    """What an approval takes."""

    AUTO = "auto"
    EXPLICIT = "explicit"
    STEP_UP = "step_up"


class QuoteState(StrEnum):
    """open -> approved -> used; open -> refused. `used` goes back to `approved` where its hold is voided at nothing.
    Past its expiry a quote is neither approved nor used."""

    OPEN = "open"
    APPROVED = "approved"
    REFUSED = "refused"
    USED = "used"


class Estimate(Struct, frozen=True):
    """What a request is expected to cost. `most` is what it can cost at all. `confidence` is a share from 0 to 1 that
    `expected` is not passed."""

    least: int
    expected: int
    most: int
    confidence: float


class Quote(Struct, frozen=True):
    """As the store has it."""

    quote_id: str  # q_NN...
    org_id: str
    account: str
    person_id: str
    key_id: str
    session: str
    digest: str  # request_digest
    prices: str  # digest of the policies in force
    estimate: Estimate
    tier: Tier
    reason: str  # tier | cumulative | budget: why it needs an approval
    lifts: tuple[str, ...] = ()  # budgets (`ask`) that an approval lets the request pass
    two_persons: bool = False
    of_organization: bool = False  # it lifts a budget that is not the person's alone
    model: str = ""
    route: str = ""
    created_at_ms: int = 0
    expires_at_ms: int = 0
    state: QuoteState = QuoteState.OPEN
    approved_max: int = 0
    approved_by: tuple[str, ...] = ()  # persons, or `key ak_...` where the key speaks for itself
    hold_id: str = ""


def likeness(quote: Quote) -> str:
    """What two quotes have in common that ask the same of the same payer: 32 hex digits."""
    parts = (quote.account, quote.person_id, quote.key_id if not quote.person_id else "", quote.digest, *quote.lifts)
    figures = f"{quote.estimate.most} {quote.tier} {quote.two_persons} {quote.of_organization}"
    return sha256("\0".join((*parts, figures)).encode()).hexdigest()[:32]


def request_digest(
    *, method: str, path: str, query: bytes, body: bytes, content_type: bytes, person_id: str, key_org: str, prices: str
) -> str:
    """What an approval is for: 40 hex digits. Another body, path, person or price book is another request.
    `content_type`: as it stands, where it says how the body's bytes are read; b"" where that is certain (JSON)."""
    parts = (
        method.encode(),
        path.encode(),
        query,
        body,
        content_type,
        person_id.encode(),
        key_org.encode(),
        prices.encode(),
    )
    return sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()[:40]


def canonical(body: bytes) -> bytes:
    """A body as the digest takes it: another serialisation of the same JSON is the same request. One that a parser
    might read otherwise than ours (a name twice in an object) is taken by its bytes."""
    try:
        json.loads(body, object_pairs_hook=_named_once)
        return msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    except (ValueError, RecursionError):
        return body


def _named_once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError
