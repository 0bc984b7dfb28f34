"""The model of what holds claim: each refusal, each count, each event, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core import credits
from gateway.core.accounts import Budget, LedgerTerms
from gateway.core.allowance_model import renew_allowance
from gateway.core.errors import InvalidRequest
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
from gateway.core.ledger import LedgerModel
from gateway.core.money import NO_RATE, Rate, Unit
from gateway.core.quotes import QuoteState
from gateway.core.records import Counter, CounterId, QuoteRecord, Told, UsageSums

AGENT, PERSON = "tok_7fa", "acct_7fb"
FAR_MS = 10**12
QUOTE = ScopeClaim("q_7f1", "", Measure.QUOTE, detail="d1")
OPEN = ScopeClaim("who", "now", Measure.OPEN, 2)
SHARE = ScopeClaim("who", "now", Measure.SHARE, 250_000)
USES = ScopeClaim("who", "total", Measure.USES, 2)
LINE = ScopeClaim(PERSON, "2026-01-05", Measure.USAGE, detail="small|alice|ak_7f1")
BUDGET = ScopeClaim("org", "day:1", budget_id="bu_1", window_ends_at_ms=FAR_MS, detail="pause org_7f1 50 100")
ASKING = replace(BUDGET, detail="ask org_7f1 50")
DEFAULT = ScopeClaim("alice", "day:1", limit=150, budget_id="bu_2~alice", detail="pause org_7f1 40")


def funded(amount: int = 1_000) -> LedgerModel:
    model = LedgerModel(LedgerTerms(most_shortfalls=0))
    credits.credit(model, "p0", PERSON, amount, unit=Unit.NANOUSD, rate=NO_RATE, source="stripe", now_ms=0)
    return model


def place(
    model: LedgerModel, name: str, *scopes: ScopeClaim, amount: int = 100, now_ms: int = 0, **fields: object
) -> Placed | Refused:
    base: dict[str, object] = {"floor": amount, "first": amount, "ceiling": amount, "rate": NO_RATE, "scopes": scopes}
    return model.place(PlaceHold(f"ho_7f{name}", PERSON, **{**base, **fields}), worker="w", now_ms=now_ms)  # type: ignore[arg-type]


def reason(answer: Placed | Refused) -> Refusal:
    assert isinstance(answer, Refused)
    return answer.reason


def post(model: LedgerModel, name: str, cost: int, tokens: UsageTokens | None = None) -> Posted | Refused:
    return model.post(f"ho_7f{name}", cost, account=PERSON, tokens=tokens or UsageTokens(), now_ms=1)


def counter(model: LedgerModel, claim: ScopeClaim) -> Counter | None:
    return model.claims.counters.get(CounterId.of(claim))


def approved(model: LedgerModel, most: int, *, lifts: tuple[str, ...] = ()) -> QuoteRecord:
    record = QuoteRecord("d1", FAR_MS, QuoteState.APPROVED, most, lifts)
    model.claims.quotes["q_7f1"] = record
    return record


def test_a_part_of_the_directory_at_another_version_places_nothing() -> None:
    model = funded()
    model.versions["org_7f1"] = 3
    assert place(model, "1", guards=(Guard("org_7f1", 2),)) == Refused(Refusal.DIRECTORY_CHANGED)
    guards = (Guard("org_7f1", 3), Guard("org_7f1|alice", 0))
    assert place(model, "1", guards=guards) == Placed("ho_7f1", 100, 900)
    model.versions["org_7f1"] = 4
    assert place(model, "1", guards=guards) == Placed("ho_7f1", 100, 900, replayed=True)


def test_open_holds_are_counted_while_they_are_open() -> None:
    model = funded()
    place(model, "1", OPEN, amount=0)
    place(model, "2", OPEN)
    hit = LimitHit("who", "now", None, 2, 0, 2, None, Measure.OPEN)
    assert place(model, "3", OPEN, amount=0) == Refused(Refusal.LIMIT, 900, 100, limit=hit)
    model.shrink_to("ho_7f2", 50, now_ms=0)
    assert counter(model, OPEN) == Counter(held=2)
    post(model, "1", 0)
    assert counter(model, OPEN) == Counter(held=1)
    model.void("ho_7f2", account=PERSON, now_ms=1)
    assert counter(model, OPEN) is None


def test_a_share_is_of_what_is_available_and_held() -> None:
    model = funded()
    assert place(model, "1", SHARE, floor=50, first=400, ceiling=400) == Placed("ho_7f1", 250, 750)
    assert reason(place(model, "2", SHARE, amount=1)) is Refusal.LIMIT
    assert model.extend_to("ho_7f1", 400, now_ms=0) == Extended(250, 750)
    model.shrink_to("ho_7f1", 200, now_ms=0)
    assert model.extend_to("ho_7f1", 230, now_ms=0) == Extended(230, 770)
    post(model, "1", 230)
    assert counter(model, SHARE) is None


def test_a_lost_counter_of_what_stands_now_begins_anew_and_that_of_a_window_does_not() -> None:
    model = funded()
    window = ScopeClaim("org", "total", limit=500)
    place(model, "1", SHARE, window, amount=100, ceiling=200)
    model.claims.counters.clear()
    model.extend_to("ho_7f1", 130, now_ms=0)
    assert (counter(model, SHARE), counter(model, window)) == (Counter(held=30), None)
    model.shrink_to("ho_7f1", 20, now_ms=0)
    assert counter(model, SHARE) is None
    place(model, "2", window, amount=10)
    model.shrink_to("ho_7f1", 0, now_ms=0)
    assert counter(model, window) == Counter(held=0)
    post(model, "1", 0)
    assert model.journal[-1].more == ()


def test_an_approval_lowers_the_ceiling_and_buys_one_hold() -> None:
    model = funded()
    record = approved(model, 150)
    assert place(model, "1", QUOTE, first=200, ceiling=300) == Placed("ho_7f1", 150, 850, ceiling=150)
    assert (record.state, record.hold_id) == (QuoteState.USED, "ho_7f1")
    assert reason(place(model, "2", QUOTE)) is Refusal.QUOTE_USED
    again = place(model, "1", QUOTE, first=200, ceiling=300)
    assert again == Placed("ho_7f1", 150, 850, replayed=True, ceiling=150)
    assert post(model, "1", 170) == Posted(
        "posted", 150, 20, 850, (("allowance", 0), ("prepaid", 150), ("postpaid", 0))
    )
    assert model.accounts[PERSON].shortfalls == 0


@pytest.mark.parametrize(("change", "why"), [
    ({"state": QuoteState.OPEN}, Refusal.QUOTE_OPEN), ({"state": QuoteState.REFUSED}, Refusal.QUOTE_REFUSED),
    ({"digest": "d2"}, Refusal.QUOTE_MISMATCH), ({"expires_at_ms": 5}, Refusal.QUOTE_EXPIRED), ({"approved_max": 99}, Refusal.LIMIT),
])  # fmt: skip
def test_an_approval_that_is_none_refuses(change: dict[str, object], why: Refusal) -> None:
    model = funded()
    model.claims.quotes["q_7f1"] = replace(approved(model, 150), **change)  # type: ignore[arg-type]
    assert reason(place(model, "1", QUOTE, now_ms=5)) is why
    model.claims.quotes.clear()
    assert reason(place(model, "1", QUOTE)) is Refusal.QUOTE_UNKNOWN


def test_an_approval_whose_hold_came_to_nothing_is_open_again() -> None:
    model = funded()
    record = approved(model, 150)
    place(model, "1", QUOTE)
    model.void("ho_7f1", account=PERSON, now_ms=1)
    assert (record.state, record.hold_id) == (QuoteState.APPROVED, "")
    place(model, "2", QUOTE, OPEN)
    model.checkpoint("ho_7f2", 5, now_ms=1)
    model.expire("ho_7f2", now_ms=1, lease_gone=True)
    assert record.state is QuoteState.USED
    model.claims.quotes.clear()
    post(model, "2", 50)
    assert model.holds["ho_7f2"].posted == 50 and counter(model, OPEN) is None
    approved(model, 150)
    place(model, "3", QUOTE)
    model.claims.quotes.clear()
    model.void("ho_7f3", account=PERSON, now_ms=1)
    assert model.claims.quotes == {}


def test_a_late_post_takes_nothing_on_an_approval_that_has_bought_another_hold() -> None:
    model = funded()
    record = approved(model, 100)
    place(model, "1", QUOTE)
    model.expire("ho_7f1", now_ms=1, lease_gone=True)
    place(model, "2", QUOTE)
    late = post(model, "1", 80)
    assert isinstance(late, Posted) and (late.posted, late.shortfall) == (0, 80)
    assert model.accounts[PERSON].shortfalls == 0 and record.hold_id == "ho_7f2"
    model.void("ho_7f2", account=PERSON, now_ms=1)
    place(model, "3", QUOTE)
    model.expire("ho_7f3", now_ms=1, lease_gone=True)
    late = post(model, "3", 80)
    assert isinstance(late, Posted) and late.posted == 80
    assert (record.state, record.hold_id) == (QuoteState.USED, "ho_7f3")


def test_a_lifted_budget_counts_and_limits_no_more_but_must_be_there_and_ask() -> None:
    model = funded()
    approved(model, 150, lifts=("bu_1",))
    assert reason(place(model, "1", ASKING, QUOTE)) is Refusal.NO_BUDGET
    model.claims.budgets["bu_1"] = Budget("bu_1", 10, "paused")
    assert reason(place(model, "1", ASKING, QUOTE)) is Refusal.PAUSED, "a yes ends no pause"
    model.claims.budgets["bu_1"] = Budget("bu_1", 10)
    assert reason(place(model, "1", BUDGET, QUOTE)) is Refusal.LIMIT, "it no longer asks"
    assert isinstance(place(model, "1", ASKING, QUOTE), Placed)
    assert model.holds["ho_7f1"].lifts == {"bu_1"}
    post(model, "1", 90)
    assert counter(model, ASKING) == Counter(used=90, alerted=(50,))
    assert [told.kind for told in model.claims.outbox] == ["budget.alert"], "whoever is lifted past it is told of"


def test_a_pause_stops_a_lifted_hold_from_growing() -> None:
    model = funded()
    model.claims.budgets["bu_1"] = Budget("bu_1", 100)
    place(model, "1", ASKING, amount=50, ceiling=400)
    assert model.raise_hold("ho_7f1", 300, lifts=("bu_1",)) == Extended(50, 950)
    assert model.extend_to("ho_7f1", 200, now_ms=1) == Extended(200, 800)
    model.claims.budgets["bu_1"] = Budget("bu_1", 100, "paused")
    assert model.extend_to("ho_7f1", 300, now_ms=1) == Extended(200, 800)
    del model.claims.budgets["bu_1"]
    assert model.extend_to("ho_7f1", 300, now_ms=1) == Extended(200, 800), "and so does a budget that is gone"


def test_what_was_agreed_to_is_the_ceiling_also_where_it_was_higher_before() -> None:
    model = funded()
    place(model, "1", amount=100, ceiling=400)
    model.raise_hold("ho_7f1", 150)
    posted = post(model, "1", 190)
    assert isinstance(posted, Posted) and (posted.posted, posted.shortfall) == (150, 40)
    place(model, "2", amount=100, ceiling=400)
    model.raise_hold("ho_7f2", 20)
    assert model.holds["ho_7f2"].ceiling == 100, "never below what it holds"


def test_a_raised_limit_holds_until_its_instant_and_may_be_lower() -> None:
    model = funded()
    model.claims.budgets["bu_1"] = Budget("bu_1", 10, raised_to=200, raised_until_ms=50)
    assert isinstance(place(model, "1", BUDGET, now_ms=49), Placed)
    assert reason(place(model, "2", BUDGET, now_ms=50)) is Refusal.LIMIT
    model.claims.budgets["bu_1"] = Budget("bu_1", 900, raised_to=20, raised_until_ms=50)
    assert reason(place(model, "2", BUDGET, now_ms=49)) is Refusal.LIMIT


def test_a_record_overrides_a_default_budget_and_may_do_without_a_limit() -> None:
    model = funded()
    place(model, "1", DEFAULT)
    assert reason(place(model, "2", DEFAULT)) is Refusal.LIMIT
    model.claims.budgets["bu_2~alice"] = Budget("bu_2~alice", None, raised_to=250, raised_until_ms=FAR_MS)
    assert isinstance(place(model, "2", DEFAULT), Placed)
    model.claims.budgets["bu_2~alice"] = Budget("bu_2~alice", None, "paused")
    hit = LimitHit("alice", "day:1", "bu_2~alice", 150, 0, 0, None, on_exceed="pause")
    assert place(model, "3", DEFAULT, amount=0) == Refused(Refusal.PAUSED, 800, 200, limit=hit)


def test_each_threshold_is_told_once_and_the_limit_pauses_and_tells_again_once_resumed() -> None:
    model = funded()
    model.claims.budgets["bu_1"] = Budget("bu_1", 100)
    for name, cost in (("1", 49), ("2", 1), ("3", 30)):
        place(model, name, BUDGET, amount=10, floor=0, ceiling=60)
        post(model, name, cost)
    seen: dict[str, str | int] = {"budget_id": "bu_1", "window": "day:1", "scope": "org", "limit": "100"}
    assert model.claims.outbox == [Told("budget.alert", "org_7f1", {"pct": 50, **seen, "used": "50"})]
    for name in ("4", "5"):
        place(model, name, BUDGET, amount=0, ceiling=20)
        post(model, name, 20)
        model.claims.budgets["bu_1"] = replace(model.claims.budgets["bu_1"], state="active")
    paused = Told("budget.paused", "org_7f1", {"by": "ledger", **seen, "used": "100"})
    assert model.claims.outbox[1:] == [
        Told("budget.alert", "org_7f1", {"pct": 100, **seen, "used": "100"}),
        paused,
        paused,
    ]
    del model.claims.budgets["bu_1"]
    assert reason(place(model, "6", BUDGET)) is Refusal.NO_BUDGET


def test_the_pause_of_a_default_budget_makes_a_record_of_its_own() -> None:
    model = funded()
    place(model, "1", DEFAULT, amount=150)
    post(model, "1", 150)
    assert [told.kind for told in model.claims.outbox] == ["budget.alert", "budget.paused"]
    assert model.claims.budgets == {"bu_2~alice": Budget("bu_2~alice", None, "paused")}


def test_a_budget_that_is_gone_by_the_end_of_a_hold_tells_nothing_and_one_without_a_record_does_not_pause() -> None:
    model = funded()
    model.claims.budgets["bu_1"] = Budget("bu_1", 100)
    place(model, "1", BUDGET, ScopeClaim("own", "total", limit=100, detail="pause org_7f1"))
    del model.claims.budgets["bu_1"]
    post(model, "1", 100)
    assert model.claims.outbox == []


def test_a_void_tells_nothing_and_a_lost_window_neither() -> None:
    model = funded()
    model.claims.budgets["bu_1"] = Budget("bu_1", 0)
    place(model, "1", BUDGET, amount=0)
    model.void("ho_7f1", account=PERSON, now_ms=1)
    place(model, "2", BUDGET, amount=0)
    model.claims.counters.clear()
    post(model, "2", 0)
    assert model.claims.outbox == []
    assert model.journal[-1].more == (("scope_lost", "1"),)


def test_usage_sums_by_pocket_and_counts_a_request_once() -> None:
    model = funded(50)
    renew_allowance(model, PERSON, "pro:may", 60, plan="pro", ends_at_ms=0, now_ms=0)
    place(model, "1", LINE, USES, amount=80)
    post(model, "1", 70, UsageTokens(7, 2, 5))
    place(model, "2", LINE, USES, amount=30)
    model.checkpoint("ho_7f2", 10, now_ms=0)
    model.expire("ho_7f2", now_ms=1, lease_gone=True)
    post(model, "2", 25, UsageTokens(3, 0, 1))
    sums = UsageSums(2, 10, 2, 6, 95, (60, 35, 0))
    assert model.claims.usage == {CounterId.of(LINE): {LINE.detail: sums}}
    assert counter(model, USES) == Counter(used=2)
    place(model, "3", LINE)
    model.void("ho_7f3", account=PERSON, now_ms=1)
    assert sums.requests == 2


def test_an_account_of_one_pocket_pays_its_usage_from_what_was_prepaid() -> None:
    model = LedgerModel()
    rate = Rate(60_000)
    credits.credit(model, "p0", AGENT, 100, unit=Unit.MSAT, rate=rate, source="lightning", now_ms=0)
    line = ScopeClaim(AGENT, "2026-01-05", Measure.USAGE, detail="m||")
    for name in ("1", "2"):
        hold = PlaceHold(f"ho_7f{name}", AGENT, floor=30, first=30, ceiling=30, rate=rate, scopes=(line,))
        model.place(hold, worker="w", now_ms=0)
    model.post("ho_7f1", 20, account=AGENT, now_ms=1)
    model.expire("ho_7f2", now_ms=1, lease_gone=True)
    model.post("ho_7f2", 30, account=AGENT, now_ms=1)
    assert model.claims.usage[CounterId.of(line)]["m||"].paid == (0, 50, 0)


def test_a_raised_hold_passes_the_budgets_named_up_to_its_new_ceiling() -> None:
    model = funded()
    model.claims.budgets["bu_1"] = Budget("bu_1", 120)
    place(model, "1", ASKING, DEFAULT)
    assert model.raise_hold("ho_7f1", 500) == Extended(100, 900)
    assert model.extend_to("ho_7f1", 500, now_ms=0) == Extended(120, 880, beyond=30), "a yes comes to the other limit"
    assert model.raise_hold("ho_7f1", 140, lifts=("bu_1", "bu_2~alice", "bu_9")) == Extended(120, 880)
    assert model.extend_to("ho_7f1", 500, now_ms=0) == Extended(140, 860, beyond=10)
    assert model.raise_hold("ho_7f1", 500) == Extended(140, 860)
    assert model.extend_to("ho_7f1", 500, now_ms=0) == Extended(150, 850), "the other one does not ask"
    post(model, "1", 10)
    assert model.raise_hold("ho_7f1", 600) == Refused(Refusal.NOT_OPEN, 990, 0)
    assert model.raise_hold("ho_7f9", 600) == Refused(Refusal.NOT_OPEN)
    with pytest.raises(InvalidRequest, match="ceiling is an integer"):
        model.raise_hold("ho_7f1", -1)
