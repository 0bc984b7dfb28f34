"""A budget that pauses at its limit while somebody raises that: what was refused before pauses nothing after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from people_parts import Parts, running_people, usd

from gateway.core.errors import PaymentRequired

Act = Callable[[], Awaitable[None]]


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        yield running


def first(act: Act, then: Any) -> Any:
    """`then`, before which `act` happens, once."""
    done: list[None] = []

    async def both(*args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(None)
            await act()
        return await then(*args, **kwargs)

    return both


WHOSE = [({}, "alice"), ({}, ""), ({"scope": {"user": "*"}}, "")]


@pytest.mark.parametrize("step", ["pause", "live_budgets"])
@pytest.mark.parametrize(("scope", "user"), WHOSE)
async def test_a_raise_in_between_is_not_paused(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, scope: dict[str, Any], user: str, step: str
) -> None:
    body = {"limit": usd("0.01"), "window": "day", "on_exceed": "pause"} | scope
    await parts.must("PUT", "/api/budgets", body, user=user)
    for cost in (5_000_000, 4_995_000):
        await parts.spend(cost, user="alice", tokens=5_000)
    store = parts.people.store

    async def rise() -> None:
        await parts.must("PUT", "/api/budgets", body | {"limit": usd("5.00")}, user=user)

    with monkeypatch.context() as patched:
        patched.setattr(store, step, first(rise, getattr(store, step)))
        with pytest.raises(PaymentRequired) as refused:
            await parts.place(user="alice")
    assert refused.value.code == "budget_exceeded"
    await parts.spend(1_000, user="alice")
    assert all(entry.action != "budget.pause" for entry in await parts.audited())


@pytest.mark.parametrize(("scope", "user"), WHOSE)
async def test_another_change_in_between_does_not_keep_it_from_pausing_and_it_is_told_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, scope: dict[str, Any], user: str
) -> None:
    body = {"limit": usd("0.01"), "window": "day", "on_exceed": "pause"} | scope
    await parts.must("PUT", "/api/budgets", body, user=user)
    for cost in (5_000_000, 4_995_000):
        await parts.spend(cost, user="alice", tokens=5_000)
    store = parts.people.store

    async def change() -> None:
        await parts.must("PUT", "/api/budgets", body | {"alerts_pct": [50]}, user=user)

    with monkeypatch.context() as patched:
        patched.setattr(store, "pause", first(change, store.pause))
        with pytest.raises(PaymentRequired) as refused:
            await parts.place(user="alice")
    assert refused.value.code == "budget_paused"
    with pytest.raises(PaymentRequired):
        await parts.place(user="alice")
    assert [entry.action for entry in await parts.audited()].count("budget.pause") == 1
