"""The model of what plans give: a period begins once, a credit limit is absolute, and the pockets sum to the account."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import credits
from gateway.core.accounts import LedgerTerms
from gateway.core.allowance_model import renew_allowance, set_credit_limit
from gateway.core.holds import Credited, Measure, Placed, PlaceHold, Refusal, Refused, ScopeClaim
from gateway.core.ledger import LedgerModel
from gateway.core.money import NO_RATE, Rate, Unit
from gateway.core.records import CounterId

AGENT, PERSON = "tok_7fa", "acct_7fb"
FAR_MS = 10**12
SHARE = ScopeClaim("who", "now", Measure.SHARE, 250_000)
LINE = ScopeClaim(PERSON, "2026-01-05", Measure.USAGE, detail="small|alice|ak_7f1")


def funded(amount: int = 1_000) -> LedgerModel:
    model = LedgerModel(LedgerTerms(most_shortfalls=0))
    credits.credit(model, "p0", PERSON, amount, unit=Unit.NANOUSD, rate=NO_RATE, source="stripe", now_ms=0)
    return model


def place(
    model: LedgerModel, name: str, *scopes: ScopeClaim, floor: int, most: int, now_ms: int = 0
) -> Placed | Refused:
    hold = PlaceHold(f"ho_7f{name}", PERSON, floor=floor, first=floor, ceiling=most, rate=NO_RATE, scopes=scopes)
    return model.place(hold, worker="w", now_ms=now_ms)


def test_a_plans_period_begins_once_whatever_came_between() -> None:
    model = LedgerModel()
    may = {"plan": "pro", "ends_at_ms": FAR_MS, "now_ms": 0}
    assert renew_allowance(model, PERSON, "pro:may", 500, **may) == Credited("applied", 500)  # type: ignore[arg-type]
    basic = renew_allowance(model, PERSON, "basic:may", 100, plan="basic", ends_at_ms=FAR_MS, now_ms=0)
    assert basic == Credited("applied", 100)
    assert renew_allowance(model, PERSON, "none:1", 0, plan="", ends_at_ms=0, now_ms=0) == Credited("applied", 0)
    assert renew_allowance(model, PERSON, "none:2", 0, plan="", ends_at_ms=0, now_ms=0) == Credited("replayed", 0)
    assert renew_allowance(model, PERSON, "pro:may", 500, **may) == Credited("applied", 0)  # type: ignore[arg-type]
    assert model.accounts[PERSON].plan == "pro", "it runs again, without a second allowance"
    june = renew_allowance(model, PERSON, "pro:june", 300, plan="pro", ends_at_ms=FAR_MS + 1, now_ms=0)
    assert june == Credited("applied", 300)
    april = renew_allowance(model, PERSON, "pro:april", 500, plan="pro", ends_at_ms=FAR_MS - 1, now_ms=0)
    assert april == Credited("replayed", 300)
    account = model.accounts[PERSON]
    assert (account.plan, account.period_id, account.allowance_granted) == ("pro", "pro:june", 300)
    assert [(entry.kind, entry.adds.credited) for entry in model.journal] == [
        ("credit", 500), ("debit", -500), ("credit", 100), ("debit", -100), ("credit", 300),
    ]  # fmt: skip


def test_another_plan_begins_at_once_whenever_its_period_ends() -> None:
    model = LedgerModel()
    renew_allowance(model, PERSON, "monthly:may", 100, plan="monthly", ends_at_ms=FAR_MS, now_ms=0)
    daily = renew_allowance(model, PERSON, "daily:1", 1, plan="daily", ends_at_ms=FAR_MS - 1, now_ms=0)
    assert daily == Credited("applied", 1)
    back = renew_allowance(model, PERSON, "monthly:may", 100, plan="monthly", ends_at_ms=FAR_MS, now_ms=0)
    assert back == Credited("applied", 0)


def test_a_renewal_changes_nothing_where_another_period_runs_than_it_saw() -> None:
    model = LedgerModel()
    renew_allowance(model, PERSON, "pro:may", 20, plan="pro", ends_at_ms=FAR_MS, now_ms=0)
    late = renew_allowance(
        model, PERSON, "free:2", 1, plan="free", ends_at_ms=FAR_MS, follows="free:1", limit=5, now_ms=0
    )
    assert late == Credited("replayed", 20)
    assert (model.accounts[PERSON].plan, model.accounts[PERSON].plan_limit) == ("pro", 0)


def test_a_period_that_is_over_begins_no_more() -> None:
    model = LedgerModel()
    over = renew_allowance(model, PERSON, "pro:april", 5, plan="pro", ends_at_ms=50, now_ms=50)
    assert over == Refused(Refusal.PERIOD_OVER)
    assert PERSON not in model.accounts


def test_a_plans_limit_follows_the_plan_and_an_operators_stays() -> None:
    model = LedgerModel()

    def begin(period: str, plan: str, limit: int) -> int:
        renew_allowance(model, PERSON, period, 0, plan=plan, ends_at_ms=0, limit=limit, now_ms=0)
        return model.accounts[PERSON].available

    assert [begin("pro:1", "pro", 100), begin("pro:2", "pro", 80), begin("none:1", "", 0)] == [100, 80, 0]
    set_credit_limit(model, PERSON, 30, change_id="own", now_ms=0)
    assert [begin("pro:3", "pro", 90), begin("none:2", "", 0), begin("pro:4", "pro", 70)] == [30, 30, 30]
    assert set_credit_limit(model, PERSON, None, change_id="back", now_ms=0) == Credited("applied", 70)
    assert set_credit_limit(model, PERSON, None, change_id="back", now_ms=0) == Credited("replayed", 70)
    assert begin("none:3", "", 0) == 0


def test_a_period_that_is_over_places_nothing() -> None:
    model = funded()
    renew_allowance(model, PERSON, "pro:april", 5, plan="pro", ends_at_ms=50, now_ms=0)
    assert isinstance(place(model, "1", floor=100, most=100, now_ms=49), Placed)
    assert place(model, "2", floor=100, most=100, now_ms=50) == Refused(Refusal.PERIOD_OVER, 905, 100)


def test_a_credit_limit_counts_what_is_owed_and_each_change_once() -> None:
    model = LedgerModel()
    assert set_credit_limit(model, PERSON, 100, change_id="c1", now_ms=0) == Credited("applied", 100)
    place(model, "1", floor=70, most=70)
    model.post("ho_7f1", 60, account=PERSON, now_ms=1)
    assert set_credit_limit(model, PERSON, 50, change_id="c2", now_ms=0) == Credited("applied", 0)
    assert set_credit_limit(model, PERSON, 100, change_id="c1", now_ms=0) == Credited("replayed", 0)
    assert set_credit_limit(model, PERSON, 99, change_id="c1", now_ms=0) == Refused(Refusal.FOREIGN, 0, 0)


def test_an_agents_account_and_one_that_is_full_get_neither() -> None:
    model = funded(10**15 - 1)
    for number in range(8):
        credits.credit(
            model, f"p{number + 1}", PERSON, 10**15 - 1, unit=Unit.NANOUSD, rate=NO_RATE, source="stripe", now_ms=0
        )
    full = Refused(Refusal.TOO_GREAT, 9 * 10**15 - 9, 0)
    assert renew_allowance(model, PERSON, "pro:may", 10, plan="pro", ends_at_ms=0, now_ms=0) == full
    assert set_credit_limit(model, PERSON, 10, change_id="c1", now_ms=0) == full
    credits.credit(model, "p0", AGENT, 5, unit=Unit.MSAT, rate=Rate(1), source="lightning", now_ms=0)
    foreign = Refused(Refusal.FOREIGN)
    assert renew_allowance(model, AGENT, "pro:may", 10, plan="pro", ends_at_ms=0, now_ms=0) == foreign
    assert set_credit_limit(model, AGENT, 10, change_id="c1", now_ms=0) == foreign


amounts = st.integers(0, 120)
steps = st.tuples(st.sampled_from(["renew", "limit", "place", "post", "void", "extend"]), st.integers(0, 5), amounts)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=30))
def test_whatever_plans_and_limits_do_the_pockets_sum_to_the_account(taken: list[tuple[str, int, int]]) -> None:
    model = funded(100)
    for number, (kind, which, amount) in enumerate(taken):
        match kind:
            case "renew":
                ends = FAR_MS + which
                plan = f"plan{which % 2}"
                gives: dict[str, Any] = {"plan": plan, "ends_at_ms": ends, "limit": amount // 2}
                renew_allowance(model, PERSON, f"{plan}:{which}", amount, **gives, now_ms=number)
            case "limit":
                limit = amount if amount % 4 else None
                set_credit_limit(model, PERSON, limit, change_id=f"c{number}", now_ms=number)
            case "place":
                place(model, str(which), LINE, SHARE, floor=amount // 2, most=2 * amount)
            case "post":
                model.post(f"ho_7f{which}", amount, account=PERSON, now_ms=number)
            case "void":
                model.void(f"ho_7f{which}", account=PERSON, now_ms=number)
            case _:
                model.extend_to(f"ho_7f{which}", 2 * amount, now_ms=number)
        account = model.accounts[PERSON]
        sums = [sum(part) for part in zip(*((p.available, p.held, p.posted) for p in account.pockets), strict=True)]
        assert sums == [account.available, account.held, account.posted]
        assert account.available + account.held + account.posted == account.credited + account.debt
        assert min(min(each.available, each.held, each.posted) for each in account.pockets) >= 0
    posted = sum(hold.posted for hold in model.holds.values() if LINE in hold.scopes)
    lines = model.claims.usage.get(CounterId.of(LINE), {}).values()
    assert sum(line.cost for line in lines) == sum(sum(line.paid) for line in lines) == posted
