"""What holds of people claim, on a real server: caps, quotes, guards, thresholds, and what an approval raises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest
from ledgers import FAR_MS, PERSON, check_books, hold

from gateway.adapters.redis import keys
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.usage import RedisUsage
from gateway.core.accounts import Budget, CounterState
from gateway.core.holds import (
    Extended,
    Guard,
    LimitHit,
    Measure,
    Placed,
    PlaceHold,
    Posted,
    Refusal,
    Refused,
    ScopeClaim,
    UsageTokens,
)
from gateway.core.money import NO_RATE, Unit
from gateway.people_ports import UsageLine

TAG = "{p7f}"
QUOTE = ScopeClaim("q_7f1", "", Measure.QUOTE, detail="d1")
OPEN = ScopeClaim("who", "now", Measure.OPEN, 2)
SHARE = ScopeClaim("who", "now", Measure.SHARE, 250_000)
DAY = "2026-01-05"
LINE = ScopeClaim(PERSON, DAY, Measure.USAGE, detail="small|alice|ak_7f1")


@pytest.fixture
async def link(valkey_url: str) -> AsyncIterator[RedisLink]:
    link = await RedisLink.open(valkey_url)
    yield link
    await link.close()


@pytest.fixture
async def ledger(link: RedisLink) -> RedisLedger:
    ledger = RedisLedger(link, worker="w1")
    await ledger.credit("pay1", PERSON, 1_000, unit=Unit.NANOUSD, rate=NO_RATE, source="stripe")
    return ledger


def persons(name: str = "1", *scopes: ScopeClaim, amount: int = 100, **fields: object) -> PlaceHold:
    return hold(name, account=PERSON, amount=amount, scopes=scopes, **fields)


async def approve(
    link: RedisLink, most: int, *, state: str = "approved", lifts: str = "", until_ms: int = FAR_MS
) -> None:
    name = keys.quote_key(TAG, "q_7f1")
    fields = ("state", state, "approved_max", most, "expires_at", until_ms, "digest", "d1", "lifts", lifts, "hold", "")
    await link.command("HSET", name, *fields, key=name)


async def quote(link: RedisLink) -> tuple[str, str]:
    name = keys.quote_key(TAG, "q_7f1")
    state, hold_id = await link.command("HMGET", name, "state", "hold", key=name)
    return state.decode(), hold_id.decode()


async def told(link: RedisLink) -> list[tuple[str, dict[str, object]]]:
    name = keys.outbox_key(TAG)
    rows = await link.command("XRANGE", name, "-", "+", key=name)
    return [(fields[1].decode(), msgspec.json.decode(fields[7])) for _, fields in rows]


async def reason(ledger: RedisLedger, asked: PlaceHold) -> Refusal:
    answer = await ledger.place(asked)
    assert isinstance(answer, Refused)
    return answer.reason


async def test_so_many_holds_are_open_at_once_and_their_counter_goes_with_the_last(
    ledger: RedisLedger, link: RedisLink
) -> None:
    for name in ("1", "2"):
        assert isinstance(await ledger.place(persons(name, OPEN)), Placed)
    hit = LimitHit("who", "now", None, 2, 0, 2, None, Measure.OPEN)
    assert await ledger.place(persons("3", OPEN)) == Refused(Refusal.LIMIT, 800, 200, limit=hit)
    await ledger.post("ho_7f1", 10, account=PERSON)
    assert isinstance(await ledger.place(persons("3", OPEN)), Placed)
    await ledger.void("ho_7f2", account=PERSON)
    await ledger.expire("ho_7f3", lease_gone=True)
    assert await link.command("EXISTS", keys.counter_key(TAG, OPEN), key=TAG) == 0


async def test_a_share_of_what_the_account_has_is_held_at_most(ledger: RedisLedger, link: RedisLink) -> None:
    assert await ledger.place(persons("1", SHARE, floor=50, first=400, ceiling=400)) == Placed("ho_7f1", 250, 750)
    hit = LimitHit("who", "now", None, 250, 0, 250, None, Measure.SHARE)
    assert await ledger.place(persons("2", SHARE, amount=1)) == Refused(Refusal.LIMIT, 750, 250, limit=hit)
    assert await ledger.extend_to("ho_7f1", 300) == Extended(250, 750)
    await ledger.shrink_to("ho_7f1", 100)
    assert await ledger.place(persons("2", SHARE, amount=150)) == Placed("ho_7f2", 150, 750)
    for name in ("1", "2"):
        await ledger.void(f"ho_7f{name}", account=PERSON)
    assert await link.command("EXISTS", keys.counter_key(TAG, SHARE), key=TAG) == 0


async def test_a_quote_lowers_the_ceiling_and_buys_one_hold(ledger: RedisLedger, link: RedisLink) -> None:
    await approve(link, 150)
    placed = Placed("ho_7f1", 150, 850, ceiling=150)
    assert await ledger.place(persons("1", QUOTE, first=200, ceiling=300)) == placed
    assert await quote(link) == ("used", "ho_7f1")
    again = await ledger.place(persons("1", QUOTE, first=200, ceiling=300))
    assert again == Placed("ho_7f1", 150, 850, replayed=True, ceiling=150)
    assert await reason(ledger, persons("2", QUOTE)) is Refusal.QUOTE_USED
    assert await ledger.extend_to("ho_7f1", 300) == Extended(150, 850, beyond=850)
    answer = await ledger.post("ho_7f1", 170, account=PERSON)
    assert isinstance(answer, Posted) and (answer.posted, answer.shortfall) == (150, 20)


async def test_a_quote_is_refused_for_what_it_is(ledger: RedisLedger, link: RedisLink) -> None:
    assert await reason(ledger, persons("1", QUOTE)) is Refusal.QUOTE_UNKNOWN
    await approve(link, 150, state="open")
    assert await reason(ledger, persons("1", QUOTE)) is Refusal.QUOTE_OPEN
    assert await reason(ledger, persons("1", replace(QUOTE, detail="d2"))) is Refusal.QUOTE_MISMATCH
    await approve(link, 150, state="refused")
    assert await reason(ledger, persons("1", QUOTE)) is Refusal.QUOTE_REFUSED
    await approve(link, 150, until_ms=1)
    assert await reason(ledger, persons("1", QUOTE)) is Refusal.QUOTE_EXPIRED
    await approve(link, 99)
    hit = LimitHit("q_7f1", "", None, 99, 0, 0, None, Measure.QUOTE)
    assert await ledger.place(persons("1", QUOTE)) == Refused(Refusal.LIMIT, 1_000, 0, limit=hit)


async def test_a_quote_is_open_again_when_its_hold_came_to_nothing(ledger: RedisLedger, link: RedisLink) -> None:
    await approve(link, 150)
    await ledger.place(persons("1", QUOTE))
    await ledger.void("ho_7f1", account=PERSON)
    assert await quote(link) == ("approved", "")
    await ledger.place(persons("2", QUOTE))
    await ledger.checkpoint("ho_7f2", 5)
    await ledger.expire("ho_7f2", lease_gone=True)
    assert await quote(link) == ("used", "ho_7f2")


async def test_a_late_post_takes_nothing_on_an_approval_that_has_bought_another_hold(
    ledger: RedisLedger, link: RedisLink
) -> None:
    await approve(link, 100)
    await ledger.place(persons("1", QUOTE))
    await ledger.expire("ho_7f1", lease_gone=True)
    await ledger.place(persons("2", QUOTE))
    late = await ledger.post("ho_7f1", 80, account=PERSON)
    assert isinstance(late, Posted) and (late.posted, late.shortfall, late.available) == (0, 80, 900)
    await ledger.post("ho_7f2", 90, account=PERSON)
    balance = await ledger.balance(PERSON)
    # It is the house that sold one approval twice: it does not count against the payer.
    assert balance is not None and (balance.posted, balance.shortfalls) == (90, 0)
    await check_books(ledger)


async def test_a_late_post_uses_an_approval_that_was_open_again(ledger: RedisLedger, link: RedisLink) -> None:
    await approve(link, 100)
    await ledger.place(persons("1", QUOTE))
    await ledger.expire("ho_7f1", lease_gone=True)
    late = await ledger.post("ho_7f1", 80, account=PERSON)
    assert isinstance(late, Posted) and late.posted == 80
    assert await reason(ledger, persons("2", QUOTE)) is Refusal.QUOTE_USED


async def test_a_quote_lifts_the_budgets_that_it_names_and_they_count_on(ledger: RedisLedger, link: RedisLink) -> None:
    asking = ScopeClaim("org", "total", budget_id="bu_1", detail="ask org_7f1 50")
    await ledger.put_budget(PERSON, Budget("bu_1", 60, "paused"))
    await approve(link, 150, lifts="bu_9 bu_1")
    assert await reason(ledger, persons("1", asking, QUOTE)) is Refusal.PAUSED, "a yes ends no pause"
    await ledger.put_budget(PERSON, Budget("bu_1", 60))
    no_more = replace(asking, detail="pause org_7f1 50")
    assert await reason(ledger, persons("1", no_more, QUOTE)) is Refusal.LIMIT, "it no longer asks"
    assert isinstance(await ledger.place(persons("1", asking, QUOTE)), Placed)
    await ledger.post("ho_7f1", 90, account=PERSON)
    assert await ledger.counter(PERSON, asking) == CounterState(90, 0)
    record = await ledger.hold("ho_7f1")
    assert record is not None and record.state == "posted"
    assert await reason(ledger, persons("2", asking)) is Refusal.LIMIT
    told = await link.command("XRANGE", keys.outbox_key(TAG), "-", "+", key=TAG)
    assert [fields[1] for _, fields in told] == [b"budget.alert"], "whoever is lifted past it is told of"


async def test_a_directory_that_changed_places_nothing(ledger: RedisLedger, link: RedisLink) -> None:
    name = keys.version_key(TAG, "org_7f1")
    await link.command("SET", name, 4, key=name)
    assert await ledger.place(persons(guards=(Guard("org_7f1", 3),))) == Refused(Refusal.DIRECTORY_CHANGED)
    guards = (Guard("org_7f1", 4), Guard("org_7f1|alice", 0))
    assert isinstance(await ledger.place(persons(guards=guards)), Placed)
    await link.command("INCR", name, key=name)
    again = await ledger.place(persons(guards=guards))
    assert isinstance(again, Placed) and again.replayed


async def test_a_record_overrides_a_default_budget_and_does_without_a_limit(ledger: RedisLedger) -> None:
    default = ScopeClaim("alice", "day:1", limit=150, budget_id="bu_1~alice", window_ends_at_ms=FAR_MS)
    await ledger.place(persons("1", default))
    assert await reason(ledger, persons("2", default)) is Refusal.LIMIT
    await ledger.put_budget(PERSON, Budget("bu_1~alice", None, raised_to=250, raised_until_ms=FAR_MS))
    assert isinstance(await ledger.place(persons("2", default)), Placed)
    await ledger.put_budget(PERSON, Budget("bu_1~alice", None, "paused"))
    assert await reason(ledger, persons("3", default, amount=1)) is Refusal.PAUSED


async def test_each_threshold_is_told_once_and_the_limit_pauses(ledger: RedisLedger, link: RedisLink) -> None:
    claim = ScopeClaim(
        "alice", "day:1", limit=200, budget_id="bu_1~alice", window_ends_at_ms=FAR_MS, detail="pause org_7f1 50 80"
    )
    for name, cost in (("1", 90), ("2", 20), ("3", 60), ("4", 30)):
        assert isinstance(await ledger.place(persons(name, claim, floor=10, first=10)), Placed)
        await ledger.post(f"ho_7f{name}", cost, account=PERSON)
    seen = {"budget_id": "bu_1~alice", "window": "day:1", "scope": "alice", "limit": "200"}
    assert await told(link) == [
        ("budget.alert", {"pct": 50, **seen, "used": "110"}), ("budget.alert", {"pct": 80, **seen, "used": "170"}),
        ("budget.paused", {"by": "ledger", **seen, "used": "200"}),
    ]  # fmt: skip
    assert await ledger.get_budget(PERSON, "bu_1~alice") == Budget("bu_1~alice", None, "paused")
    assert await reason(ledger, persons("5", claim, amount=0)) is Refusal.PAUSED


async def test_a_step_that_cannot_tell_moves_no_money(ledger: RedisLedger, link: RedisLink) -> None:
    claim = ScopeClaim("alice", "total", limit=200, detail="refuse org_7f1 40")
    await ledger.place(persons("1", claim))
    await link.command("SET", keys.outbox_key(TAG), "broken", key=TAG)
    with pytest.raises(Exception, match="WRONGTYPE"):
        await ledger.post("ho_7f1", 90, account=PERSON)
    balance = await ledger.balance(PERSON)
    assert balance is not None and (balance.held, balance.posted) == (100, 0)
    await link.command("DEL", keys.outbox_key(TAG), key=TAG)
    assert isinstance(await ledger.post("ho_7f1", 90, account=PERSON), Posted)
    await check_books(ledger)


async def test_a_days_usage_sums_to_what_was_posted_by_pocket(ledger: RedisLedger, link: RedisLink) -> None:
    await ledger.renew_allowance(PERSON, "pro:may", 60, plan="pro", ends_at_ms=FAR_MS)
    await ledger.place(persons("1", LINE))
    await ledger.post("ho_7f1", 80, account=PERSON, tokens=UsageTokens(7, 2, 5))
    await ledger.place(persons("2", LINE))
    await ledger.checkpoint("ho_7f2", 30)
    await ledger.expire("ho_7f2", lease_gone=True)
    await ledger.post("ho_7f2", 50, account=PERSON, tokens=UsageTokens(3, 0, 1))
    await ledger.place(persons("3", LINE))
    await ledger.void("ho_7f3", account=PERSON)
    lines = await RedisUsage(link).lines(PERSON, first_day=DAY, last_day=DAY)
    assert lines == [UsageLine(DAY, "small", "alice", "ak_7f1", 2, 10, 2, 6, 130, 60, 70, 0)]


async def test_a_raised_hold_has_another_ceiling_and_passes_the_budgets_named(
    ledger: RedisLedger, link: RedisLink
) -> None:
    asking = ScopeClaim("org", "total", budget_id="bu_1", detail="ask org_7f1 80")
    other = ScopeClaim("alice", "total", limit=400, budget_id="bu_2")
    await ledger.put_budget(PERSON, Budget("bu_1", 120))
    await ledger.place(persons("1", asking, other))
    assert await ledger.extend_to("ho_7f1", 300) == Extended(100, 900, beyond=300), "the other budget does not ask"
    assert await ledger.raise_hold("ho_7f1", 500) == Extended(100, 900)
    assert await ledger.extend_to("ho_7f1", 300) == Extended(120, 880, beyond=280)
    assert await ledger.raise_hold("ho_7f1", 200, lifts=("bu_1",)) == Extended(120, 880)
    assert await ledger.extend_to("ho_7f1", 900) == Extended(200, 800, beyond=200)
    assert await ledger.raise_hold("ho_7f1", 900) == Extended(200, 800)
    assert await ledger.extend_to("ho_7f1", 900) == Extended(400, 600)
    answer = await RedisLedger(link, worker="w2").post("ho_7f1", 450, account=PERSON)
    assert isinstance(answer, Posted) and (answer.posted, answer.shortfall) == (400, 50)
    assert await ledger.counter(PERSON, asking) == CounterState(400, 0)
    assert await ledger.raise_hold("ho_7f1", 900) == Refused(Refusal.NOT_OPEN, 600, 0)
    assert await ledger.raise_hold("ho_7f9", 900) == Refused(Refusal.NOT_OPEN)
    await check_books(ledger)


async def test_a_hold_takes_no_more_out_of_a_counter_than_is_in_it(ledger: RedisLedger, link: RedisLink) -> None:
    claim = ScopeClaim("org", "total", limit=500)
    await ledger.place(persons("1", claim, amount=100))
    await link.command("DEL", keys.counter_key(TAG, claim), key=TAG)
    await ledger.place(persons("2", claim, amount=20))
    await ledger.shrink_to("ho_7f1", 10)
    assert await ledger.counter(PERSON, claim) == CounterState(0, 0)


async def test_a_yes_ends_no_pause_and_lifts_only_a_budget_that_asks(ledger: RedisLedger, link: RedisLink) -> None:
    asking = ScopeClaim("org", "total", budget_id="bu_1", detail="ask org_7f1 80")
    await ledger.place(persons("1", asking, amount=0, ceiling=500))
    await ledger.put_budget(PERSON, Budget("bu_1", 50))
    await ledger.place(persons("2", asking, amount=10, ceiling=500))
    await ledger.raise_hold("ho_7f2", 300, lifts=("bu_1",))
    assert await ledger.extend_to("ho_7f2", 200) == Extended(200, 800)
    await ledger.put_budget(PERSON, Budget("bu_1", 50, "paused"))
    assert await ledger.extend_to("ho_7f2", 300) == Extended(200, 800)
    await link.command("DEL", keys.budget_key(TAG, "bu_1"), key=TAG)
    assert await ledger.extend_to("ho_7f2", 300) == Extended(200, 800)
    await ledger.put_budget(PERSON, Budget("bu_1", 50))
    plain = ScopeClaim("alice", "total", budget_id="bu_1", detail="refuse org_7f1")
    await ledger.place(persons("3", plain, amount=10, ceiling=500))
    await ledger.raise_hold("ho_7f3", 300, lifts=("bu_1",))
    assert await ledger.extend_to("ho_7f3", 200) == Extended(50, 750)
    await check_books(ledger)
