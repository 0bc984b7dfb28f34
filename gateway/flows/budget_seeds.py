"""What a new budget starts from: what its window has used already, as far as the days' usage tells.

"Not more than 50 USD this month" counts the whole month, also when it is said on the twentieth. Days are whole: a
window that begins within a day counts all of that day. Sessions and tasks start at nothing, for usage does not tell
them apart. What runs while the budget is made counts in none that came later. A counter that stands is only ever added
to, so what is posted meanwhile is not lost. What it lacks is known where it stood still while the usage was read: a
posting is then in both or in neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.accounts import CounterState
from gateway.core.budgets import EVERYBODY, definition_window, scope_text
from gateway.core.directory import BudgetDefinition, OrgView, Scope

# Persons whom one default budget starts with what they used: the greatest spenders; about 15 ms of the store's time.
PERSONS_MOST = 5_000
# Reading takes milliseconds: only a counter that many requests share moves each time.
_LOOKS = 4
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
    window = definition_window(definition, org.org, now_ms)

    async def looked_up() -> dict[str, int]:
        used = await used_since(org, definition.scope, window.starts_at_ms, now_ms)
        return _by_counter(used, definition.scope, org.org.org_id)

    async def standing(texts: Iterable[str]) -> dict[str, int | None]:
        names = list(texts)
        found = await counters.counters(org.org.org_id, [(window.window_id, text) for text in names])
        return {
            text: None if counter is None else counter.used
            for text, (counter, _) in zip(names, found, strict=True)
        }  # fmt: skip

    amounts = await looked_up()
    for _ in range(_LOOKS):
        before = await standing(amounts)
        amounts = await looked_up()
        if await standing(amounts) == before:
            break
    # Where postings never paused, what came meanwhile is rather counted twice than left out of a limit.
    ends_at_ms = 0 if window.ends_at_ms is None else window.ends_at_ms + _OUTLIVES_MS
    starts, adds = [], []
    for text, amount in amounts.items():
        name, used = f"c:{window.window_id}|{text}", before.get(text)
        if used is None:
            starts += [(name, amount, ends_at_ms)] if amount else []
        elif amount > used:
            adds.append((name, amount - used))
    return Seeds(tuple(starts), tuple(adds))


def _by_counter(used: Mapping[str, int], scope: Scope, org_id: str) -> dict[str, int]:
    """What was used by each counter of a budget: of a default one for the greatest spenders."""
    if scope.user != EVERYBODY:
        return {scope_text(scope, org_id): sum(used.values())}
    of_persons = sorted(((amount, user) for user, amount in used.items() if user), reverse=True)[:PERSONS_MOST]
    return {scope_text(scope, org_id, user): amount for amount, user in of_persons}
