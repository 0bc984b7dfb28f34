"""The same random steps against the model and a real server: the same answers, the same records, the same journal.

Ids come from small pools, so that most steps meet an id again. Two workers take turns, so that one ends what the other
placed. The server's clock cannot be set: the model gets its time, and a step that falls on the very edge of a deadline
is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs
from servers import flush

from gateway.adapters.redis import keys
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.core import credits
from gateway.core.accounts import POCKETS, Budget, LedgerTerms
from gateway.core.holds import Measure, PlaceHold, ScopeClaim
from gateway.core.journal import JournalEntry, Totals, summed
from gateway.core.ledger import LedgerModel
from gateway.core.money import NO_RATE, Rate, Unit
from gateway.core.records import CounterId

PARTITION = 0x7F
TAG = "{p7f}"
AGENTS = ("tok_7fa", "tok_7fb")
PERSON = "acct_7fc"
ACCOUNTS = (*AGENTS, PERSON)
EVERY_ACCOUNT = (*ACCOUNTS, "house-msat_7f", "house-nanousd_7f")
BUDGETS = ("bu_1", "bu_2")
FAR_MS = 4_102_444_800_000
TERMS = LedgerTerms(most_shortfalls=4)
CLAIMS = (
    ScopeClaim("org", "total", limit=400),
    ScopeClaim("user:a b", "day:1", limit=90, window_ends_at_ms=FAR_MS),
    ScopeClaim("session|x", "day:1", budget_id="bu_1", window_ends_at_ms=FAR_MS),
    ScopeClaim("task", "month:2", budget_id="bu_2"),
    ScopeClaim("caveat:1", "total", Measure.USES, limit=3),
    ScopeClaim("key", "day:0", limit=900, window_ends_at_ms=1),
)

account_ids = st.sampled_from(ACCOUNTS)
OTHER_CONTENTS: tuple[dict[str, Any], ...] = (
    {"owner": "refund:2"}, {"rate": Rate(9)}, {"floor": 0, "first": 0}, {"ceiling": 500}, {"scopes": CLAIMS[:1]}, {"scopes": ()},
)  # fmt: skip
# Mostly an open hold, else one that has ended, else one that nobody knows.
picks = st.tuples(st.sampled_from(["open"] * 12 + ["ended"] * 6 + ["unknown"]), st.integers(0, 40))
seldom = st.sampled_from([False] * 11 + [True])
amounts = st.integers(0, 60)
claim_lists = st.lists(st.sampled_from(CLAIMS[:5] * 4 + CLAIMS), max_size=3, unique_by=CounterId.of)
Pick = tuple[str, int]
Answer = TypeVar("Answer")


def rate_of(account: str) -> Rate:
    return NO_RATE if account == PERSON else Rate(60_000)


def has_open(machine: LedgerMachine) -> bool:
    return any(hold.state == "open" for hold in machine.model.holds.values())


class LedgerMachine(RuleBasedStateMachine):
    """Runs every step twice."""

    def __init__(self, port: int) -> None:
        super().__init__()
        flush(port)
        self.loop = asyncio.new_event_loop()
        self.link = self.run(RedisLink.open(f"redis://127.0.0.1:{port}/0"))
        self.workers = [RedisLedger(self.link, worker=name, terms=TERMS) for name in ("w1", "w2")]
        self.model = LedgerModel(TERMS)
        self.lost_a_counter = False
        self.placed = 0

    @initialize(amount=st.integers(100, 2_000))
    def fund(self, amount: int) -> None:
        for account in ACCOUNTS:
            self.credit(account, 0, amount, "payment", None, envelope=False)
        for budget_id in BUDGETS:
            self.put_budget(budget_id, amount, "active")

    def run(self, step: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(step)

    def now_ms(self) -> int:
        seconds, micros = self.run(self.link.command("TIME", key=TAG))
        return int(seconds) * 1000 + int(micros) // 1000

    def id_of(self, pick: Pick) -> str:
        kind, number = pick
        found = [name for name, hold in self.model.holds.items() if (hold.state == "open") == (kind == "open")]
        return found[number % len(found)] if found and kind != "unknown" else f"ho_7fu{number}"

    def agree_on_time(self, hold_id: str) -> None:
        """Take the times that the server wrote: they are a moment later than the model's."""
        record, hold = self.run(self.workers[0].hold(hold_id)), self.model.holds.get(hold_id)
        if record is not None and hold is not None:
            assert 0 <= record.renewed_until_ms - hold.renewed_until_ms < 5_000
            hold.renewed_until_ms, hold.must_end_at_ms = record.renewed_until_ms, record.must_end_at_ms

    @rule(
        pick=picks, again=st.sampled_from([False] * 5 + [True]), account=account_ids, floor=amounts, more=amounts, most=amounts, claims=claim_lists,
        owner=st.sampled_from(["", "", "", "refund:1"]), lifetime_ms=st.sampled_from([1, 60_000]),
        age_ms=st.sampled_from([1, 600_000, 600_000]), worker=st.integers(0, 1),
        credit_id=st.sampled_from([None] * 4 + ["pay0"] * 4 + ["pay5"]), misrated=seldom,
    )  # fmt: skip
    def place(
        self, pick: Pick, again: bool, account: str, floor: int, more: int, most: int, claims: list[ScopeClaim], owner: str,
        lifetime_ms: int, age_ms: int, worker: int, credit_id: str | None, misrated: bool,
    ) -> None:  # fmt: skip
        self.placed += 1
        hold_id = self.id_of(pick) if again else f"ho_7f{self.placed}"
        hold = PlaceHold(
            hold_id, account, floor=floor, first=floor + more, ceiling=floor + more + most,
            rate=Rate(7) if misrated else rate_of(account), scopes=tuple(claims), owner=owner, lifetime_ms=lifetime_ms,
            greatest_age_ms=age_ms, credit_id=credit_id, token_id="t1", labels=b'{"model":"m"}',
        )  # fmt: skip
        expected = self.model.place(hold, worker=f"w{worker + 1}", now_ms=self.now_ms())
        assert self.run(self.workers[worker].place(hold)) == expected
        self.agree_on_time(hold_id)

    @rule(
        account=account_ids, floor=amounts, more=amounts, most=amounts, claims=claim_lists, worker=st.integers(0, 1),
        lifetime_ms=st.sampled_from([1, 60_000]),
    )  # fmt: skip
    def place_simply(
        self, account: str, floor: int, more: int, most: int, claims: list[ScopeClaim], worker: int, lifetime_ms: int
    ) -> None:
        self.place(
            ("unknown", 0), again=False, account=account, floor=floor, more=more, most=most, claims=claims, owner="",
            lifetime_ms=lifetime_ms, age_ms=600_000, worker=worker, credit_id=None, misrated=False,
        )  # fmt: skip

    @precondition(lambda self: self.placed > 0)
    @rule(number=st.integers(0, 40), worker=st.integers(0, 1), change=st.sampled_from([{}, *OTHER_CONTENTS]))
    def place_again(self, number: int, worker: int, change: dict[str, Any]) -> None:
        """The very same hold, or one that differs in one thing."""
        asked = [hold.request for hold in self.model.holds.values() if hold.request is not None]
        if asked:
            hold = structs.replace(asked[number % len(asked)], **change)
            expected = self.model.place(hold, worker="w1", now_ms=self.now_ms())
            assert self.run(self.workers[worker].place(hold)) == expected

    @precondition(has_open)
    @rule(
        earned=st.integers(0, 200),
        cost=amounts,
        total=st.integers(0, 150),
        pick=st.integers(0, 40),
        account=account_ids,
    )
    def lose_the_worker(self, earned: int, cost: int, total: int, pick: int, account: str) -> None:
        """A hold is extended, earns, is left behind, and its worker comes back late, twice."""
        one = ("open", pick)
        hold_id = self.id_of(one)
        self.extend_to(one, total, worker=0)
        self.checkpoint(one, earned, worker=1)
        self.shrink_to(one, cost, worker=0)
        self.expire(one, worker=1, lease_gone=True)
        ended = [name for name, hold in self.model.holds.items() if hold.state != "open"]
        late = ("ended", ended.index(hold_id)) if hold_id in ended else one
        self.post(late, account, earned + cost, worker=0, foreign=False)
        self.post(late, account, earned + cost, worker=1, foreign=False)

    @precondition(has_open)
    @rule(pick=picks, total=st.integers(0, 150), worker=st.integers(0, 1))
    def extend_to(self, pick: Pick, total: int, worker: int) -> None:
        hold_id = self.id_of(pick)
        expected = self.model.extend_to(hold_id, total, now_ms=self.now_ms())
        assert self.run(self.workers[worker].extend_to(hold_id, total)) == expected

    @precondition(has_open)
    @rule(pick=picks, total=amounts, worker=st.integers(0, 1))
    def shrink_to(self, pick: Pick, total: int, worker: int) -> None:
        hold_id = self.id_of(pick)
        expected = self.model.shrink_to(hold_id, total, now_ms=self.now_ms())
        assert self.run(self.workers[worker].shrink_to(hold_id, total)) == expected

    @precondition(has_open)
    @rule(pick=picks, earned=amounts, worker=st.integers(0, 1))
    def checkpoint(self, pick: Pick, earned: int, worker: int) -> None:
        hold_id = self.id_of(pick)
        now = self.now_ms()
        hold = self.model.holds.get(hold_id)
        if hold is not None and now - 1 <= hold.must_end_at_ms <= now + 500:
            return
        expected = self.model.checkpoint(hold_id, earned, now_ms=now)
        assert self.run(self.workers[worker].checkpoint(hold_id, earned)) == expected
        self.agree_on_time(hold_id)

    @rule(pick=picks, account=account_ids, cost=st.integers(0, 120), worker=st.integers(0, 1), foreign=seldom)
    def post(self, pick: Pick, account: str, cost: int, worker: int, foreign: bool) -> None:
        hold_id = self.id_of(pick)
        hold = self.model.holds.get(hold_id)
        payer = hold.account if hold and not foreign else account
        expected = self.model.post(hold_id, cost, account=payer, now_ms=self.now_ms())
        assert self.run(self.workers[worker].post(hold_id, cost, account=payer, outcome=b"{}")) == expected

    @rule(pick=picks, account=account_ids, worker=st.integers(0, 1), foreign=seldom)
    def void(self, pick: Pick, account: str, worker: int, foreign: bool) -> None:
        hold_id = self.id_of(pick)
        hold = self.model.holds.get(hold_id)
        payer = hold.account if hold and not foreign else account
        expected = self.model.void(hold_id, account=payer, now_ms=self.now_ms())
        assert self.run(self.workers[worker].void(hold_id, account=payer)) == expected

    @precondition(has_open)
    @rule(pick=picks, worker=st.integers(0, 1), lease_gone=st.booleans())
    def expire(self, pick: Pick, worker: int, lease_gone: bool) -> None:
        hold_id = self.id_of(pick)
        now = self.now_ms()
        hold = self.model.holds.get(hold_id)
        if hold is not None and now - 1 <= hold.renewed_until_ms <= now + 500:
            return
        expected = self.model.expire(hold_id, now_ms=now, lease_gone=lease_gone)
        assert self.run(self.workers[worker].expire(hold_id, lease_gone=lease_gone)) == expected

    @rule(
        account=account_ids, number=st.integers(0, 5), amount=st.integers(1, 300),
        cause=st.sampled_from(["payment", "payment", "promotion", "allowance"]), pocket=st.sampled_from([None, *POCKETS]),
        envelope=seldom,
    )  # fmt: skip
    def credit(self, account: str, number: int, amount: int, cause: str, pocket: str | None, envelope: bool) -> None:
        unit = Unit.NANOUSD if account == PERSON else Unit.MSAT
        fields: dict[str, Any] = {
            "unit": unit, "rate": rate_of(account), "source": "lightning", "cause": cause, "pocket": pocket,
            "account_class": "envelope" if envelope else None,
        }  # fmt: skip
        expected = credits.credit(self.model, f"pay{number}", account, amount, **fields, now_ms=self.now_ms())
        assert self.run(self.workers[0].credit(f"pay{number}", account, amount, **fields)) == expected

    @rule(
        account=account_ids, number=st.integers(0, 9), amount=st.integers(1, 40),
        cause=st.sampled_from(["refund", "chargeback"]), pocket=st.sampled_from([None, *POCKETS]),
    )  # fmt: skip
    def debit(self, account: str, number: int, amount: int, cause: str, pocket: str | None) -> None:
        expected = credits.debit(
            self.model, f"back{number}", account, amount, cause=cause, pocket=pocket, now_ms=self.now_ms()
        )
        real = self.run(self.workers[0].debit(f"back{number}", account, amount, cause=cause, pocket=pocket))
        assert real == expected

    @rule(
        budget_id=st.sampled_from(BUDGETS),
        limit=st.integers(0, 300),
        state=st.sampled_from(["active"] * 4 + ["paused"]),
    )
    def put_budget(self, budget_id: str, limit: int, state: str) -> None:
        self.model.budgets[budget_id] = Budget(budget_id, limit, state)
        self.run(self.workers[0].put_budget(AGENTS[0], self.model.budgets[budget_id]))

    @rule(account=account_ids, freeze=seldom)
    def freeze_or_thaw(self, account: str, freeze: bool) -> None:
        if account in self.model.accounts:
            self.model.accounts[account].frozen = freeze
            self.run(self.workers[0].freeze(account) if freeze else self.workers[0].unfreeze(account))

    @rule(claim=st.sampled_from(CLAIMS), lose=seldom)
    def lose_a_counter(self, claim: ScopeClaim, lose: bool) -> None:
        if not lose:
            return
        self.lost_a_counter = True
        self.model.counters.pop(CounterId.of(claim), None)
        self.run(self.link.command("DEL", keys.counter_key(TAG, claim), key=TAG))

    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        through, _ = self.run(self.workers[0].opening(PARTITION))
        upto = int(len(self.model.journal) * share)
        moved = any(entry.kind != "opening" for entry in self.model.journal[through:upto])
        assert self.run(self.workers[0].trim(PARTITION, upto)) == (upto if moved else through)
        if moved:
            self.model.enter("opening", 0, "-", str(upto), summed(self.model.journal[:upto]))

    @invariant()
    def balances_agree(self) -> None:
        total = Totals()
        for name in EVERY_ACCOUNT:
            real, account = self.run(self.workers[0].balance(name)), self.model.accounts.get(name)
            if account is None:
                assert real is None
                continue
            assert real is not None
            mine = Totals(account.available, account.held, account.credited, account.posted, account.debt)
            assert Totals(real.available, real.held, real.credited, real.posted, real.debt) == mine
            assert real.pockets == tuple(zip(POCKETS, (pocket.available for pocket in account.pockets), strict=False))
            assert (real.shortfalls, real.account_class, real.frozen, real.rate) == (
                account.shortfalls, account.account_class, account.frozen, account.rate,
            )  # fmt: skip
            assert mine.balanced and account.available >= 0
            open_holds = [hold for hold in self.model.holds.values() if hold.account == name and hold.state == "open"]
            assert account.held == sum(hold.amount for hold in open_holds)
            total += mine
        assert summed(self.model.journal) == total

    @invariant()
    def counters_agree(self) -> None:
        for claim in CLAIMS:
            real = self.run(self.workers[0].counter(AGENTS[0], claim))
            counter = self.model.counters.get(CounterId.of(claim))
            assert (counter and (counter.used, counter.held)) == (real and (real.used, real.held))
            if counter and claim.limit is not None and claim.measure is Measure.MONEY and not self.lost_a_counter:
                assert counter.used + counter.held <= claim.limit

    def teardown(self) -> None:
        try:
            self.check_holds()
            self.check_journal()
        finally:
            self.run(self.link.close())
            self.run(asyncio.sleep(0))
            self.loop.close()

    def check_holds(self) -> None:
        for hold_id, hold in self.model.holds.items():
            real = self.run(self.workers[0].hold(hold_id))
            assert real is not None
            assert (real.state, real.account, real.amount, real.earned, real.posted, real.shortfall, real.owner) == (
                hold.state, hold.account, hold.amount, hold.earned, hold.posted, hold.shortfall, hold.owner,
            )  # fmt: skip
            if hold.state in ("open", "expired"):
                assert [CounterId.of(claim) for claim in real.scopes] == [CounterId.of(claim) for claim in hold.scopes]
        open_ids = {hold_id for hold_id, hold in self.model.holds.items() if hold.state == "open"}
        assert {record.hold_id for record in self.run(self.workers[0].open_holds(PARTITION))} == open_ids
        assert set(self.run(self.workers[0].open_ids(PARTITION))) == open_ids

    def check_journal(self) -> None:
        through, opening = self.run(self.workers[0].opening(PARTITION))
        assert opening == summed(self.model.journal[:through])
        real = self.run(self.workers[0].journal(PARTITION, 0, 10_000))
        assert [untimed(entry) for entry in real] == [untimed(entry) for entry in self.model.journal[through:]]
        accounts = self.run(self.workers[0].accounts(PARTITION))
        assert {balance.account for balance in accounts} == set(self.model.accounts)


def untimed(entry: JournalEntry) -> tuple[object, ...]:
    return (entry.number, entry.kind, entry.account, entry.id, entry.adds, entry.more)


def test_model_and_server_give_the_same_answers_to_the_same_steps(valkey_port: int) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(valkey_port),  # type: ignore[arg-type]  # it calls whatever makes a machine
        settings=settings(
            max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
