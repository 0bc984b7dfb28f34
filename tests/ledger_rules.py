"""Steps that change what holds are checked against: budgets, the directory, quotes, plans, credit limits; and losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from ledger_pair import ACCOUNTS, BUDGETS, CLAIMS, FAR_MS, NEWCOMER, ORG, PERSON, TAG, LedgerPair, usage_claim
from msgspec import structs

from gateway.adapters.redis import keys
from gateway.core.accounts import Budget
from gateway.core.allowance_model import renew_allowance, set_credit_limit
from gateway.core.directory import AuditEntry
from gateway.core.holds import ScopeClaim
from gateway.core.journal import Totals
from gateway.core.quotes import Estimate, Quote, QuoteState, Tier
from gateway.core.records import CounterId, QuoteRecord, Told

PARTS = (ORG, f"{ORG}|alice")
DIGEST = "d" * 40
# Period, plan, end: two plans of one month, a shorter one, the months around it, one that never ends, no plan any more.
PERIODS = (
    ("pro:may", "pro", FAR_MS), ("basic:may", "basic", FAR_MS), ("pro:june", "pro", FAR_MS + 1), ("pro:april", "pro", 1),
    ("daily:1", "daily", FAR_MS - 1), ("flat", "flat", 0), ("none:1", "", 0), ("none:2", "", 0),
)  # fmt: skip
LOSABLE = (*CLAIMS, *map(usage_claim, ACCOUNTS))
people = st.sampled_from([PERSON] * 4 + [NEWCOMER] * 3 + ["tok_7fa"])
seldom = st.sampled_from([False] * 11 + [True])
lift_lists = st.lists(st.sampled_from(BUDGETS), max_size=2, unique=True).map(tuple)
quote_states = st.sampled_from([QuoteState.APPROVED] * 5 + [QuoteState.OPEN] * 2 + [QuoteState.REFUSED])


budget_changes = st.builds(
    lambda budget_id, limit, state, raised: Budget(budget_id, limit, state, raised_to=raised[0], raised_until_ms=raised[1]),
    st.sampled_from(BUDGETS), st.one_of(st.none(), st.integers(0, 300)), st.sampled_from(["active"] * 4 + ["paused"]),
    st.sampled_from([(0, 0)] * 3 + [(500, FAR_MS), (5, FAR_MS), (500, 1)]),
)  # fmt: skip


class TermsRules(LedgerPair):
    """What persons, apps and operators decide."""

    @rule(budget=budget_changes)
    def put_budget(self, budget: Budget) -> None:
        self.model.claims.budgets[budget.budget_id] = budget
        self.run(self.link.command("DEL", keys.budget_key(TAG, budget.budget_id), key=TAG))
        self.run(self.workers[0].put_budget(ORG, budget))

    @precondition(lambda self: any(each.state == "paused" for each in self.model.claims.budgets.values()))
    @rule(number=st.integers(0, 4))
    def resume_a_budget(self, number: int) -> None:
        budgets = self.model.claims.budgets
        paused = [name for name, each in budgets.items() if each.state == "paused"]
        budget_id = paused[number % len(paused)]
        budgets[budget_id] = replace(budgets[budget_id], state="active")
        self.run(self.workers[0].put_budget(ORG, budgets[budget_id]))

    @rule(part=st.sampled_from(PARTS))
    def change_the_directory(self, part: str) -> None:
        version = self.model.versions.get(part, 0) + 1
        assert self.run(self.directory.change(ORG, part, [], None, expected=version - 1)) == version
        assert self.run(self.directory.change(ORG, part, [], None, expected=version - 1)) is None
        self.model.versions[part] = version

    @rule(state=quote_states, most=st.integers(0, 120), lifts=lift_lists, expired=seldom)
    def put_quote(self, state: QuoteState, most: int, lifts: tuple[str, ...], expired: bool) -> None:
        quote_id = f"q_7f{len(self.quote_ids)}"
        self.quote_ids.append(quote_id)
        quote = Quote(
            quote_id, ORG, PERSON, "alice", "ak_7f1", "", DIGEST, "p", Estimate(1, 2, most, 0.5), Tier.EXPLICIT, "tier",
            lifts=lifts, expires_at_ms=self.now_ms() - 1_000 if expired else FAR_MS, state=state, approved_max=most,
        )  # fmt: skip
        self.run(self.quotes.put(quote, told=b'{"quote": 1}'))
        self.model.claims.outbox.append(Told("quote.waiting", ORG, {"quote": 1}))
        self.model.claims.quotes[quote_id] = QuoteRecord(DIGEST, quote.expires_at_ms, state, most, lifts)

    @precondition(lambda self: any(each.state is QuoteState.OPEN for each in self.model.claims.quotes.values()))
    @rule(number=st.integers(0, 9), most=st.integers(1, 120), yes=st.booleans())
    def answer_a_quote(self, number: int, most: int, yes: bool) -> None:
        waiting = [name for name, each in self.model.claims.quotes.items() if each.state is QuoteState.OPEN]
        quote_id = waiting[number % len(waiting)]
        before = self.run(self.quotes.find(quote_id))
        assert before is not None
        state = QuoteState.APPROVED if yes else QuoteState.REFUSED
        after = structs.replace(before, state=state, approved_max=most)
        entry = AuditEntry(1, ORG, "key ak_7f1", "key", "quote.answer", quote_id)
        assert self.run(self.quotes.answer(before, after, entry, event=("quote.answered", b'{"yes": 1}')))
        mine = self.model.claims.quotes[quote_id]
        mine.state, mine.approved_max = state, most
        self.model.claims.outbox.append(Told("quote.answered", ORG, {"yes": 1}))
        self.answers += 1
        (logged,) = self.run(self.audit.read(ORG, after=self.answers - 1, most=1))
        self.model.enter("audit", 0, ORG, f"audit:{self.answers}", Totals(), [("digest", logged.digest)])

    @rule(
        account=people, period=st.sampled_from(PERIODS), amount=st.integers(0, 200), limit=st.sampled_from([0, 40, 90]),
        follows=st.sampled_from([""] * 5 + ["pro:may", "basic:may"]),
    )  # fmt: skip
    def renew_allowance(
        self, account: str, period: tuple[str, str, int], amount: int, limit: int, follows: str
    ) -> None:
        period_id, plan, ends_at_ms = period
        fields: dict[str, Any] = {"plan": plan, "ends_at_ms": ends_at_ms, "limit": limit, "follows": follows}
        expected = renew_allowance(self.model, account, period_id, amount, **fields, now_ms=self.now_ms())
        assert self.run(self.workers[0].renew_allowance(account, period_id, amount, **fields)) == expected

    @rule(account=people, number=st.integers(0, 5), limit=st.one_of(st.none(), st.integers(0, 200)))
    def set_credit_limit(self, account: str, number: int, limit: int | None) -> None:
        change_id = f"limit{number}"
        expected = set_credit_limit(self.model, account, limit, change_id=change_id, now_ms=self.now_ms())
        assert self.run(self.workers[0].set_credit_limit(account, limit, change_id=change_id)) == expected

    @rule(
        kind=st.sampled_from(["counter"] * 4 + ["quote"] * 2 + ["budget"] * 2 + ["freeze"] + ["thaw"] * 3 + ["period"]),
        number=st.integers(0, 99), account=st.sampled_from(ACCOUNTS),
    )  # fmt: skip
    def mishap(self, kind: str, number: int, account: str) -> None:
        """What lived too short, was deleted, is over, or stands still."""
        quotes, budget_id = list(self.model.claims.quotes), BUDGETS[number % len(BUDGETS)]
        if kind == "counter":
            self.lose_a_counter(LOSABLE[number % len(LOSABLE)])
        elif kind == "quote" and quotes:
            quote_id = quotes[number % len(quotes)]
            del self.model.claims.quotes[quote_id]
            self.run(self.link.command("DEL", keys.quote_key(TAG, quote_id), key=TAG))
        elif kind == "budget":
            self.model.claims.budgets.pop(budget_id, None)
            self.run(self.link.command("DEL", keys.budget_key(TAG, budget_id), key=TAG))
        elif kind == "period" and account in self.model.accounts and self.model.accounts[account].plan:
            self.model.accounts[account].period_ends_at_ms = 1
            self.run(self.link.command("HSET", keys.account_key(account), "period_ends", "1", key=TAG))
        elif kind in ("freeze", "thaw") and account in self.model.accounts:
            freeze = kind == "freeze"
            self.model.accounts[account].frozen = freeze
            self.run(self.workers[0].freeze(account) if freeze else self.workers[0].unfreeze(account))

    def lose_a_counter(self, claim: ScopeClaim) -> None:
        counter_id = CounterId.of(claim)
        self.lost.add(counter_id)
        self.thresholds = {each for each in self.thresholds if each[:2] != (claim.scope, claim.window)}
        self.model.claims.counters.pop(counter_id, None)
        self.model.claims.usage.pop(counter_id, None)
        self.run(self.link.command("DEL", keys.counter_key(TAG, claim), key=TAG))
