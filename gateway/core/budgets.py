"""Budgets: which of them a request counts on, in which window, and how they are shown.

Choosing claims is pure; the ledger checks and reserves them all in the step that moves the money. A budget of everybody
(`user: "*"`) counts each person by themselves; a person's own one on the same scope and window replaces it for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.accounts import Budget, CounterState
from gateway.core.directory import BudgetDefinition, Org, OrgView, PersonView, Scope, encoded
from gateway.core.holds import Measure, ScopeClaim
from gateway.core.money import Unit, money_object
from gateway.core.request_record import rfc3339
from gateway.core.windows import Window, window_at

EVERYBODY = "*"
EXCEED = ("refuse", "pause", "ask")
# In a window's first twentieth a straight line says nothing.
LEAST_ELAPSED_PPM = 50_000
_NAMES = ("key", "user", "session", "task", "model")
_FOREVER_MS = 2**53 - 1


class BudgetFacts(Struct, frozen=True):
    """What of a request budgets look at. `model` is the canonical name, whatever alias was used."""

    org_id: str
    key_id: str = ""
    person_id: str = ""
    session: str = ""
    task: str = ""
    model: str = ""

    def of(self, name: str) -> str:
        """The request's own value of a scope's member."""
        return self.person_id if name == "user" else self.key_id if name == "key" else str(getattr(self, name))


def scope_text(scope: Scope, org_id: str, person_id: str = "") -> str:
    """The name of a scope's counter: `<org>&user=alice&model=...`. `person_id`: for whom, where it counts everybody."""
    text = org_id
    for name in _NAMES:
        value: str = getattr(scope, name)
        if name == "user" and value == EVERYBODY:
            value = person_id
        if value:
            text += f"&{name}={encoded(value)}"
    return text


def scope_of_text(text: str) -> Scope:
    """The scope that a counter's name names; of a default budget's with its person. Errors: TypeError where it is
    none."""
    org, *members = text.split("&")
    return Scope(org, **{name: unquote(value) for name, _, value in (member.partition("=") for member in members)})


def applies(scope: Scope, facts: BudgetFacts) -> bool:
    """Whether a request has all that the scope names."""
    for name in _NAMES:
        wanted: str = getattr(scope, name)
        if wanted and (not facts.of(name) if (name, wanted) == ("user", EVERYBODY) else wanted != facts.of(name)):
            return False
    return True


def standing_for(own: Sequence[BudgetDefinition], org: OrgView, now_ms: int) -> list[BudgetDefinition]:
    """The budgets that name a person, and the default ones that none of those replaces: on the same scope and window,
    as they count now."""

    def place(each: BudgetDefinition) -> tuple[Scope, str]:
        return replace(each.scope, user=EVERYBODY), definition_window(each, org.org, now_ms).window_id

    taken = {place(each) for each in own if not has_ended(each, now_ms)}
    default = [each for each in org.budgets if each.scope.user == EVERYBODY]
    return [*own, *(each for each in default if place(each) not in taken)]


def has_ended(definition: BudgetDefinition, now_ms: int) -> bool:
    """Whether the budget has ended by itself."""
    return 0 < definition.until_ms <= now_ms


def definition_window(definition: BudgetDefinition, org: Org, now_ms: int) -> Window:
    """The window of a budget that holds now."""
    return window_at(definition.rules, org.time_zones, org.anchor_ms, now_ms)


def claims_for(
    org: OrgView, person: PersonView | None, facts: BudgetFacts, now_ms: int
) -> tuple[tuple[ScopeClaim, ...], int]:
    """The claims of all budgets that count this request, the widest first, and the instant until which they hold."""
    valid_until_ms = _FOREVER_MS
    chosen: dict[tuple[str, str], ScopeClaim] = {}
    definitions = [*org.budgets, *(person.budgets if person is not None else ())]  # the person's own ones last
    for definition in definitions:
        if definition.until_ms:
            if now_ms >= definition.until_ms:
                continue
            valid_until_ms = min(valid_until_ms, definition.until_ms)
        if not applies(definition.scope, facts):
            continue
        window = definition_window(definition, org.org, now_ms)
        if now_ms < definition.raised_until_ms:
            valid_until_ms = min(valid_until_ms, definition.raised_until_ms)
        claim = _claim(definition, window, org.org.org_id, facts.person_id, now_ms)
        if definition.scope.user != EVERYBODY or (claim.scope, claim.window) not in chosen:
            chosen[claim.scope, claim.window] = claim
        if window.ends_at_ms is not None:
            valid_until_ms = min(valid_until_ms, window.ends_at_ms)
    return tuple(
        sorted(chosen.values(), key=lambda claim: (len(claim.scope), claim.scope, claim.window))
    ), valid_until_ms


def _claim(definition: BudgetDefinition, window: Window, org_id: str, person_id: str, now_ms: int) -> ScopeClaim:
    is_default = definition.scope.user == EVERYBODY
    limit = definition.raised_to if now_ms < definition.raised_until_ms else definition.limit
    return ScopeClaim(
        scope=scope_text(definition.scope, org_id, person_id),
        window=window.window_id,
        limit=limit if is_default else None,
        budget_id=record_id(definition, person_id),
        window_ends_at_ms=window.ends_at_ms,
        detail=detail_of(definition),
    )


def record_id(definition: BudgetDefinition, person_id: str = "") -> str:
    """The id of the live record: a default budget has one for each person who was paused or raised."""
    if definition.scope.user == EVERYBODY:
        return f"{definition.budget_id}~{encoded(person_id)}"
    return definition.budget_id


def detail_of(definition: BudgetDefinition) -> str:
    """What the ledger is told besides the limit; "" where there is nothing to tell."""
    if definition.on_exceed == "refuse" and not definition.alerts_pct:
        return ""
    shares = " ".join(map(str, sorted(definition.alerts_pct)))
    return f"{definition.on_exceed} {definition.org_id} {shares}".rstrip()


def holding_claims(org: Org, account: str, key_id: str, person_id: str) -> tuple[ScopeClaim, ...]:
    """Caps on what is open and held at once, so that nobody freezes the others. A share is one of the account that
    pays: what is held on another one leaves it alone.

    Whoever a request names is the one whose cap it counts on; the key's own is for requests that name nobody. Counted
    on the key too, the first person of an app with one key would use up the share of all its others. A key that invents
    persons to hold more gets so many a minute, and a budget on the key limits all that it holds and spends."""
    who = f"{org.org_id}&user={encoded(person_id)}" if person_id else f"{org.org_id}&key={key_id}"
    claims = []
    if org.most_open_holds:
        claims.append(ScopeClaim(who, "now", Measure.OPEN, org.most_open_holds))
    if org.share_ppm < 1_000_000:
        claims.append(ScopeClaim(f"{who}&account={account}", "now", Measure.SHARE, org.share_ppm))
    return tuple(claims)


def usage_claim(account: str, day: str, *, model: str, person_id: str, key_id: str) -> ScopeClaim:
    """The line of a day's usage that the posting counts."""
    line = f"{encoded(model)}|{encoded(person_id)}|{key_id}"
    return ScopeClaim(account, day, Measure.USAGE, detail=line)


def forecast(used: int, window: Window, now_ms: int) -> int | None:
    """What the window's end will have used on a straight line; None where it is too early to say."""
    elapsed_ppm = window.elapsed_ppm(now_ms)
    if window.ends_at_ms is None or elapsed_ppm < LEAST_ELAPSED_PPM:
        return None
    return used * 1_000_000 // elapsed_ppm


def limit_now(definition: BudgetDefinition, live: Budget | None, now_ms: int) -> int:
    """The limit that holds now. The live record says it; of a default budget it has only what one person's differs
    by."""
    if live is not None and now_ms < live.raised_until_ms:
        return live.raised_to
    if live is not None and live.limit is not None:
        return live.limit
    return definition.raised_to if now_ms < definition.raised_until_ms else definition.limit


def budget_object(
    definition: BudgetDefinition,
    *,
    window: Window,
    live: Budget | None,
    counter: CounterState | None,
    now_ms: int,
    alerted_pct: Sequence[int] = (),
) -> dict[str, Any]:
    """The budget object of the HTTP contract."""
    rule = next(each for each in reversed(definition.rules) if each.from_ms <= now_ms or each is definition.rules[0])
    used, held = (counter.used, counter.held) if counter is not None else (0, 0)
    raised_until_ms = (
        live.raised_until_ms if live is not None and live.limit is not None else definition.raised_until_ms
    )
    raised = now_ms < raised_until_ms
    until_ms = raised_until_ms if raised else definition.until_ms
    expected = forecast(used, window, now_ms)
    scope = {name: getattr(definition.scope, name) for name in _NAMES if getattr(definition.scope, name)}
    return {
        "id": definition.budget_id,
        "scope": {"org": definition.org_id, **scope},
        "window": rule.window,
        "period": rule.period,
        "limit": money_object(limit_now(definition, live, now_ms), Unit.NANOUSD),
        "alerts_pct": list(definition.alerts_pct),
        "forecast_alert": definition.forecast,
        "on_exceed": definition.on_exceed,
        "used": money_object(used, Unit.NANOUSD),
        "held": money_object(held, Unit.NANOUSD),
        "resets_at": None if window.ends_at_ms is None else rfc3339(window.ends_at_ms),
        "state": live.state if live is not None else "active",
        "alerted_pct": list(alerted_pct),
        "forecast": None if expected is None else money_object(expected, Unit.NANOUSD),
        **({"until": rfc3339(until_ms)} if until_ms else {}),
        **({"limit_after": money_object(definition.limit, Unit.NANOUSD)} if raised else {}),
        **_next_rule(definition, now_ms),
    }


def _next_rule(definition: BudgetDefinition, now_ms: int) -> dict[str, Any]:
    """A window that was changed and holds from the next one on."""
    later = [each for each in definition.rules[1:] if each.from_ms > now_ms]
    if not later:
        return {}
    return {"next": {"window": later[0].window, "period": later[0].period, "from": rfc3339(later[0].from_ms)}}
