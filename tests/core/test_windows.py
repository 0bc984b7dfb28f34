"""Windows of budgets: month ends, leap days, clocks that are put forward and back, changes of window and time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.directory import TimeZoneRule, WindowRule
from gateway.core.errors import InvalidRequest
from gateway.core.windows import Window, day_at, window_at, with_rule, with_zone, zone_of

DAY_MS = 86_400_000


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000


def utc(instant_ms: int | None) -> str:
    assert instant_ms is not None
    return f"{datetime.fromtimestamp(instant_ms // 1_000, UTC):%Y-%m-%d %H:%M}"


def window(kind: str, at: str, zone: str = "UTC", *, anchor: str = "") -> Window:
    period = "anniversary" if anchor else "calendar"
    anchor_ms = ms(anchor, zone) if anchor else 0
    return window_at([WindowRule(0, kind, period)], [TimeZoneRule(0, zone)], anchor_ms, ms(at))


CALENDAR = [
    # kind, zone, now (UTC), start and end (UTC)
    ("day", "UTC", "2026-11-28 12:00", "2026-11-28 00:00", "2026-11-29 00:00"),
    ("day", "UTC", "2026-11-28 00:00", "2026-11-28 00:00", "2026-11-29 00:00"),
    ("day", "UTC", "2026-11-28 23:59", "2026-11-28 00:00", "2026-11-29 00:00"),
    ("day", "Asia/Tokyo", "2026-11-28 15:00", "2026-11-28 15:00", "2026-11-29 15:00"),
    ("day", "Asia/Kathmandu", "2026-11-28 18:14", "2026-11-27 18:15", "2026-11-28 18:15"),
    ("day", "Pacific/Kiritimati", "2026-11-28 09:59", "2026-11-27 10:00", "2026-11-28 10:00"),
    ("week", "UTC", "2026-11-29 23:59", "2026-11-23 00:00", "2026-11-30 00:00"),
    ("week", "UTC", "2026-11-30 00:00", "2026-11-30 00:00", "2026-12-07 00:00"),
    ("week", "America/New_York", "2026-11-30 04:59", "2026-11-23 05:00", "2026-11-30 05:00"),
    ("month", "UTC", "2026-11-30 23:59", "2026-11-01 00:00", "2026-12-01 00:00"),
    ("month", "UTC", "2026-12-31 23:59", "2026-12-01 00:00", "2027-01-01 00:00"),
    ("month", "UTC", "2027-01-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"),
    ("month", "America/Los_Angeles", "2027-01-01 07:59", "2026-12-01 08:00", "2027-01-01 08:00"),
    # leap years: 2028 and 2000 are, 2100 is not
    ("month", "UTC", "2028-02-29 12:00", "2028-02-01 00:00", "2028-03-01 00:00"),
    ("month", "UTC", "2027-02-28 23:00", "2027-02-01 00:00", "2027-03-01 00:00"),
    ("month", "UTC", "2100-02-28 23:59", "2100-02-01 00:00", "2100-03-01 00:00"),
    ("day", "UTC", "2028-02-29 23:59", "2028-02-29 00:00", "2028-03-01 00:00"),
    # daylight saving: a day of 23 hours, one of 25, and months and weeks that hold them
    ("day", "Europe/Berlin", "2026-03-29 12:00", "2026-03-28 23:00", "2026-03-29 22:00"),
    ("day", "Europe/Berlin", "2026-10-25 12:00", "2026-10-24 22:00", "2026-10-25 23:00"),
    ("day", "America/New_York", "2026-03-08 12:00", "2026-03-08 05:00", "2026-03-09 04:00"),
    ("week", "Europe/Berlin", "2026-10-25 12:00", "2026-10-18 22:00", "2026-10-25 23:00"),
    ("month", "Europe/Berlin", "2026-10-31 22:59", "2026-09-30 22:00", "2026-10-31 23:00"),
    # midnight does not exist where clocks jump at it: the day begins with the jump
    ("day", "America/Santiago", "2026-09-06 12:00", "2026-09-06 04:00", "2026-09-07 03:00"),
    ("day", "Asia/Beirut", "2026-03-29 12:00", "2026-03-28 22:00", "2026-03-29 21:00"),
    # midnight exists twice where clocks go back over it: the day begins with the first
    ("day", "America/Havana", "2026-11-01 12:00", "2026-11-01 04:00", "2026-11-02 05:00"),
    # clocks that go back at midnight have it once: the day before has 25 hours
    ("day", "Asia/Beirut", "2026-10-24 12:00", "2026-10-23 21:00", "2026-10-24 22:00"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "zone", "now", "starts", "ends"), CALENDAR)
def test_calendar_windows(kind: str, zone: str, now: str, starts: str, ends: str) -> None:
    found = window(kind, now, zone)
    assert (utc(found.starts_at_ms), utc(found.ends_at_ms)) == (starts, ends)


ANNIVERSARY = [
    # kind, zone, anchor (local), now (UTC), start and end (UTC)
    ("month", "UTC", "2026-01-31 10:00", "2026-02-28 09:59", "2026-01-31 10:00", "2026-02-28 10:00"),
    ("month", "UTC", "2026-01-31 10:00", "2026-02-28 10:00", "2026-02-28 10:00", "2026-03-31 10:00"),
    ("month", "UTC", "2026-01-31 10:00", "2026-04-30 10:00", "2026-04-30 10:00", "2026-05-31 10:00"),
    ("month", "UTC", "2024-02-29 00:00", "2028-02-29 00:00", "2028-02-29 00:00", "2028-03-29 00:00"),
    ("month", "UTC", "2024-02-29 00:00", "2027-02-28 00:00", "2027-02-28 00:00", "2027-03-29 00:00"),
    ("month", "UTC", "2026-12-15 08:30", "2027-01-15 08:29", "2026-12-15 08:30", "2027-01-15 08:30"),
    ("month", "Europe/Berlin", "2026-03-10 02:30", "2026-03-28 12:00", "2026-03-10 01:30", "2026-04-10 00:30"),
    ("week", "UTC", "2026-11-25 18:00", "2026-12-02 17:59", "2026-11-25 18:00", "2026-12-02 18:00"),
    ("day", "UTC", "2026-11-25 18:00", "2026-11-28 17:59", "2026-11-27 18:00", "2026-11-28 18:00"),
    # 02:30 does not exist on the day the clocks are put forward: the jump, 01:00 UTC, is its instant
    ("day", "Europe/Berlin", "2026-01-05 02:30", "2026-03-29 12:00", "2026-03-29 01:00", "2026-03-30 00:30"),
    # 02:30 exists twice on the day they are put back: the first, 00:30 UTC, counts
    ("day", "Europe/Berlin", "2026-01-05 02:30", "2026-10-25 12:00", "2026-10-25 00:30", "2026-10-26 01:30"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "zone", "anchor", "now", "starts", "ends"), ANNIVERSARY)
def test_anniversary_windows(kind: str, zone: str, anchor: str, now: str, starts: str, ends: str) -> None:
    found = window(kind, now, zone, anchor=anchor)
    assert (utc(found.starts_at_ms), utc(found.ends_at_ms)) == (starts, ends)


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "Asia/Beirut", "America/Santiago",
         "Australia/Lord_Howe", "Pacific/Kiritimati", "Africa/Casablanca"]  # fmt: skip
instants = st.integers(ms("2024-01-01"), ms("2031-01-01"))


@given(
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["calendar", "anniversary"]),
    st.sampled_from(ZONES),
    instants,
    instants,
)
def test_windows_tile_time_without_gap_or_overlap(kind: str, period: str, zone: str, anchor: int, now: int) -> None:
    rules, zones = [WindowRule(0, kind, period)], [TimeZoneRule(0, zone)]
    found = window_at(rules, zones, anchor, now)
    assert found.ends_at_ms is not None and found.starts_at_ms <= now < found.ends_at_ms
    assert window_at(rules, zones, anchor, found.starts_at_ms) == found
    assert window_at(rules, zones, anchor, found.ends_at_ms - 1) == found
    after = window_at(rules, zones, anchor, found.ends_at_ms)
    assert after.starts_at_ms == found.ends_at_ms and after.window_id != found.window_id
    longest = {"day": 1, "week": 7, "month": 31}[kind] * DAY_MS + 3 * 3_600_000
    assert found.ends_at_ms - found.starts_at_ms <= longest


def test_a_total_never_ends_and_has_one_name() -> None:
    found = window("total", "2026-11-28 12:00")
    assert (found.window_id, found.ends_at_ms, found.elapsed_ppm(ms("2027-01-01"))) == ("total", None, 0)


def test_how_much_of_a_window_has_passed() -> None:
    found = window("day", "2026-11-28 12:00")
    shares = [found.elapsed_ppm(ms(at)) for at in ("2026-11-27 00:00", "2026-11-28 06:00", "2026-11-30 00:00")]
    assert shares == [0, 250_000, 1_000_000]


# A change of window.


def test_another_window_holds_from_the_end_of_the_running_one() -> None:
    now = ms("2026-11-18 12:00")
    rules = with_rule([WindowRule(0, "week")], [], 0, WindowRule(now, "month"), now)
    running = window_at(rules, [], 0, now)
    assert (utc(running.starts_at_ms), utc(running.ends_at_ms)) == ("2026-11-16 00:00", "2026-11-23 00:00")
    after = window_at(rules, [], 0, ms("2026-11-23 00:00"))
    assert (utc(after.starts_at_ms), utc(after.ends_at_ms)) == ("2026-11-23 00:00", "2026-12-01 00:00")


def test_changing_the_window_again_does_not_start_the_running_one_afresh() -> None:
    first = ms("2026-11-18 12:00")
    rules = with_rule([WindowRule(0, "week")], [], 0, WindowRule(first, "month"), first)
    second = ms("2026-11-25 12:00")
    before = window_at(rules, [], 0, second)
    again = with_rule(rules, [], 0, WindowRule(second, "day"), second)
    assert window_at(again, [], 0, second) == before
    assert window_at(again, [], 0, ms("2026-12-01 00:00")).window_id == "d20261201T000000"


def test_a_change_that_is_taken_back_in_time_never_was() -> None:
    now = ms("2026-11-18 12:00")
    rules = (WindowRule(0, "week"),)
    there = with_rule(rules, [], 0, WindowRule(now, "month"), now)
    assert with_rule(there, [], 0, WindowRule(now + 1, "week"), now + 1) == rules


def test_what_replaces_a_total_begins_now() -> None:
    now = ms("2026-11-18 12:00")
    rules = with_rule([WindowRule(0, "total")], [], 0, WindowRule(now, "day"), now)
    assert utc(window_at(rules, [], 0, now).starts_at_ms) == "2026-11-18 12:00"
    assert window_at(rules, [], 0, now - 1).ends_at_ms == now


# A change of time zone.


def test_a_month_runs_to_its_end_in_the_zone_it_began_in() -> None:
    now = ms("2026-11-18 12:00")
    zones = with_zone([TimeZoneRule(0, "UTC")], "Europe/Berlin", now)
    rules = [WindowRule(0, "month")]
    before = window_at(rules, zones[:1], 0, now)
    for at in ("2026-11-18 12:00", "2026-11-19 00:00", "2026-11-30 22:59", "2026-11-30 23:30"):
        assert window_at(rules, zones, 0, ms(at)) == before, "else the month's budget would begin anew"
    after = window_at(rules, zones, 0, ms("2026-12-01 00:00"))
    assert (utc(after.starts_at_ms), utc(after.ends_at_ms)) == ("2026-12-01 00:00", "2026-12-31 23:00")


def test_hours_that_are_left_over_at_a_change_of_zone_join_the_next_window() -> None:
    now = ms("2026-11-18 12:00")
    zones = with_zone([TimeZoneRule(0, "UTC")], "America/New_York", now)
    found = window_at([WindowRule(0, "month")], zones, 0, ms("2026-12-01 01:00"))
    assert (utc(found.starts_at_ms), utc(found.ends_at_ms)) == ("2026-12-01 00:00", "2027-01-01 05:00")
    assert window_at([WindowRule(0, "month")], zones, 0, ms("2026-12-20 01:00")) == found


@given(
    st.sampled_from(["day", "week", "month"]),
    st.lists(st.tuples(st.sampled_from(ZONES), st.integers(1, 40 * DAY_MS)), max_size=8),
)
def test_no_moving_about_gives_more_windows_than_time_does(kind: str, moves: list[tuple[str, int]]) -> None:
    """However often the zone changes, the windows still tile time, and a window that runs is never cut short."""
    zones: tuple[TimeZoneRule, ...] = (TimeZoneRule(0, "UTC"),)
    rules, now = [WindowRule(0, kind)], ms("2026-01-10 12:00")
    running = window_at(rules, zones, 0, now)
    shortest = {"day": DAY_MS, "week": 7 * DAY_MS, "month": 28 * DAY_MS}[kind] * 45 // 100
    for zone, later in moves:
        zones = with_zone(zones, zone, now)
        assert window_at(rules, zones, 0, now) == running
        now += later
        while running.ends_at_ms is not None and running.ends_at_ms <= now:
            after = window_at(rules, zones, 0, running.ends_at_ms)
            assert after.starts_at_ms == running.ends_at_ms and after.ends_at_ms is not None
            assert after.ends_at_ms - after.starts_at_ms >= shortest
            running = after
        assert window_at(rules, zones, 0, now) == running


def test_a_zone_that_is_left_again_the_same_day_never_held() -> None:
    now = ms("2026-11-18 12:00")
    there = with_zone([], "Asia/Tokyo", now)
    assert [each.time_zone for each in there] == ["UTC", "Asia/Tokyo"]
    assert with_zone(there, "UTC", now + 60_000) == (TimeZoneRule(0, "UTC"),)


def test_zones_that_were_left_long_ago_are_forgotten() -> None:
    zones: tuple[TimeZoneRule, ...] = ()
    now = ms("2026-01-10 12:00")
    for days in range(0, 400, 4):
        zones = with_zone(zones, ("Asia/Tokyo", "UTC")[days // 4 % 2], now + days * DAY_MS)
    assert len(zones) < 30


# Days of usage.


def test_a_day_of_usage_is_the_local_one() -> None:
    zones = [TimeZoneRule(0, "Asia/Tokyo")]
    assert day_at(zones, ms("2026-11-28 15:00")) == ("2026-11-29", ms("2026-11-29 15:00"))
    assert day_at([], ms("2026-11-28 15:00"))[0] == "2026-11-28"


def test_a_day_of_usage_follows_the_zone_at_once() -> None:
    now = ms("2026-11-18 12:00")
    zones = with_zone([], "Asia/Tokyo", now)
    assert day_at(zones, now) == ("2026-11-18", ms("2026-11-19 00:00"))
    assert day_at(zones, ms("2026-11-19 00:00"))[0] == "2026-11-19"


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "x" * 4_000])
def test_no_such_time_zone(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        zone_of(name)
    assert refused.value.param == "time_zone" and "Europe/Berlin" in str(refused.value)


def test_a_budget_has_a_rule() -> None:
    with pytest.raises(ValueError, match="at least one"):
        window_at([], [], 0, 0)


def test_a_window_is_named_for_its_start() -> None:
    assert window("month", "2026-11-28 12:00").window_id == "m20261101T000000"
    assert timedelta(milliseconds=ms("2026-11-28 12:00") - window("day", "2026-11-28 12:00").starts_at_ms) == timedelta(
        hours=12
    )
