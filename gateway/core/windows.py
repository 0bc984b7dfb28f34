"""Windows of a budget: from which instant to which one counter counts.

Calendar windows begin at local midnight (weeks on Monday, months on the first); anniversary windows at the anchor's
local time of day, on its weekday or day of the month (a day that a month has not is its last). Local times that do not
exist or exist twice are taken at their first instant. A change of window or time zone applies from the next window: the
new rule's first window begins where the old one ends, so that windows tile time without gap or overlap. The failure
this prevents: a month's budget that starts afresh because somebody moved the account to another time zone.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from gateway.core.directory import TimeZoneRule, WindowRule
from gateway.core.errors import InvalidRequest

WINDOWS = ("day", "week", "month", "total")
PERIODS = ("calendar", "anniversary")
TOTAL = "total"
_UTC_ZONE = TimeZoneRule(0, "UTC")
# No window, and no chain of two of them, is longer: a time zone that was left before then cuts none any more.
_LONGEST_CHAIN_MS = 100 * 86_400_000


@dataclass(frozen=True, slots=True)
class Window:
    """`ends_at_ms` None: never (`total`). The id is unique for its start, whatever rule made it."""

    window_id: str
    starts_at_ms: int
    ends_at_ms: int | None

    def elapsed_ppm(self, now_ms: int) -> int:
        """How much of the window has passed, in millionths."""
        if self.ends_at_ms is None:
            return 0
        length = self.ends_at_ms - self.starts_at_ms
        return max(0, min(1_000_000, (now_ms - self.starts_at_ms) * 1_000_000 // max(length, 1)))


def zone_of(name: str, *, param: str = "time_zone") -> ZoneInfo:
    """Errors: InvalidRequest naming `param` where there is no such IANA time zone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidRequest(f"{name[:64]!r} is no IANA time zone; e.g. Europe/Berlin", param=param) from None


def window_at(rules: Sequence[WindowRule], zones: Sequence[TimeZoneRule], anchor_ms: int, now_ms: int) -> Window:
    """The window that holds at `now_ms`."""
    rule, since_ms = _in_force(rules, now_ms)
    if rule.window == TOTAL:
        return Window(TOTAL, since_ms, _next_start(rules, now_ms))
    start, end = _zoned(rule, zones, anchor_ms, now_ms)
    start = max(start, since_ms)
    later = _next_start(rules, now_ms)
    end = end if later is None else min(end, later)
    return Window(_window_id(rule.window, start), start, end)


def share_a_window(one: Sequence[WindowRule], other: Sequence[WindowRule], now_ms: int) -> bool:
    """Whether two budgets have the same kind of window at some instant from now on: a change that waits for the next
    window leaves the one that runs as it is."""
    changes = [each.from_ms for each in (*one[1:], *other[1:]) if each.from_ms > now_ms]
    return any(_in_force(one, at)[0].window == _in_force(other, at)[0].window for at in (now_ms, *changes))


def _zoned(rule: WindowRule, zones: Sequence[TimeZoneRule], anchor_ms: int, now_ms: int) -> tuple[int, int]:
    """Start and end of the rule's window that holds now. The window that runs while the zone changes runs to its end in
    the old one; what was changed again by then never cut any."""
    zone, since_ms = (zones[0] if zones else _UTC_ZONE).time_zone, 0
    for change in zones[1:]:
        if change.from_ms > now_ms:
            break
        if change.from_ms > since_ms:
            switch_ms = _cut(rule, zone, anchor_ms, since_ms, change.from_ms)[1]
            if switch_ms > now_ms:
                break
            since_ms = switch_ms
        zone = change.time_zone
    return _cut(rule, zone, anchor_ms, since_ms, now_ms)


def _cut(rule: WindowRule, zone: str, anchor_ms: int, since_ms: int, at_ms: int) -> tuple[int, int]:
    """The window around an instant in a zone that holds since `since_ms` (0: always). Its first window begins there;
    one that would be shorter than half of its kind is joined to the next, for a limit is not made for hours."""
    start, end = _natural(rule, zone, anchor_ms, since_ms) if since_ms else (0, 0)
    if start < since_ms:
        if (end - since_ms) * 2 < end - start:
            end = _natural(rule, zone, anchor_ms, end)[1]
        if at_ms < end:
            return since_ms, end
    return _natural(rule, zone, anchor_ms, at_ms)


def day_at(zones: Sequence[TimeZoneRule], now_ms: int) -> tuple[str, int]:
    """The local date (`YYYY-mm-dd`) and the instant in ms at which it ends; for usage."""
    zone = ZoneInfo(_zone_in_force(zones, now_ms)[0].time_zone)
    local = _local(now_ms, zone)
    return local.date().isoformat(), _instant(local.date() + timedelta(days=1), (0, 0, 0), zone)


def with_rule(
    rules: Sequence[WindowRule], zones: Sequence[TimeZoneRule], anchor_ms: int, new: WindowRule, now_ms: int
) -> tuple[WindowRule, ...]:
    """The rules to store when a budget's window changes: the new one holds from the end of the running window."""
    rule, _ = _in_force(rules, now_ms)
    kept = tuple(each for each in rules if each.from_ms <= now_ms)[-1:]
    if (rule.window, rule.period) == (new.window, new.period):
        return kept
    ends_at_ms = window_at(kept, zones, anchor_ms, now_ms).ends_at_ms
    # A total has no next window: what replaces it begins now.
    return (*kept, WindowRule(now_ms if ends_at_ms is None else ends_at_ms, new.window, new.period))


def with_zone(zones: Sequence[TimeZoneRule], time_zone: str, now_ms: int) -> tuple[TimeZoneRule, ...]:
    """The rules to store when an account's time zone changes: from the end of the running local day on."""
    zone_of(time_zone)
    begun = tuple(each for each in zones if each.from_ms <= now_ms) or (_UTC_ZONE,)
    ended = sum(later.from_ms < now_ms - _LONGEST_CHAIN_MS for later in begun[1:])
    kept = begun[ended:]
    if kept[-1].time_zone == time_zone:
        return kept
    return (*kept, TimeZoneRule(day_at(kept, now_ms)[1], time_zone))


def _in_force(rules: Sequence[WindowRule], now_ms: int) -> tuple[WindowRule, int]:
    """The rule that holds, and since when (0: always)."""
    if not rules:
        message = "a budget has at least one window rule"
        raise ValueError(message)
    found = rules[0]
    for each in rules[1:]:
        if each.from_ms <= now_ms:
            found = each
    return found, found.from_ms


def _zone_in_force(zones: Sequence[TimeZoneRule], now_ms: int) -> tuple[TimeZoneRule, int]:
    found, since_ms = (zones[0] if zones else _UTC_ZONE), 0
    for each in zones[1:]:
        if each.from_ms <= now_ms:
            found, since_ms = each, each.from_ms
    return found, since_ms


def _next_start(rules: Sequence[WindowRule] | Sequence[TimeZoneRule], now_ms: int) -> int | None:
    return min((each.from_ms for each in rules[1:] if each.from_ms > now_ms), default=None)


@lru_cache(maxsize=4_096)
def _natural_cached(window: str, period: str, zone_name: str, anchor_ms: int, day_ms: int) -> tuple[int, ...]:
    """The starts of windows around a day: enough to find the one that holds."""
    zone = ZoneInfo(zone_name)
    day = _local(day_ms, zone).date()
    anchor = _local(anchor_ms, zone) if period == "anniversary" else None
    at = (anchor.hour, anchor.minute, anchor.second) if anchor else (0, 0, 0)
    if window == "day":
        days = [day + timedelta(days=offset) for offset in range(-2, 4)]
    elif window == "week":
        weekday = anchor.weekday() if anchor else 0
        first = day - timedelta(days=(day.weekday() - weekday) % 7)
        days = [first + timedelta(weeks=offset) for offset in range(-1, 3)]
    else:
        month_day = anchor.day if anchor else 1
        days = [_month_day(day.year, day.month + offset, month_day) for offset in range(-1, 3)]
    return tuple(sorted({_instant(each, at, zone) for each in days}))


def _natural(rule: WindowRule, zone_name: str, anchor_ms: int, now_ms: int) -> tuple[int, int]:
    """Start and end of the rule's own window around an instant."""
    anchor = anchor_ms if rule.period == "anniversary" else 0
    starts = _natural_cached(rule.window, rule.period, zone_name, anchor, now_ms // 86_400_000 * 86_400_000)
    if starts[-1] <= now_ms:  # the instant lies at the very end of the cached day
        starts = _natural_cached(rule.window, rule.period, zone_name, anchor, now_ms)
    before = max(start for start in starts if start <= now_ms)
    return before, min(start for start in starts if start > now_ms)


def _month_day(year: int, month: int, day: int) -> date:
    """A day of a month; months beyond 1 to 12 belong to the years beside, days beyond the last are the last."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))


def _instant(day: date, at: tuple[int, int, int], zone: ZoneInfo) -> int:
    """The first instant whose local time is at or after `at` on this day, in ms."""
    local = datetime(day.year, day.month, day.day, *at, tzinfo=zone)
    instant = local.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
        # In a gap: local clocks jump over it. The jump itself is the instant.
        before, after = local.replace(fold=1).astimezone(UTC), local.astimezone(UTC)
        instant = _jump(min(before, after), max(before, after), zone)
    return int(instant.timestamp()) * 1_000


def _jump(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The instant between the two at which the zone's offset changes, to the second."""
    offset = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _local(instant_ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(instant_ms // 1_000, UTC).astimezone(zone)


def _window_id(window: str, starts_at_ms: int) -> str:
    start = datetime.fromtimestamp(starts_at_ms // 1_000, UTC)
    return f"{window[0]}{start:%Y%m%dT%H%M%S}"


def named_window(window_id: str) -> tuple[str, int]:
    """Kind and start of a window by its id; a total's start is not in it: 0. Errors: ValueError where it is none."""
    if window_id == TOTAL:
        return TOTAL, 0
    start = datetime.strptime(window_id[1:], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    for kind in WINDOWS:
        if window_id[0] == kind[0] and kind != TOTAL:
            return kind, int(start.timestamp()) * 1_000
    raise ValueError(window_id)
