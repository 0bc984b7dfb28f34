"""What a new budget starts from, where requests are posted while it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.accounts import CounterState
from gateway.core.directory import BudgetDefinition, Org, OrgView, Scope, WindowRule
from gateway.flows.budget_seeds import Seeds, seeds_of

NOW = 1_795_000_000_000
ORG = OrgView(1, Org("org_7f00"))
ALICE = Scope("org_7f00", user="alice")
NAME = "c:total|org_7f00&user=alice"


class Books:
    """Usage and a counter to which a posting adds in one step; `posts`: what is posted after each reading of the
    usage."""

    def __init__(self, usage: int, counter: int | None, posts: Sequence[int] = ()) -> None:
        self.usage, self.counter, self.posts = usage, counter, list(posts)

    async def used_since(self, _org: OrgView, _scope: Scope, _since_ms: int, _now_ms: int) -> Mapping[str, int]:
        used = {"alice": self.usage}
        if self.posts:
            amount = self.posts.pop(0)
            self.usage += amount
            self.counter = None if self.counter is None else self.counter + amount
        return used

    async def counters(
        self, _org_id: str, names: Sequence[tuple[str, str]], *, prefix: str = "c"
    ) -> list[tuple[CounterState | None, tuple[int, ...]]]:
        assert prefix == "c"
        return [(None if self.counter is None else CounterState(self.counter, 0), ()) for _ in names]


async def seeds(books: Books, scope: Scope = ALICE) -> Seeds:
    budget = BudgetDefinition("bu_7f01", "org_7f00", scope, (WindowRule(0, "total"),), 100)
    return await seeds_of(books, books.used_since, ORG, budget, NOW)


async def test_a_fresh_counter_starts_from_what_was_used_and_one_that_stands_gets_what_it_lacks() -> None:
    assert await seeds(Books(50, None)) == Seeds(starts=((NAME, 50, 0),))
    assert await seeds(Books(0, None)) == Seeds() == await seeds(Books(50, 50))
    assert await seeds(Books(50, 20)) == Seeds(adds=((NAME, 30),))
    assert await seeds(Books(50, 20), Scope("org_7f00", user="*")) == Seeds(adds=((NAME, 30),))
    assert await seeds(Books(50, 20), Scope("org_7f00", session="s")) == Seeds()


async def test_what_is_posted_while_the_usage_is_read_is_neither_left_out_nor_counted_twice() -> None:
    for posts in ([7], [0, 7], [7, 7, 7]):
        books = Books(50, 20, posts)
        assert await seeds(books) == Seeds(adds=((NAME, 30),))
        assert not books.posts and books.counter is not None and books.counter + 30 == books.usage


async def test_where_postings_never_pause_none_is_left_out() -> None:
    books = Books(50, 20, [1] * 100)
    ((_, lacks),) = (await seeds(books)).adds
    assert books.counter is not None and books.usage <= books.counter + lacks <= books.usage + 1
