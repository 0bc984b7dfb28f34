"""What was used, over HTTP, against a real store: exact, by day, model, person and key, in three formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from people_parts import Parts, running_people


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        yield running


async def rows(parts: Parts, query: str = "", **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await parts.must("GET", f"/api/usage{query}", **asked))["data"]
    return found


async def spent(parts: Parts) -> None:
    await parts.spend(70_001, user="alice")
    await parts.spend(20_002, user="alice", model="large", tokens=10)
    await parts.spend(10_003, user="bob")
    await parts.spend(5_004)


async def test_every_row_sums_exactly_what_was_posted(parts: Parts) -> None:
    await spent(parts)
    today = datetime.now(UTC).date().isoformat()
    found = await rows(parts)
    assert [(row["day"], row["model"], row["user"]) for row in found] == [
        (today, "large", "alice"), (today, "small", ""), (today, "small", "alice"), (today, "small", "bob"),
    ]  # fmt: skip
    alice = found[2]
    assert (alice["requests"], alice["input_tokens"], alice["cached_input_tokens"], alice["output_tokens"]) == (
        1,
        10,
        4,
        5,
    )
    assert alice["cost"]["amount"] == "0.000070001" == alice["prepaid"]["amount"]
    assert alice["included"]["amount"] == alice["postpaid"]["amount"] == "0.00"
    (whole,) = await rows(parts, "?group_by=")
    assert whole["requests"] == 4 and whole["cost"]["amount"] == "0.00010501"


@pytest.mark.parametrize(
    ("groups", "count"), [("user", 3), ("model", 2), ("key", 1), ("model,user", 4), ("user,model,day,key", 4)]
)
async def test_any_grouping_sums_to_the_same(parts: Parts, groups: str, count: int) -> None:
    await spent(parts)
    found = await rows(parts, f"?group_by={groups}")
    assert len(found) == count and set(groups.split(",")) <= set(found[0])
    assert sum(Decimal(row["cost"]["amount"]) for row in found) == Decimal("0.00010501")


async def test_a_person_sees_their_own_and_the_organization_all_of_it(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "carol", "plan": "pro"})
    await parts.spend(30_000, user="carol")
    await parts.spend(10_000, user="bob")
    (own,) = await rows(parts, user="carol")
    assert own["included"]["amount"] == own["cost"]["amount"] == "0.00003"
    assert await rows(parts, "?user=carol") == [own]
    assert {row["user"] for row in await rows(parts)} == {"carol", "bob"}, "also what persons' own accounts paid"
    assert (await parts.refused("GET", "/api/usage?user=bob", user="carol"))[:2] == (403, "forbidden")


async def test_a_request_that_straddles_two_pockets_says_what_came_from_where(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "carol", "plan": "pro"})
    parts.change_approvals(auto_most=10_000_000_000)
    await parts.spend(4_999_000_000, user="carol", model="large", tokens=60_000)
    await parts.spend(3_000_000, user="carol", model="large", tokens=60)
    (row,) = await rows(parts, "?group_by=user", user="carol")
    assert (row["included"]["amount"], row["prepaid"]["amount"], row["postpaid"]["amount"]) == ("5.00", "0.00", "0.002")
    assert row["cost"]["amount"] == "5.002"


async def test_days_are_chosen_by_date_or_instant(parts: Parts) -> None:
    await parts.spend(1_000)
    today = datetime.now(UTC).date()
    tomorrow, yesterday = today + timedelta(days=1), today - timedelta(days=1)
    assert len(await rows(parts, f"?from={today}&to={tomorrow}")) == 1
    assert await rows(parts, f"?from={yesterday}&to={yesterday}") == []
    assert len(await rows(parts, f"?from={today}T00:00:00Z")) == 1
    for query, param in (
        ("from=yesterday", "from"), ("from=20261130aa", "from"), ("to=0001-01-01", "to"),
        ("from=2020-01-01&to=2026-01-01", "from"), (f"from={tomorrow}&to={today}", "from"),
        ("group_by=colour", "group_by"), ("group_by=day,day", "group_by"), ("format=xml", "format"),
    ):  # fmt: skip
        assert await parts.refused("GET", f"/api/usage?{query}") == (422, "invalid_request", param)


async def test_csv_has_a_header_and_the_same_figures(parts: Parts) -> None:
    await spent(parts)
    answer = await parts.ask("GET", "/api/usage?group_by=model,user&format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(found[0]) == [
        "model", "user", "requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost", "included",
        "prepaid", "postpaid",
    ]  # fmt: skip
    assert sum(Decimal(row["cost"]) for row in found) == Decimal("0.00010501")


async def test_a_name_that_a_spreadsheet_would_run_is_kept_from_it(parts: Parts) -> None:
    await parts.spend(1_000, user="=cmd()")
    answer = await parts.ask("GET", "/api/usage?group_by=user&format=csv")
    assert answer.text.splitlines()[1].startswith("'=cmd()")


async def test_focus_names_the_same_rows_by_its_own_columns(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "carol", "plan": "pro"})
    await parts.spend(30_000, user="carol")
    await parts.spend(10_000, user="bob")
    answer = await parts.ask("GET", "/api/usage?format=focus")
    bob, carol = sorted(csv.DictReader(io.StringIO(answer.text)), key=lambda row: row["SubAccountId"])
    today = datetime.now(UTC).date()
    assert (bob["BilledCost"], bob["EffectiveCost"], carol["BilledCost"], carol["EffectiveCost"]) == (
        "0.00001", "0.00001", "0.00", "0.00003",
    )  # fmt: skip
    assert bob["BillingCurrency"] == "USD" and bob["ChargeCategory"] == "Usage" and bob["SkuId"] == "small"
    assert bob["ChargePeriodStart"] == f"{today}T00:00:00Z"
    assert bob["ChargePeriodEnd"] == f"{today + timedelta(days=1)}T00:00:00Z"
    assert bob["BillingPeriodStart"] == f"{today:%Y-%m}-01T00:00:00Z"
    assert json.loads(bob["Tags"]) == {"user": "bob"} and bob["x_Requests"] == "1"
    whole = await parts.ask("GET", "/api/usage?format=focus&group_by=model&from=2026-01-15&to=2026-02-02")
    assert whole.status_code == 200


async def test_days_are_those_of_the_accounts_time_zone(parts: Parts) -> None:
    await parts.make_org(time_zone="Pacific/Kiritimati")
    await parts.credit(1_000_000_000)
    await parts.spend(1_000)
    (row,) = await rows(parts)
    assert row["day"] == (datetime.now(UTC) + timedelta(hours=14)).date().isoformat()
    answer = await parts.ask("GET", "/api/usage?format=focus")
    (told,) = csv.DictReader(io.StringIO(answer.text))
    assert told["ChargePeriodStart"].endswith("T10:00:00Z")


async def test_a_running_request_counts_once_it_has_ended(parts: Parts) -> None:
    work = await parts.place(user="alice")
    assert await rows(parts) == []
    await parts.ledger.void(work.hold_id, account=work.account)
    assert await rows(parts) == [], "what came to nothing is no use"
