"""What the scripts answer, read straight into the ledger's values. Replies are lists whose first member is the word of
the answer (each script's header lists them); a word that is none of the good ones is a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.adapters.redis.keys import claim_of
from gateway.core.accounts import POCKETS, Budget
from gateway.core.holds import Balance, HoldRecord, LimitHit, PocketState, Posted, Refusal, Refused, ScopeClaim
from gateway.core.money import Rate, Unit

BALANCE_FIELDS = (
    "unit", "available", "held", "credited", "posted", "debt", "rate", "shortfalls", "class", "frozen",
    "plan", "period", "period_ends", "granted", "period_base", "lowering", "plan_limit",
    "own_limit", *POCKETS,
)  # fmt: skip
BUDGET_FIELDS = ("limit", "state", "raised", "raised_until")
_ONE_POCKET = 6  # members of an ending's reply without what each pocket paid
_REFUSALS = {reason.value.encode(): reason for reason in Refusal}
_ABOUT_A_SCOPE = frozenset({
    Refusal.LIMIT, Refusal.PAUSED, Refusal.NO_BUDGET, Refusal.STALE_WINDOW, Refusal.QUOTE_UNKNOWN, Refusal.QUOTE_OPEN,
    Refusal.QUOTE_REFUSED, Refusal.QUOTE_EXPIRED, Refusal.QUOTE_USED, Refusal.QUOTE_MISMATCH,
})  # fmt: skip


class StoredHold(msgspec.Struct, array_like=True, frozen=True):
    """The hold record, member for member as prelude.lua names them."""

    state: str
    account: str
    floor: int
    first: int
    ceiling: int
    amount: int
    earned: int
    posted: int
    shortfall: int
    rate: int
    worker: str
    owner: str
    placed_at: int
    renewed_until: int
    lifetime: int
    must_end: int
    ended_at: int
    split: list[int]
    scopes: list[list[Any]]
    labels: str
    outcome: str
    cost: int
    asked: int


_decode_hold = msgspec.msgpack.Decoder(StoredHold).decode


def read_hold(raw: bytes) -> StoredHold:
    return _decode_hold(raw)


def hold_record(hold_id: str, stored: StoredHold) -> HoldRecord:
    return HoldRecord(
        hold_id=hold_id,
        account=stored.account,
        state=stored.state,
        floor=stored.floor,
        ceiling=stored.ceiling,
        amount=stored.amount,
        earned=stored.earned,
        posted=stored.posted,
        shortfall=stored.shortfall,
        rate=Rate(stored.rate),
        worker=stored.worker,
        placed_at_ms=stored.placed_at,
        renewed_until_ms=stored.renewed_until,
        ended_at_ms=stored.ended_at or None,
        labels=stored.labels.encode(),
        outcome=stored.outcome.encode(),
        scopes=tuple(
            claim_of(counter, budget, limit, ends, "".join(more[:1]))
            for counter, budget, _, limit, ends, *more in stored.scopes
        ),
        owner=stored.owner,
        pockets=tuple(zip(POCKETS, stored.split, strict=False)),
        must_end_at_ms=stored.must_end,
    )


def refused(reply: Sequence[Any], claims: Sequence[ScopeClaim] = ()) -> Refused:
    """A refusal with what it tells besides. Errors: KeyError on a word that no script says."""
    reason = _REFUSALS[reply[0]]
    available, held = (reply[1], reply[2]) if len(reply) > 2 else (0, 0)
    if reason is Refusal.RATE_CHANGED:
        return Refused(reason, available, held, rate=Rate(reply[3]))
    if reason not in _ABOUT_A_SCOPE:
        return Refused(reason, available, held)
    claim = claims[reply[3] - 1]
    hit = LimitHit(
        scope=claim.scope,
        window=claim.window,
        budget_id=claim.budget_id,
        limit=reply[4],
        used=reply[5],
        held=reply[6],
        resets_at_ms=claim.window_ends_at_ms,
        measure=claim.measure,
        on_exceed=claim.on_exceed,
    )
    return Refused(reason, available, held, limit=hit)


def ended(reply: Sequence[Any]) -> Posted | Refused:
    """The answer of post, void and expire."""
    if reply[0] != b"ended":
        return refused(reply)
    pockets = tuple(zip(POCKETS, reply[6:], strict=False)) if len(reply) > _ONE_POCKET else ()
    return Posted(reply[1].decode(), reply[2], reply[3], reply[4], pockets, reply[5] == 1)


def balance(account: str, values: Sequence[bytes | None]) -> Balance | None:
    """What HMGET of `BALANCE_FIELDS` says; None where there is no account."""
    unit, available, held, credited, posted, debt, rate, shortfalls, account_class, frozen, *more = values
    plan, period_id, period_ends, granted, base, lowering, plan_limit, own_limit, *pockets = more
    if unit is None:
        return None
    states = tuple(
        PocketState(name, *map(int, value.split())) for name, value in zip(POCKETS, pockets, strict=True) if value
    )
    return Balance(
        account=account,
        unit=Unit(unit.decode()),
        available=int(available or 0),
        held=int(held or 0),
        credited=int(credited or 0),
        posted=int(posted or 0),
        debt=int(debt or 0),
        rate=Rate(int(rate or 0)),
        pockets=tuple((state.name, state.available) for state in states),
        shortfalls=int(shortfalls or 0),
        account_class=(account_class or b"").decode(),
        frozen=frozen is not None,
        pocket_states=states,
        plan=(plan or b"").decode(),
        period_id=(period_id or b"").decode(),
        period_ends_at_ms=int(period_ends or 0),
        allowance_granted=int(granted or 0),
        period_base=tuple(map(int, (base or b"").split())),
        lowering=int(lowering or 0),
        plan_limit=int(plan_limit or 0),
        own_limit=own_limit is not None,
    )


def budget(budget_id: str, values: Sequence[bytes | None]) -> Budget | None:
    """What HMGET of `BUDGET_FIELDS` says; None where there is no record."""
    limit, state, raised, until = values
    if limit is None and state is None:
        return None
    return Budget(
        budget_id,
        None if limit is None else int(limit),
        (state or b"active").decode(),
        raised_to=int(raised or 0),
        raised_until_ms=int(until or 0),
    )
