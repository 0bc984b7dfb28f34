"""The model and a real server side by side: what they must agree on after every step, and what must hold of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from hypothesis.stateful import RuleBasedStateMachine, invariant
from servers import flush

from gateway.adapters.redis import keys
from gateway.adapters.redis.audit import RedisAudit
from gateway.adapters.redis.directory import RedisDirectory
from gateway.adapters.redis.ledger import RedisLedger
from gateway.adapters.redis.link import RedisLink
from gateway.adapters.redis.quotes import RedisQuotes
from gateway.adapters.redis.usage import RedisUsage
from gateway.core.accounts import POCKETS, LedgerTerms
from gateway.core.holds import Balance, Measure, ScopeClaim
from gateway.core.journal import OPENING, JournalEntry, Totals, summed
from gateway.core.ledger import LedgerModel
from gateway.core.quotes import QuoteState
from gateway.core.records import Account, Counter, CounterId, Hold

PARTITION = 0x7F
TAG = "{p7f}"
AGENTS = ("tok_7fa", "tok_7fb")
PERSON, NEWCOMER = "acct_7fc", "acct_7fd"
ACCOUNTS = (*AGENTS, PERSON)
EVERY_ACCOUNT = (*ACCOUNTS, NEWCOMER, "house-msat_7f", "house-nanousd_7f")
ORG = "org_7f1"
DAY = "2026-01-05"
LINES = ("small|alice|ak_7f1", "large|bob|ak_7f1")
BUDGETS = ("bu_1", "bu_2", "bu_3", "bu_4~alice", "bu_5~alice")
FAR_MS = 4_102_444_800_000
TERMS = LedgerTerms(most_shortfalls=4)
CLAIMS = (
    ScopeClaim("org", "total", limit=400),
    ScopeClaim("user:a b", "day:1", limit=90, window_ends_at_ms=FAR_MS),
    ScopeClaim("session|x", "day:1", budget_id="bu_1", window_ends_at_ms=FAR_MS),
    ScopeClaim("task", "month:2", budget_id="bu_2", detail=f"ask {ORG}"),
    ScopeClaim("caveat:1", "total", Measure.USES, limit=3),
    ScopeClaim("told", "day:1", limit=120, window_ends_at_ms=FAR_MS, detail=f"refuse {ORG} 50 80 100"),
    ScopeClaim("pausing", "day:1", budget_id="bu_3", window_ends_at_ms=FAR_MS, detail=f"pause {ORG} 80"),
    ScopeClaim("everybody", "total", limit=100, budget_id="bu_4~alice", detail=f"pause {ORG} 50 100"),
    ScopeClaim("asking", "total", limit=80, budget_id="bu_5~alice", detail=f"ask {ORG} 50"),
    ScopeClaim("who", "now", Measure.OPEN, limit=3),
    ScopeClaim("who", "now", Measure.SHARE, limit=300_000),
    ScopeClaim("key", "day:0", limit=900, window_ends_at_ms=1),
)
_PREFIXES = {Measure.MONEY: "c", Measure.USES: "u", Measure.OPEN: "o", Measure.SHARE: "s"}
Answer = TypeVar("Answer")


def usage_claim(account: str, line: str = "") -> ScopeClaim:
    return ScopeClaim(account, DAY, Measure.USAGE, detail=line)


class LedgerPair(RuleBasedStateMachine):
    """Both, and the checks."""

    def __init__(self, port: int) -> None:
        super().__init__()
        flush(port)
        self.loop = asyncio.new_event_loop()
        self.link = self.run(RedisLink.open(f"redis://127.0.0.1:{port}/0", timeout_s=30))
        self.workers = [RedisLedger(self.link, worker=name, terms=TERMS) for name in ("w1", "w2")]
        self.directory, self.audit = RedisDirectory(self.link), RedisAudit(self.link)
        self.quotes = RedisQuotes(self.link, self.directory)
        self.usage = RedisUsage(self.link)
        self.model = LedgerModel(TERMS)
        self.quote_ids: list[str] = []
        self.answers = 0  # to quotes, each in the audit log
        self.lost: set[CounterId] = set()
        self.raised: set[str] = set()  # holds whose ceiling somebody raised
        self.told = 0  # events that are out of the outbox
        self.thresholds: set[tuple[object, ...]] = set()

    def run(self, step: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(step)

    def now_ms(self) -> int:
        """The server runs on this machine, on the same clock."""
        return time.time_ns() // 1_000_000

    def now_past(self, deadline_ms: int) -> int:
        """Now; a deadline of this moment is waited for, so that no step falls on its edge. The others are minutes
        away."""
        while (now := self.now_ms()) - 1 <= deadline_ms < now + 1_000:
            time.sleep(0.001)
        return now

    def agree_on_time(self, hold_id: str) -> None:
        """Take the times that the server wrote: they are a moment later than the model's."""
        record, hold = self.run(self.workers[0].hold(hold_id)), self.model.holds.get(hold_id)
        if record is not None and hold is not None:
            assert 0 <= record.renewed_until_ms - hold.renewed_until_ms < 5_000
            hold.renewed_until_ms, hold.must_end_at_ms = record.renewed_until_ms, record.must_end_at_ms

    def holds_on(self, claim: ScopeClaim) -> list[tuple[str, Hold]]:
        """The holds that were placed with a claim on the same counter."""
        counter_id, holds = CounterId.of(claim), self.model.holds.items()
        return [
            (hold_id, hold) for hold_id, hold in holds
            if hold.request is not None and counter_id in map(CounterId.of, hold.request.scopes)
        ]  # fmt: skip

    @invariant()
    def everything_agrees(self) -> None:
        """All reads go out in one write."""
        checks = (
            self.balances_agree(), self.counters_agree(), self.budgets_agree(), self.quotes_agree(), self.usage_agrees(),
            self.outbox_agrees(),
        )  # fmt: skip

        async def all_of_them() -> None:
            await asyncio.gather(*checks)

        self.run(all_of_them())

    async def balances_agree(self) -> None:
        total = Totals()
        balances = await asyncio.gather(*map(self.workers[0].balance, EVERY_ACCOUNT))
        for name, real in zip(EVERY_ACCOUNT, balances, strict=True):
            account = self.model.accounts.get(name)
            assert (real is None) == (account is None)
            if real is not None and account is not None:
                check_account(real, account)
                open_holds = [hold for hold in self.model.holds.values() if hold.account == name]
                assert account.held == sum(hold.amount for hold in open_holds if hold.state == "open")
                total += Totals(account.available, account.held, account.credited, account.posted, account.debt)
        assert summed(self.model.journal) == total

    async def counters_agree(self) -> None:
        reads = [
            self.directory.counters(ORG, [(each.window, each.scope)], prefix=_PREFIXES[each.measure]) for each in CLAIMS
        ]
        for claim, [(real, alerted)] in zip(CLAIMS, await asyncio.gather(*reads), strict=True):
            counter = self.model.claims.counters.get(CounterId.of(claim))
            assert (counter and (counter.used, counter.held, counter.alerted)) == (
                real and (real.used, real.held, alerted)
            )
            if counter is not None:
                assert counter.used >= 0 and counter.held >= 0
            if CounterId.of(claim) not in self.lost:
                self.check_counter(claim, counter)

    def check_counter(self, claim: ScopeClaim, counter: Counter | None) -> None:
        """Of a counter that was never lost."""
        open_holds = [hold for _, hold in self.holds_on(claim) if hold.state == "open"]
        one = claim.measure in (Measure.USES, Measure.OPEN)
        held = len(open_holds) if one else sum(hold.amount for hold in open_holds)
        assert (counter.held if counter else 0) == held
        if claim.measure in (Measure.OPEN, Measure.SHARE):
            assert counter is None or open_holds
        elif counter and claim.limit is not None and claim.budget_id is None:
            assert counter.used + counter.held <= claim.limit

    async def budgets_agree(self) -> None:
        real = await self.directory.live_budgets(ORG, BUDGETS)
        assert real == [self.model.claims.budgets.get(budget_id) for budget_id in BUDGETS]

    async def quotes_agree(self, newest: int = 6) -> None:
        """An approval buys one hold, and no more than was approved."""
        ids = list(self.model.claims.quotes)[-newest:]
        for quote_id, real in zip(ids, await asyncio.gather(*map(self.quotes.find, ids)), strict=True):
            mine = self.model.claims.quotes[quote_id]
            assert real is not None
            assert (real.state, real.approved_max, real.hold_id) == (mine.state, mine.approved_max, mine.hold_id)
            holds = self.holds_on(ScopeClaim(quote_id, "", Measure.QUOTE))
            bought = [hold_id for hold_id, hold in holds if hold.state in ("open", "posted") or hold.posted]
            assert len(bought) <= 1
            assert not bought or (mine.state, mine.hold_id) == (QuoteState.USED, bought[0])
            if not self.raised.intersection(hold_id for hold_id, _ in holds):
                assert all(hold.ceiling <= mine.approved_max for _, hold in holds)
                assert sum(hold.posted for _, hold in holds) <= mine.approved_max

    async def usage_agrees(self) -> None:
        """A day's lines sum to what was posted on the holds that claim them, by pocket too."""
        accounts = (*ACCOUNTS, NEWCOMER)
        reads = [self.usage.lines(account, first_day=DAY, last_day=DAY) for account in accounts]
        for account, lines in zip(accounts, await asyncio.gather(*reads), strict=True):
            mine = self.model.claims.usage.get(CounterId.of(usage_claim(account)), {})
            assert {
                f"{line.model}|{line.user}|{line.key}": (
                    line.requests, line.input_tokens, line.cached_input_tokens, line.output_tokens, line.cost,
                    (line.included, line.prepaid, line.postpaid),
                ) for line in lines
            } == {
                name: (line.requests, line.input_tokens, line.cached_input_tokens, line.output_tokens, line.cost, line.paid)
                for name, line in mine.items()
            }  # fmt: skip
            if CounterId.of(usage_claim(account)) in self.lost:
                continue
            ended = [hold for _, hold in self.holds_on(usage_claim(account)) if hold.state != "open"]
            assert sum(line.cost for line in lines) == sum(hold.posted for hold in ended)
            paid = [hold.split or [0, hold.posted, 0] for hold in ended]
            assert [sum(line.included for line in lines), sum(line.prepaid for line in lines),
                    sum(line.postpaid for line in lines)] == [sum(part) for part in zip(*paid, strict=True)] or not paid  # fmt: skip

    async def outbox_agrees(self) -> None:
        """What is told is told once."""
        outbox = keys.outbox_key(TAG)
        rows = await self.link.command("XRANGE", outbox, "-", "+", key=outbox)
        events = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in rows]
        fresh = self.model.claims.outbox[self.told :]
        assert [(event[b"kind"].decode(), event[b"org"].decode(), msgspec.json.decode(event[b"data"])) for event in events] == [
            (told.kind, told.org_id, told.data) for told in fresh
        ]  # fmt: skip
        if events:
            await self.link.command("XTRIM", outbox, "MAXLEN", 0, key=outbox)
        self.told += len(fresh)
        for told in fresh:
            if told.kind == "budget.alert":
                threshold = (told.data["scope"], told.data["window"], told.data["pct"])
                assert threshold not in self.thresholds
                self.thresholds.add(threshold)

    def teardown(self) -> None:
        try:
            self.run(self.quotes_agree(len(self.quote_ids)))
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
            assert hold.posted <= hold.ceiling
            if hold.request is not None:
                assert real.ceiling == hold.ceiling
            if hold.state in ("open", "expired"):
                assert real.scopes == hold.scopes
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


def check_account(real: Balance, account: Account) -> None:
    mine = Totals(account.available, account.held, account.credited, account.posted, account.debt)
    assert Totals(real.available, real.held, real.credited, real.posted, real.debt) == mine
    assert mine.balanced and account.available >= 0
    states = [(state.name, state.available, state.held, state.posted) for state in real.pocket_states]
    pockets = [(pocket.available, pocket.held, pocket.posted) for pocket in account.pockets]
    assert states == [(name, *pocket) for name, pocket in zip(POCKETS, pockets, strict=False)]
    if pockets:
        assert [sum(part) for part in zip(*pockets, strict=True)] == [account.available, account.held, account.posted]
        assert min(min(pocket) for pocket in pockets) >= 0
    assert (real.shortfalls, real.account_class, real.frozen, real.rate) == (
        account.shortfalls, account.account_class, account.frozen, account.rate,
    )  # fmt: skip
    assert (real.plan, real.period_id, real.period_ends_at_ms, real.allowance_granted, real.period_base) == (
        account.plan, account.period_id, account.period_ends_at_ms, account.allowance_granted, account.period_base,
    )  # fmt: skip
    assert (real.plan_limit, real.own_limit) == (account.plan_limit, account.own_limit)
    assert real.lowering == account.lowering >= 0
    # Only what is held can come back of a limit that was lowered; what was paid in since is the payer's.
    assert account.lowering <= sum(pocket.held for pocket in account.pockets[2:])


def untimed(entry: JournalEntry) -> tuple[object, ...]:
    more = entry.more if entry.kind != OPENING else ()  # what it says of the audit log is none of the ledger's
    return (entry.number, entry.kind, entry.account, entry.id, entry.adds, more)
