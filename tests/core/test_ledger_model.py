"""The pure model alone: random steps keep every invariant of the books, and the answers at the edges."""

from __future__ import annotations

from collections import Counter as Tally

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import credits
from gateway.core.accounts import Budget, CreditCause, CreditMode, LedgerTerms
from gateway.core.errors import InvalidRequest
from gateway.core.holds import Credited, Extended, Measure, Placed, PlaceHold, Posted, Refusal, Refused, ScopeClaim
from gateway.core.journal import JournalEntry, Totals, parse_entry, summed
from gateway.core.ledger import LedgerModel
from gateway.core.money import NO_RATE, Rate, Unit
from gateway.core.records import CounterId

AGENT, PERSON = "tok_7fa", "acct_7fb"
RATE = Rate(60_000)
CLAIMS = (
    ScopeClaim("org", "total", limit=300),
    ScopeClaim("user", "day:1", budget_id="bu_1"),
    ScopeClaim("caveat", "total", Measure.USES, limit=5),
)
IDS = tuple(f"ho_7f{number}" for number in range(10))
amounts = st.integers(0, 80)
steps = st.tuples(
    st.sampled_from(
        ["place"] * 4 + ["post", "void", "expire", "extend", "shrink", "checkpoint", "credit", "debit", "pause"]
    ),
    st.sampled_from(IDS),
    st.sampled_from([AGENT, PERSON]),
    amounts,
    amounts,
    st.integers(0, 7),
)


def funded(amount: int = 500, *, terms: LedgerTerms | None = None) -> LedgerModel:
    model = LedgerModel(terms or LedgerTerms(most_shortfalls=0))
    model.claims.budgets["bu_1"] = Budget("bu_1", 200)
    for account, unit, rate in ((AGENT, Unit.MSAT, RATE), (PERSON, Unit.NANOUSD, NO_RATE)):
        credits.credit(model, "p0", account, amount, unit=unit, rate=rate, source="lightning", now_ms=0)
    return model


def asked(hold_id: str, account: str, floor: int, more: int, mask: int = 0) -> PlaceHold:
    claims = tuple(claim for place, claim in enumerate(CLAIMS) if mask & 1 << place)
    rate = RATE if account == AGENT else NO_RATE
    return PlaceHold(hold_id, account, floor=floor, first=floor, ceiling=floor + more, rate=rate, scopes=claims)


def take_step(model: LedgerModel, step: tuple[str, str, str, int, int, int], now_ms: int) -> None:
    kind, hold_id, account, amount, more, mask = step
    match kind:
        case "place":
            model.place(asked(hold_id, account, amount, more, mask), worker="w", now_ms=now_ms)
        case "post":
            model.post(hold_id, amount + more, account=account, now_ms=now_ms)
        case "void":
            model.void(hold_id, account=account, now_ms=now_ms)
        case "expire":
            model.expire(hold_id, now_ms=now_ms, lease_gone=mask > 3)
        case "extend":
            model.extend_to(hold_id, amount + more, now_ms=now_ms)
        case "shrink":
            model.shrink_to(hold_id, amount, now_ms=now_ms)
        case "checkpoint":
            model.checkpoint(hold_id, amount, now_ms=now_ms)
        case "credit":
            unit, rate = (Unit.MSAT, RATE) if account == AGENT else (Unit.NANOUSD, NO_RATE)
            cause = ("payment", "goodwill", "allowance")[mask % 3]
            fields = {"unit": unit, "rate": rate, "source": "s", "cause": cause, "pocket": "allowance"}
            credits.credit(model, f"p{amount}", account, amount + 1, now_ms=now_ms, **fields)  # type: ignore[arg-type]
        case "debit":
            credits.debit(model, f"d{amount}", account, amount + 1, cause="refund", now_ms=now_ms)
        case _:
            model.claims.budgets["bu_1"] = Budget("bu_1", 200, "paused" if mask > 5 else "active")


def check_books(model: LedgerModel) -> None:
    total = Totals()
    for name, account in model.accounts.items():
        mine = Totals(account.available, account.held, account.credited, account.posted, account.debt)
        total += mine
        assert mine.balanced
        assert min(account.available, account.held, account.posted, account.debt) >= 0
        mine_open = [hold for hold in model.holds.values() if hold.account == name and hold.state == "open"]
        assert account.held == sum(hold.amount for hold in mine_open)
        if account.pockets:
            assert account.available == sum(pocket.available for pocket in account.pockets)
            assert account.held == sum(pocket.held for pocket in account.pockets)
            assert account.posted == sum(pocket.posted for pocket in account.pockets)
            assert all(min(each.available, each.held, each.posted) >= 0 for each in account.pockets)
            assert all(sum(hold.split) == hold.amount for hold in mine_open)
    assert summed(model.journal) == total
    for claim in CLAIMS:
        holds = [hold for hold in model.holds.values() if hold.state == "open" and claim in hold.scopes]
        counter = model.claims.counters.get(CounterId.of(claim))
        held = len(holds) if claim.measure is Measure.USES else sum(hold.amount for hold in holds)
        assert (counter.held if counter else 0) == held
    resolved = Tally(
        entry.id for entry in model.journal if entry.kind in ("posted", "voided", "expired", "orphan_post")
    )
    assert all(times == 1 for times in resolved.values())


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60))
def test_whatever_the_steps_the_books_balance(taken: list[tuple[str, str, str, int, int, int]]) -> None:
    model = funded()
    for number, step in enumerate(taken):
        take_step(model, step, now_ms=number * 9_000)
        check_books(model)


def test_a_hold_never_posts_above_its_ceiling() -> None:
    model = funded(1_000)
    assert model.place(asked("ho_7f1", AGENT, 100, 50), worker="w", now_ms=0) == Placed("ho_7f1", 100, 900)
    assert model.post("ho_7f1", 400, account=AGENT, now_ms=1) == Posted("posted", 150, 250, 850)


def test_a_replayed_place_answers_with_the_holds_state_even_without_its_account() -> None:
    model = funded(100)
    model.place(asked("ho_7f1", AGENT, 40, 0), worker="w", now_ms=0)
    model.post("ho_7f1", 40, account=AGENT, now_ms=1)
    again = model.place(asked("ho_7f1", AGENT, 40, 0), worker="w", now_ms=2)
    assert again == Placed("ho_7f1", 40, 60, "posted", replayed=True)
    del model.accounts[AGENT]
    assert model.place(asked("ho_7f1", AGENT, 40, 0), worker="w", now_ms=2) == Placed(
        "ho_7f1", 40, 0, "posted", replayed=True
    )
    assert model.void("ho_7f1", account=AGENT, now_ms=3) == Posted("posted", 40, 0, 0, replayed=True)
    assert model.extend_to("ho_7f1", 9, now_ms=3) == Refused(Refusal.NOT_OPEN)
    assert model.extend_to("ho_7f9", 9, now_ms=3) == Refused(Refusal.NOT_OPEN)


def test_a_revoked_token_and_a_frozen_account_place_nothing() -> None:
    model = funded(100)
    model.revoked.add((AGENT, "t1"))
    hold = PlaceHold("ho_7f1", AGENT, floor=1, first=1, ceiling=1, rate=RATE, token_id="t1")
    assert model.place(hold, worker="w", now_ms=0) == Refused(Refusal.REVOKED)
    model.accounts[AGENT].frozen = True
    assert model.place(asked("ho_7f1", AGENT, 1, 0), worker="w", now_ms=0) == Refused(Refusal.FROZEN, 100, 0)


def test_a_paused_budget_lends_an_open_hold_nothing_more() -> None:
    model = funded(500)
    model.place(asked("ho_7f1", AGENT, 50, 100, mask=2), worker="w", now_ms=0)
    model.claims.budgets["bu_1"] = Budget("bu_1", 200, "paused")
    assert model.extend_to("ho_7f1", 90, now_ms=1) == Extended(50, 450)
    model.claims.budgets["bu_1"] = Budget("bu_1", 200)
    assert model.extend_to("ho_7f1", 90, now_ms=1) == Extended(90, 410)


def test_a_late_post_counts_a_shortfall_only_once_and_says_which_counter_is_lost() -> None:
    model = funded(100)
    model.place(asked("ho_7f1", AGENT, 100, 100, mask=5), worker="w", now_ms=0)
    model.checkpoint("ho_7f1", 120, now_ms=1)
    assert model.expire("ho_7f1", now_ms=2) == Refused(Refusal.RENEWED, 0, 100)
    assert model.expire("ho_7f1", now_ms=40_000) == Posted("expired", 100, 20, 0)
    model.claims.counters.clear()
    assert model.post("ho_7f1", 130, account=AGENT, now_ms=3) == Posted("expired", 100, 30, 0)
    assert model.accounts[AGENT].shortfalls == 1
    assert model.journal[-1].more == (("shortfall", "30"), ("scope_lost", "1"), ("scope_lost", "2"))


def test_credits_beyond_the_exact_range_and_of_another_kind_are_refused() -> None:
    model = funded(1)
    fields = {"unit": Unit.MSAT, "rate": RATE, "source": "lightning", "now_ms": 0}
    for number in range(9):
        credits.credit(model, f"big{number}", AGENT, 10**15 - 1, **fields)  # type: ignore[arg-type]
    assert credits.credit(model, "last", AGENT, 9, **fields) == Refused(  # type: ignore[arg-type]
        Refusal.TOO_GREAT, 9 * 10**15 - 8, 0
    )
    other = {**fields, "unit": Unit.NANOUSD}
    answer = credits.credit(model, "x", AGENT, 9, **other)  # type: ignore[arg-type]
    assert isinstance(answer, Refused) and answer.reason is Refusal.FOREIGN


def test_debits_beyond_the_exact_range_and_of_no_account_are_refused() -> None:
    model = funded(1)
    assert credits.debit(model, "d", "tok_7fz", 1, cause="refund", now_ms=0) == Refused(Refusal.NO_ACCOUNT)
    for number in range(9):
        credits.debit(model, f"d{number}", AGENT, 10**15 - 1, cause="chargeback", now_ms=0)
    answer = credits.debit(model, "d9", AGENT, 10**13, cause="chargeback", now_ms=0)
    assert answer == Refused(Refusal.TOO_GREAT, 0, 0)
    assert credits.debit(model, "d0", AGENT, 5, cause="chargeback", now_ms=0) == Refused(Refusal.FOREIGN, 0, 0)


def test_an_envelope_has_one_pocket_and_moves_no_money_of_the_house() -> None:
    model = LedgerModel()
    answer = credits.credit(
        model, "e", "env_7f1", 50, unit=Unit.NANOUSD, rate=NO_RATE, source="execution", cause="envelope",
        account_class="envelope", now_ms=0,
    )  # fmt: skip
    assert answer == Credited("applied", 50)
    assert model.accounts["env_7f1"].pockets == ()
    assert [cause for cause in CreditCause if cause.mode is CreditMode.PAID] == [CreditCause.PAYMENT]


def test_bad_figures_name_their_field() -> None:
    model = funded()
    for bad, param in (
        ({"cause": "luck"}, "cause"),
        ({"cause": "payment", "pocket": "purse"}, "pocket"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            credits.credit(
                model,
                "x",
                PERSON,
                5,
                unit=Unit.NANOUSD,
                rate=NO_RATE,
                source="s",
                now_ms=0,
                **bad,
            )
        assert caught.value.param == param
    with pytest.raises(InvalidRequest, match="earned is an integer"):
        model.checkpoint("ho_7f1", True, now_ms=0)


def test_an_entry_is_read_back_as_it_was_written() -> None:
    text = "posted 1795383743859 tok_7fa ho_7f1 30 -100 0 70 0 owner=refund:1 shortfall=5"
    adds = Totals(available=30, held=-100, posted=70)
    more = (("owner", "refund:1"), ("shortfall", "5"))
    assert parse_entry(4, text) == JournalEntry(4, "posted", 1795383743859, "tok_7fa", "ho_7f1", adds, more)
    with pytest.raises(ValueError, match="invalid literal"):
        parse_entry(4, "posted x tok_7fa ho_7f1 0 0 0 0 0")


def test_every_refusal_of_place_has_its_reason() -> None:
    model = funded(100, terms=LedgerTerms(most_shortfalls=1))

    def reason(hold: PlaceHold, now_ms: int = 0) -> Refusal:
        answer = model.place(hold, worker="w", now_ms=now_ms)
        assert isinstance(answer, Refused)
        return answer.reason

    def agents(hold_id: str = "ho_7f1", **fields: object) -> PlaceHold:
        base = {"floor": 10, "first": 10, "ceiling": 10, "rate": RATE}
        return PlaceHold(hold_id, AGENT, **{**base, **fields})  # type: ignore[arg-type]

    assert reason(asked("ho_7f1", "tok_7fz", 1, 0)) is Refusal.NO_ACCOUNT
    assert reason(agents(credit_id="p9")) is Refusal.CREDIT_UNKNOWN
    assert reason(agents(rate=Rate(1))) is Refusal.RATE_CHANGED
    assert reason(agents(floor=101, ceiling=101)) is Refusal.INSUFFICIENT
    assert reason(agents(scopes=(ScopeClaim("o", "total", limit=9),))) is Refusal.LIMIT
    assert reason(agents(scopes=(ScopeClaim("o", "total", Measure.USES, limit=0),))) is Refusal.LIMIT
    assert reason(agents(scopes=(ScopeClaim("o", "total", budget_id="bu_9"),))) is Refusal.NO_BUDGET
    assert reason(agents(scopes=(ScopeClaim("o", "day:1", limit=9, window_ends_at_ms=5),)), 5) is Refusal.STALE_WINDOW
    model.claims.budgets["bu_1"] = Budget("bu_1", 5, "active")
    assert reason(agents(scopes=(CLAIMS[1],))) is Refusal.LIMIT
    model.claims.budgets["bu_1"] = Budget("bu_1", 5, "paused")
    assert reason(agents(scopes=(CLAIMS[1],))) is Refusal.PAUSED
    model.place(agents(credit_id="p0", floor=100, first=100, ceiling=101), worker="w", now_ms=0)
    assert reason(agents(ceiling=11)) is Refusal.FOREIGN
    model.post("ho_7f1", 101, account=AGENT, now_ms=0)
    assert reason(agents("ho_7f2")) is Refusal.TOO_MANY_SHORTFALLS
    credits.debit(model, "d", AGENT, 1_000, cause="chargeback", now_ms=0)
    assert reason(agents("ho_7f2")) is Refusal.DEBT
    model.void("ho_7f3", account=AGENT, now_ms=0)
    assert reason(agents("ho_7f3")) is Refusal.VOIDED


def test_steps_on_anothers_hold_and_of_nobody_change_nothing() -> None:
    model = funded(100)
    model.place(asked("ho_7f1", AGENT, 10, 0), worker="w", now_ms=0)
    foreign = Refused(Refusal.FOREIGN, 100, 0)
    assert model.post("ho_7f1", 5, account=PERSON, now_ms=0) == foreign
    assert model.void("ho_7f1", account=PERSON, now_ms=0) == foreign
    assert model.post("ho_7f9", 5, account="tok_7fz", now_ms=0) == Refused(Refusal.NO_ACCOUNT)
    assert model.expire("ho_7f9", now_ms=0) == Refused(Refusal.NOT_OPEN)
    assert model.void("ho_7f8", account="tok_7fz", now_ms=0) == Posted("voided", 0, 0, 0)
    assert model.void("ho_7f8", account=PERSON, now_ms=0) == foreign


def test_a_hold_of_an_execution_is_neither_renewed_nor_expired_and_says_whose_it_is() -> None:
    model = funded(100)
    hold = PlaceHold(
        "ho_7f1", PERSON, floor=50, first=50, ceiling=50, rate=NO_RATE, owner="ex_7f1", greatest_age_ms=900_000
    )
    model.place(hold, worker="w", now_ms=0)
    assert model.holds["ho_7f1"].renewed_until_ms == 900_000
    model.checkpoint("ho_7f1", 5, now_ms=10)
    assert model.holds["ho_7f1"].renewed_until_ms == 900_000
    assert model.expire("ho_7f1", now_ms=10**9, lease_gone=True) == Refused(Refusal.RENEWED, 50, 50)
    assert model.void("ho_7f1", account=PERSON, now_ms=11) == Posted(
        "voided", 0, 0, 100, (("allowance", 0), ("prepaid", 0), ("postpaid", 0))
    )
    assert [entry.more for entry in model.journal if entry.id == "ho_7f1"] == [(("owner", "ex_7f1"),)] * 2


def test_a_hold_past_its_greatest_age_is_not_renewed() -> None:
    model = funded(100)
    hold = PlaceHold("ho_7f1", AGENT, floor=5, first=5, ceiling=5, rate=RATE, greatest_age_ms=1_000)
    model.place(hold, worker="w", now_ms=0)
    assert model.checkpoint("ho_7f1", 5, now_ms=1_000) == Refused(Refusal.NOT_OPEN)
