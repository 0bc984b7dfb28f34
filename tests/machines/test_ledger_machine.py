"""The same random steps against the model and a real server: the same answers, the same records, the same journal.

Ids come from small pools, so that most steps meet an id again. Two workers take turns, so that one ends what the other
placed. The server's clock cannot be set: the model gets its time, and a step that would fall on the very edge of a
deadline waits until it is past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from ledger_pair import ACCOUNTS, AGENTS, BUDGETS, CLAIMS, LINES, NEWCOMER, PARTITION, PERSON, usage_claim
from ledger_rules import DIGEST, PARTS, TermsRules, budget_changes, lift_lists, seldom
from msgspec import structs

from gateway.core import credits
from gateway.core.accounts import POCKETS, Budget
from gateway.core.holds import Guard, Measure, Placed, PlaceHold, ScopeClaim, UsageTokens
from gateway.core.journal import summed
from gateway.core.money import NO_RATE, Rate, Unit
from gateway.core.quotes import QuoteState
from gateway.core.records import CounterId

account_ids = st.sampled_from(ACCOUNTS)
payers = st.sampled_from((*ACCOUNTS, PERSON, NEWCOMER))
OTHER_CONTENTS: tuple[dict[str, Any], ...] = (
    {"owner": "refund:2"}, {"rate": Rate(9)}, {"floor": 0, "first": 0}, {"ceiling": 500}, {"scopes": CLAIMS[:1]}, {"scopes": ()},
)  # fmt: skip
# Mostly an open hold, else one that has ended, else one that nobody knows.
picks = st.tuples(st.sampled_from(["open"] * 12 + ["ended"] * 6 + ["unknown"]), st.integers(0, 40))
amounts = st.integers(0, 60)
claim_lists = st.lists(st.sampled_from(CLAIMS[:-1] * 4 + CLAIMS), max_size=4, unique_by=CounterId.of)
lines = st.sampled_from([None, *LINES, *LINES])
tokens = st.builds(UsageTokens, st.integers(0, 99), st.integers(0, 9), st.integers(0, 9))
guard_lists = st.sampled_from([()] * 6 + [(0,)] * 4 + [(0, 0), (1,)])  # how far each is behind
# The newest quote or one before; with the right digest or another one.
quote_picks = st.sampled_from([None] * 6 + [(0, DIGEST)] * 4 + [(1, DIGEST), (0, "another"), (99, DIGEST)])
call_lists = st.lists(st.tuples(amounts, amounts), min_size=1, max_size=5)
Pick = tuple[str, int]


def rate_of(account: str) -> Rate:
    return Rate(60_000) if account in AGENTS else NO_RATE


def has_open(machine: LedgerMachine) -> bool:
    return any(hold.state == "open" for hold in machine.model.holds.values())


class LedgerMachine(TermsRules):
    """Runs every step twice."""

    placed = 0

    @initialize(amount=st.integers(100, 2_000))
    def fund(self, amount: int) -> None:
        for account in ACCOUNTS:
            self.credit(account, 0, amount, "payment", None, envelope=False)
        for budget_id in BUDGETS[:3]:
            self.put_budget(Budget(budget_id, amount // 5))

    def id_of(self, pick: Pick) -> str:
        kind, number = pick
        found = [name for name, hold in self.model.holds.items() if (hold.state == "open") == (kind == "open")]
        return found[number % len(found)] if found and kind != "unknown" else f"ho_7fu{number}"

    def claims_of(
        self, account: str, claims: Iterable[ScopeClaim], line: str | None, quote: tuple[int, str] | None
    ) -> tuple[ScopeClaim, ...]:
        """As a request claims them: budgets, the line of usage, the quote."""
        more = [] if line is None else [usage_claim(account, line)]
        if quote is not None:
            place, digest = quote
            quote_id = self.quote_ids[-1 - place] if place < len(self.quote_ids) else "q_7funknown"
            more.append(ScopeClaim(quote_id, "", Measure.QUOTE, detail=digest))
        return (*claims, *more)

    def place_both(self, hold: PlaceHold, worker: int) -> None:
        """A paused budget admits nothing, unless an approval lifts it."""
        fresh = hold.hold_id not in self.model.holds
        expected = self.model.place(hold, worker=f"w{worker + 1}", now_ms=self.now_ms())
        assert self.run(self.workers[worker].place(hold)) == expected
        self.agree_on_time(hold.hold_id)
        if isinstance(expected, Placed) and fresh:
            budgets = [
                self.model.claims.budgets.get(each.budget_id or "") for each in self.model.holds[hold.hold_id].scopes
            ]
            assert all(budget is None or budget.state == "active" for budget in budgets)

    @rule(
        pick=picks, again=st.sampled_from([False] * 5 + [True]), account=payers, floor=amounts, more=amounts, most=amounts, claims=claim_lists,
        owner=st.sampled_from(["", "", "", "refund:1"]), lifetime_ms=st.sampled_from([1, 60_000]),
        age_ms=st.sampled_from([1, 600_000, 600_000]), worker=st.integers(0, 1),
        credit_id=st.sampled_from([None] * 4 + ["pay0"] * 4 + ["pay5"]), misrated=seldom, line=lines, quote=quote_picks,
        behind=guard_lists,
    )  # fmt: skip
    def place(
        self, pick: Pick, again: bool, account: str, floor: int, more: int, most: int, claims: list[ScopeClaim], owner: str,
        lifetime_ms: int, age_ms: int, worker: int, credit_id: str | None, misrated: bool, line: str | None,
        quote: tuple[int, str] | None, behind: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.placed += 1
        hold_id = self.id_of(pick) if again else f"ho_7f{self.placed}"
        hold = PlaceHold(
            hold_id, account, floor=floor, first=floor + more, ceiling=floor + more + most,
            rate=Rate(7) if misrated else rate_of(account), scopes=self.claims_of(account, claims, line, quote), owner=owner,
            guards=tuple(
                Guard(part, self.model.versions.get(part, 0) - missed) for part, missed in zip(PARTS, behind, strict=False)
            ),
            lifetime_ms=lifetime_ms, greatest_age_ms=age_ms, credit_id=credit_id, token_id="t1", labels=b'{"model":"m"}',
        )  # fmt: skip
        self.place_both(hold, worker)

    @rule(
        account=payers, floor=amounts, more=amounts, most=amounts, claims=claim_lists, worker=st.integers(0, 1),
        lifetime_ms=st.sampled_from([1, 60_000]), line=lines,
    )  # fmt: skip
    def place_simply(
        self, account: str, floor: int, more: int, most: int, claims: list[ScopeClaim], worker: int, lifetime_ms: int,
        line: str | None,
    ) -> None:  # fmt: skip
        self.place(
            ("unknown", 0), again=False, account=account, floor=floor, more=more, most=most, claims=claims, owner="",
            lifetime_ms=lifetime_ms, age_ms=600_000, worker=worker, credit_id=None, misrated=False, line=line, quote=None, behind=(),
        )  # fmt: skip

    @rule(
        account=payers, most=amounts, more=amounts, claims=claim_lists, lifts=lift_lists, worker=st.integers(0, 1), line=lines,
        expired=st.sampled_from([False] * 6 + [True]), beyond=seldom, digest=st.sampled_from([DIGEST] * 8 + ["another"]),
    )  # fmt: skip
    def place_what_was_approved(
        self, account: str, most: int, more: int, claims: list[ScopeClaim], lifts: tuple[str, ...], worker: int, line: str | None,
        expired: bool, beyond: bool, digest: str,
    ) -> None:  # fmt: skip
        """It asks for more than was approved, or needs more."""
        self.put_quote(QuoteState.APPROVED, most, lifts, expired)
        scopes = self.claims_of(account, claims, line, (0, digest))
        floor = most + 1 if beyond else 0
        self.place_fresh(account, floor, most + more // 2, most + more + 1, scopes, worker)

    def place_fresh(
        self, account: str, floor: int, first: int, ceiling: int, scopes: tuple[ScopeClaim, ...], worker: int
    ) -> str:
        self.placed += 1
        hold_id = f"ho_7f{self.placed}"
        rate = rate_of(account)
        self.place_both(
            PlaceHold(hold_id, account, floor=floor, first=first, ceiling=ceiling, rate=rate, scopes=scopes), worker
        )
        return hold_id

    @rule(
        account=payers,
        claims=claim_lists,
        calls=call_lists,
        line=st.sampled_from(LINES),
        worker=st.integers(0, 1),
        used=tokens,
    )
    def spend(
        self,
        account: str,
        claims: list[ScopeClaim],
        calls: list[tuple[int, int]],
        line: str,
        worker: int,
        used: UsageTokens,
    ) -> None:
        """A few calls after each other, on the same budgets: they come to their thresholds and limits."""
        for first, cost in calls:
            scopes = self.claims_of(account, claims, line, None)
            hold_id = self.place_fresh(account, first // 2, first, first + 10, scopes, worker)
            if hold_id in self.model.holds:
                self.post_both(hold_id, cost, account, worker, used)

    @precondition(lambda self: self.placed > 0)
    @rule(number=st.integers(0, 40), worker=st.integers(0, 1), change=st.sampled_from([{}, *OTHER_CONTENTS]))
    def place_again(self, number: int, worker: int, change: dict[str, Any]) -> None:
        """The very same hold, or one that differs in one thing."""
        asked = [hold.request for hold in self.model.holds.values() if hold.request is not None]
        if asked:
            hold = structs.replace(asked[number % len(asked)], **change)
            self.place_both(hold, worker)

    @precondition(has_open)
    @rule(
        earned=st.integers(0, 200),
        cost=amounts,
        total=st.integers(0, 150),
        pick=st.integers(0, 40),
        account=account_ids,
        used=tokens,
    )
    def lose_the_worker(self, earned: int, cost: int, total: int, pick: int, account: str, used: UsageTokens) -> None:
        """A hold is extended, earns, is left behind, and its worker comes back late, twice."""
        one = ("open", pick)
        hold_id = self.id_of(one)
        self.extend_to(one, total, worker=0)
        self.checkpoint(one, earned, worker=1)
        self.shrink_to(one, cost, worker=0)
        self.expire(one, worker=1, lease_gone=True)
        ended = [name for name, hold in self.model.holds.items() if hold.state != "open"]
        late = ("ended", ended.index(hold_id)) if hold_id in ended else one
        self.post(late, account, earned + cost, worker=0, foreign=False, used=used)
        self.post(late, account, earned + cost, worker=1, foreign=False, used=used)

    @rule(
        account=payers, most=amounts, asked=amounts, cost=amounts, first_ends=st.sampled_from(["void", "expire"]), second_first=st.booleans(),
        used=tokens,
    )  # fmt: skip
    def use_an_approval_again(
        self, account: str, most: int, asked: int, cost: int, first_ends: str, second_first: bool, used: UsageTokens
    ) -> None:
        """The hold that an approval bought ends at nothing; another one asks with it, before or after the first has
        come back."""
        self.put_quote(QuoteState.APPROVED, most, (), expired=False)
        scopes = self.claims_of(account, (), LINES[0], (0, DIGEST))
        hold_id = self.place_fresh(account, 0, asked, asked, scopes, worker=0)
        if first_ends == "void":
            self.void_both(hold_id, account, worker=0)
        else:
            self.expire_both(hold_id, worker=0, lease_gone=True)
        if not second_first:
            self.post_both(hold_id, cost, account, worker=0, used=used)
        self.place_fresh(account, 0, most, most, scopes, worker=1)
        self.post_both(hold_id, cost, account, worker=0, used=used)

    @rule(
        account=account_ids, claim=st.sampled_from(CLAIMS[2:9]), first=amounts, ceiling=st.integers(0, 300), lifts=lift_lists,
        budget=budget_changes, changes=st.booleans(), total=st.integers(60, 200), cost=st.integers(0, 200), used=tokens,
    )  # fmt: skip
    def raise_a_hold_at_its_limit(
        self, account: str, claim: ScopeClaim, first: int, ceiling: int, lifts: tuple[str, ...], budget: Budget, changes: bool,
        total: int, cost: int, used: UsageTokens,
    ) -> None:  # fmt: skip
        """What a person said yes to lifts what asks, and no pause."""
        hold_id = self.place_fresh(account, 0, first, first + 20, (claim,), worker=0)
        self.raise_both(hold_id, ceiling, (*lifts, str(claim.budget_id)), worker=0)
        if changes:
            self.put_budget(replace(budget, budget_id=str(claim.budget_id)) if claim.budget_id else budget)
        self.extend_both(hold_id, total, worker=1)
        self.post_both(hold_id, cost, account, worker=1, used=used)

    @rule(
        limit=amounts, lower=amounts, first=amounts, cost=amounts, paid=st.integers(0, 3), ends=st.sampled_from(["post", "shrink", "void"]),
        used=tokens,
    )  # fmt: skip
    def lower_what_may_be_owed_under_a_hold(
        self, limit: int, lower: int, first: int, cost: int, paid: int, ends: str, used: UsageTokens
    ) -> None:
        """What the hold gives back goes; what was paid in meanwhile stays."""
        change = self.placed + 10
        self.set_credit_limit(NEWCOMER, change, limit + 40)
        hold_id = self.place_fresh(NEWCOMER, 0, first, first + 40, (), worker=0)
        self.set_credit_limit(NEWCOMER, change + 1_000, lower)
        self.set_credit_limit(NEWCOMER, change, limit + 40)
        if paid == 3:
            self.credit(NEWCOMER, 100 + self.placed, 30, "payment", "postpaid", envelope=False)
        if ends == "shrink":
            self.shrink_both(hold_id, cost, worker=1)
        elif ends == "void":
            self.void_both(hold_id, NEWCOMER, worker=1)
        else:
            self.post_both(hold_id, cost, NEWCOMER, worker=1, used=used)

    @rule(
        account=account_ids, claim=st.sampled_from([each for each in CLAIMS if each.budget_id]), first=amounts, more=amounts,
        budget=budget_changes, total=st.integers(0, 150), cost=st.integers(0, 120), used=tokens,
    )  # fmt: skip
    def change_a_budget_under_a_hold(
        self, account: str, claim: ScopeClaim, first: int, more: int, budget: Budget, total: int, cost: int, used: UsageTokens
    ) -> None:  # fmt: skip
        """What the record says counts with the next step."""
        hold_id = self.place_fresh(account, 0, first, first + more, (claim, usage_claim(account, LINES[1])), worker=0)
        self.put_budget(replace(budget, budget_id=str(claim.budget_id)))
        self.extend_both(hold_id, total, worker=1)
        self.post_both(hold_id, cost, account, worker=1, used=used)

    @rule(
        account=account_ids, claim=st.sampled_from([each for each in CLAIMS if each.measure is not Measure.USES]), first=amounts,
        other=amounts, total=amounts,
    )  # fmt: skip
    def lose_the_counter_of_a_hold(self, account: str, claim: ScopeClaim, first: int, other: int, total: int) -> None:
        """Another hold makes it anew, and the first one changes its size."""
        hold_id = self.place_fresh(account, 0, first, 150, (claim,), worker=0)
        self.lose_a_counter(claim)
        if total % 2:
            self.place_fresh(account, 0, other, other, (claim,), worker=0)
        self.shrink_both(hold_id, total, worker=0)
        self.extend_both(hold_id, 150 - total, worker=0)

    @precondition(has_open)
    @rule(pick=picks, total=st.integers(0, 150), worker=st.integers(0, 1))
    def extend_to(self, pick: Pick, total: int, worker: int) -> None:
        self.extend_both(self.id_of(pick), total, worker)

    def extend_both(self, hold_id: str, total: int, worker: int) -> None:
        expected = self.model.extend_to(hold_id, total, now_ms=self.now_ms())
        assert self.run(self.workers[worker].extend_to(hold_id, total)) == expected

    @precondition(has_open)
    @rule(pick=picks, total=amounts, worker=st.integers(0, 1))
    def shrink_to(self, pick: Pick, total: int, worker: int) -> None:
        self.shrink_both(self.id_of(pick), total, worker)

    def shrink_both(self, hold_id: str, total: int, worker: int) -> None:
        expected = self.model.shrink_to(hold_id, total, now_ms=self.now_ms())
        assert self.run(self.workers[worker].shrink_to(hold_id, total)) == expected

    @precondition(has_open)
    @rule(pick=picks, ceiling=st.integers(0, 300), lifts=lift_lists, worker=st.integers(0, 1))
    def raise_hold(self, pick: Pick, ceiling: int, lifts: tuple[str, ...], worker: int) -> None:
        self.raise_both(self.id_of(pick), ceiling, lifts, worker)

    def raise_both(self, hold_id: str, ceiling: int, lifts: tuple[str, ...], worker: int) -> None:
        self.raised.add(hold_id)
        expected = self.model.raise_hold(hold_id, ceiling, lifts=lifts)
        assert self.run(self.workers[worker].raise_hold(hold_id, ceiling, lifts=lifts)) == expected

    @precondition(has_open)
    @rule(pick=picks, earned=amounts, worker=st.integers(0, 1))
    def checkpoint(self, pick: Pick, earned: int, worker: int) -> None:
        hold_id = self.id_of(pick)
        hold = self.model.holds.get(hold_id)
        now = self.now_past(hold.must_end_at_ms) if hold is not None else self.now_ms()
        expected = self.model.checkpoint(hold_id, earned, now_ms=now)
        assert self.run(self.workers[worker].checkpoint(hold_id, earned)) == expected
        self.agree_on_time(hold_id)

    def payer_of(self, hold_id: str, account: str, foreign: bool) -> str:
        hold = self.model.holds.get(hold_id)
        return hold.account if hold and not foreign else account

    @rule(
        pick=picks, account=account_ids, cost=st.integers(0, 120), worker=st.integers(0, 1), foreign=seldom, used=tokens
    )
    def post(self, pick: Pick, account: str, cost: int, worker: int, foreign: bool, used: UsageTokens) -> None:
        hold_id = self.id_of(pick)
        self.post_both(hold_id, cost, self.payer_of(hold_id, account, foreign), worker, used)

    def post_both(self, hold_id: str, cost: int, payer: str, worker: int, used: UsageTokens) -> None:
        expected = self.model.post(hold_id, cost, account=payer, tokens=used, now_ms=self.now_ms())
        real = self.workers[worker].post(hold_id, cost, account=payer, outcome=b"{}", tokens=used)
        assert self.run(real) == expected

    @rule(pick=picks, account=account_ids, worker=st.integers(0, 1), foreign=seldom)
    def void(self, pick: Pick, account: str, worker: int, foreign: bool) -> None:
        hold_id = self.id_of(pick)
        self.void_both(hold_id, self.payer_of(hold_id, account, foreign), worker)

    def void_both(self, hold_id: str, payer: str, worker: int) -> None:
        expected = self.model.void(hold_id, account=payer, now_ms=self.now_ms())
        assert self.run(self.workers[worker].void(hold_id, account=payer)) == expected

    @precondition(has_open)
    @rule(pick=picks, worker=st.integers(0, 1), lease_gone=st.booleans())
    def expire(self, pick: Pick, worker: int, lease_gone: bool) -> None:
        self.expire_both(self.id_of(pick), worker, lease_gone)

    def expire_both(self, hold_id: str, worker: int, lease_gone: bool) -> None:
        hold = self.model.holds.get(hold_id)
        now = self.now_past(hold.renewed_until_ms) if hold is not None else self.now_ms()
        expected = self.model.expire(hold_id, now_ms=now, lease_gone=lease_gone)
        assert self.run(self.workers[worker].expire(hold_id, lease_gone=lease_gone)) == expected

    @rule(
        account=payers, number=st.integers(0, 5), amount=st.integers(1, 300),
        cause=st.sampled_from(["payment", "payment", "promotion", "allowance"]), pocket=st.sampled_from([None, *POCKETS]),
        envelope=seldom,
    )  # fmt: skip
    def credit(self, account: str, number: int, amount: int, cause: str, pocket: str | None, envelope: bool) -> None:
        unit = Unit.MSAT if account in AGENTS else Unit.NANOUSD
        fields: dict[str, Any] = {
            "unit": unit, "rate": rate_of(account), "source": "lightning", "cause": cause, "pocket": pocket,
            "account_class": "envelope" if envelope else None,
        }  # fmt: skip
        expected = credits.credit(self.model, f"pay{number}", account, amount, **fields, now_ms=self.now_ms())
        assert self.run(self.workers[0].credit(f"pay{number}", account, amount, **fields)) == expected

    @rule(
        account=payers, number=st.integers(0, 9), amount=st.integers(1, 40),
        cause=st.sampled_from(["refund", "chargeback"]), pocket=st.sampled_from([None, *POCKETS]),
    )  # fmt: skip
    def debit(self, account: str, number: int, amount: int, cause: str, pocket: str | None) -> None:
        expected = credits.debit(
            self.model, f"back{number}", account, amount, cause=cause, pocket=pocket, now_ms=self.now_ms()
        )
        real = self.run(self.workers[0].debit(f"back{number}", account, amount, cause=cause, pocket=pocket))
        assert real == expected

    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        through, _ = self.run(self.workers[0].opening(PARTITION))
        upto = int(len(self.model.journal) * share)
        moved = any(entry.kind != "opening" for entry in self.model.journal[through:upto])
        assert self.run(self.workers[0].trim(PARTITION, upto)) == (upto if moved else through)
        if moved:
            self.model.enter("opening", 0, "-", str(upto), summed(self.model.journal[:upto]))


def test_model_and_server_give_the_same_answers_to_the_same_steps(valkey_port: int) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(valkey_port),  # type: ignore[arg-type]  # it calls whatever makes a machine
        settings=settings(
            max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
