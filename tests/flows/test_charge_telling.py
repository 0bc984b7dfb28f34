"""A charge that nobody was asked about, above what the policy says, is told; the posting waits for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.approval_files import ApprovalsFile
from gateway.config_reader import FieldProblem
from gateway.core.directory import Event
from gateway.core.errors import PaymentRequired, Unavailable
from gateway.core.usage import Basis, Usage
from gateway.flows.charge_telling import ChargeTelling
from gateway.flows.settling import Settler, Work


class Outbox:
    """Takes what is told once it is let."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.is_open = asyncio.Event()
        self.is_away = False

    async def add(self, event: Event) -> None:
        await self.is_open.wait()
        if self.is_away:
            raise Unavailable("the store is away")
        self.told.append(event)


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        running.change_approvals(notify_above=50_000)
        yield running


async def settled(parts: Parts, outbox: Outbox, *, cost: int = 60_000, **asked: Any) -> tuple[Work, list[Any]]:
    """One call from beginning to end, and what was told of it."""
    telling = ChargeTelling(outbox=outbox, system=parts.clock)
    work = await parts.place(user="alice", **asked)
    settler = Settler(parts.ledger, None, tell=telling.tell)  # type: ignore[arg-type]
    await settler.post(work, Usage(input_tokens=10, output_tokens=10), Basis.REPORTED, cost=cost)
    assert work.acknowledged and outbox.told == [], "the posting waits for nobody"
    outbox.is_open.set()
    await telling.close()
    return work, [(each.kind, msgspec.json.decode(each.data)) for each in outbox.told]


async def test_a_charge_above_it_is_told_with_what_it_was_for(parts: Parts) -> None:
    work, ((kind, data),) = await settled(parts, Outbox(), farebox_session="s1")
    assert kind == "charge.posted"
    assert data == {
        "request_id": work.request_id,
        "user": "alice",
        "session": "s1",
        "key": work.caller.key.key_id if work.caller else "",
        "model": "small",
        "cost": usd("0.00006"),
        "quote_id": f"q_{work.request_id.removeprefix('req_')}",
        "pockets": [{"pocket": "prepaid", "amount": usd("0.00006")}],
    }
    assert work.quote.startswith(f'id="{data["quote_id"]}"'.encode()), "the quote that the headers named"


async def test_a_charge_of_just_that_much_is_not_told(parts: Parts) -> None:
    assert (await settled(parts, Outbox(), cost=50_000))[1] == []


async def test_where_the_policy_says_nothing_nobody_is_told(parts: Parts) -> None:
    parts.change_approvals(notify_above=None)
    assert (await settled(parts, Outbox()))[1] == []


async def test_a_charge_under_an_allowance_is_told_for_nobody_was_asked_about_it(parts: Parts) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await parts.must("POST", "/api/allowances", {"cap": usd("1.00"), "expires_at": until}, user="alice")
    assert len((await settled(parts, Outbox()))[1]) == 1


async def test_a_charge_that_somebody_approved_is_not_told(parts: Parts) -> None:
    with pytest.raises(PaymentRequired) as asked:
        await parts.place(user="alice", model="large", tokens=20_000)
    quote_id = asked.value.members["quote"]["id"]
    await parts.must("POST", f"/api/quotes/{quote_id}/approve", {"approved_max": usd("5.00")}, user="alice")
    outbox = Outbox()
    told = await settled(parts, outbox, model="large", tokens=20_000, farebox_quote=quote_id, cost=3 * USD)
    assert told[1] == []


async def test_a_store_that_is_away_by_then_breaks_nothing(parts: Parts) -> None:
    outbox = Outbox()
    outbox.is_away = True
    assert (await settled(parts, outbox))[1] == []


def test_the_file_says_from_which_charge_on() -> None:
    assert ApprovalsFile().policy.notify_above is None
    assert ApprovalsFile(notify_above_usd=Decimal(0)).policy.notify_above == 0, "every charge"
    assert ApprovalsFile(notify_above_usd=Decimal("0.25")).policy.notify_above == 250_000_000
    with pytest.raises(FieldProblem) as refused:
        ApprovalsFile(notify_above_usd=Decimal(-1))
    assert refused.value.name == "notify_above_usd"
