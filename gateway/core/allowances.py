"""Session allowances: what a person agreed to in advance. Within one nothing is asked; past it the tiers decide.

"This session may spend 2 USD on these models, 0.20 a call, until 18:00": counted in the same step as the money.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct

from gateway.core.directory import Allowance
from gateway.core.holds import Measure, ScopeClaim
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339


class AllowanceFacts(Struct, frozen=True):
    """What of a request an allowance looks at. `names`: what a route glob may fit."""

    session: str
    model: str
    names: tuple[str, ...]


def matches(allowance: Allowance, facts: AllowanceFacts, now_ms: int) -> bool:
    """Whether the allowance is for such a request now."""
    if allowance.revoked or (allowance.expires_at_ms and now_ms >= allowance.expires_at_ms):
        return False
    if allowance.session and allowance.session != facts.session:
        return False
    if allowance.routes and not any(fnmatchcase(name, glob) for glob in allowance.routes for name in facts.names):
        return False
    return not allowance.models or any(fnmatchcase(facts.model, glob) for glob in allowance.models)


def per_call(allowance: Allowance) -> int:
    """The most that one call may cost within it."""
    return min(allowance.per_call_cap or allowance.cap, allowance.cap)


def allowance_scope(allowance: Allowance) -> str:
    """The name of its counters."""
    return f"{allowance.org_id}&allowance={allowance.allowance_id}"


def allowance_claims(allowance: Allowance) -> tuple[ScopeClaim, ...]:
    """What a request within the allowance reserves of it."""
    scope, ends = allowance_scope(allowance), allowance.expires_at_ms or None
    claims = [ScopeClaim(scope, "total", Measure.MONEY, allowance.cap, window_ends_at_ms=ends)]
    if allowance.count:
        claims.append(ScopeClaim(scope, "total", Measure.USES, allowance.count, window_ends_at_ms=ends))
    return tuple(claims)


def allowance_object(allowance: Allowance, *, used: int, held: int, calls: int, now_ms: int) -> dict[str, Any]:
    """The allowance of the HTTP contract."""
    expired = bool(allowance.expires_at_ms) and now_ms >= allowance.expires_at_ms
    return {
        "id": allowance.allowance_id,
        "user": allowance.person_id,
        "session": allowance.session or None,
        "routes": list(allowance.routes),
        "models": list(allowance.models),
        "cap": money_object(allowance.cap, Unit.NANOUSD),
        "per_call_cap": money_object(per_call(allowance), Unit.NANOUSD),
        "count": allowance.count or None,
        "expires_at": rfc3339(allowance.expires_at_ms) if allowance.expires_at_ms else None,
        "used": money_object(used, Unit.NANOUSD),
        "held": money_object(held, Unit.NANOUSD),
        "left": money_object(max(allowance.cap - used - held, 0), Unit.NANOUSD),
        "calls": calls,
        "state": "revoked" if allowance.revoked else "expired" if expired else "active",
    }
