"""What a new budget starts from: what its window has used already, as far as the days' usage tells.

"Not more than 50 USD this month" counts the whole month, also when it is said on the twentieth. Days are whole: a
window that begins within a day counts all of that day. Sessions and tasks start at nothing, for usage does not tell
them apart. What runs while the budget is made counts in none that came later. A counter that stands is only ever added
to, so what is posted meanwhile is not lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.accounts import CounterState
from gateway.core.budgets import EVERYBODY, definition_window, scope_text
from gateway.core.directory import BudgetDefinition, OrgView, Scope

# Persons whom one default budget starts with what they used: the greatest spenders; about 15 ms of the store's time.
PERSONS_MOST = 5_000
# A counter outlives its window by the longest hold and retention.
_OUTLIVES_MS = 2 * 86_400_000

# What a scope has used since an instant, by person ("" for nobody's): (org, scope, since ms, now ms).
UsedSince = Callable[[OrgView, Scope, int, int], Awaitable[Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class Seeds:
    """`starts`: counter key without its tag, used so far, instant in ms at which it ends (0 never). `adds`: counter
    key, what a counter that stands lacks."""

    starts: tuple[tuple[str, int, int], ...] = ()
    adds: tuple[tuple[str, int], ...] = ()


class Counters(Protocol):
    """Where counters stand."""

    async def counters(
        self, org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]: ...


async def seeds_of(
    counters: Counters, used_since: UsedSince, org: OrgView, definition: BudgetDefinition, now_ms: int
) -> Seeds:
    """What the counters of a new budget start from."""
    if definition.scope.session or definition.scope.task:
        return Seeds()
    org_id, scope = org.org.org_id, definition.scope
    window = definition_window(definition, org.org, now_ms)
    used = await used_since(org, scope, window.starts_at_ms, now_ms)
    if scope.user == EVERYBODY:
        of_persons = sorted(((amount, user) for user, amount in used.items() if user), reverse=True)[:PERSONS_MOST]
        wanted = [(scope_text(scope, org_id, user), amount) for amount, user in of_persons]
    else:
        wanted = [(scope_text(scope, org_id), sum(used.values()))]
    ends_at_ms = 0 if window.ends_at_ms is None else window.ends_at_ms + _OUTLIVES_MS
    starts, adds = [], []
    found = await counters.counters(org_id, [(window.window_id, text) for text, _ in wanted])
    for (text, amount), (counter, _) in zip(wanted, found, strict=True):
        name = f"c:{window.window_id}|{text}"
        if counter is None:
            starts += [(name, amount, ends_at_ms)] if amount else []
        elif amount > counter.used:
            adds.append((name, amount - counter.used))
    return Seeds(tuple(starts), tuple(adds))
