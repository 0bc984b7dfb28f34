"""Budgets over HTTP, against a real store: made, raised, lowered, paused, resumed, taken out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Permission
from gateway.core.errors import PaymentRequired


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.must("POST", "/api/persons", {"id": "alice"})
        await running.must("POST", "/api/persons", {"id": "bob"})
        yield running


def later(**fields: float) -> str:
    return (datetime.now(UTC) + timedelta(**fields)).isoformat()


async def test_a_monthly_limit_is_one_call_and_is_the_organizations(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("50.00"), "window": "month"})
    assert made["scope"] == {"org": parts.org_id}
    assert (made["window"], made["period"], made["state"]) == ("month", "calendar", "active")
    assert made["limit"] == usd("50.00") and made["used"] == usd("0.00") and made["resets_at"].endswith("Z")
    assert (await parts.must("GET", "/api/budgets")) == {"data": [made], "next": None}


async def test_with_a_person_it_is_that_persons(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("5.00")}, user="alice")
    assert made["scope"] == {"org": parts.org_id, "user": "alice"}
    assert [each["id"] for each in (await parts.must("GET", "/api/budgets", user="alice"))["data"]] == [made["id"]]
    assert (await parts.must("GET", "/api/budgets", user="bob"))["data"] == []


async def test_alert_me_at_80_per_cent_and_pause_everything_are_one_call_each(parts: Parts) -> None:
    alerted = await parts.must("PUT", "/api/budgets", {"limit": usd("50.00"), "window": "month", "alerts_pct": [80]})
    paused = await parts.must("PUT", "/api/budgets", {"limit": usd("100.00"), "window": "total", "on_exceed": "pause"})
    assert alerted["alerts_pct"] == [80] and alerted["on_exceed"] == "refuse"
    assert paused["on_exceed"] == "pause" and paused["resets_at"] is None and paused["id"] != alerted["id"]


async def test_what_is_left_out_of_a_budget_that_stands_stays(parts: Parts) -> None:
    made = await parts.must(
        "PUT", "/api/budgets", {"limit": usd("5.00"), "window": "day", "alerts_pct": [50, 80], "on_exceed": "ask"}
    )
    raised = await parts.must("PUT", "/api/budgets", {"limit": usd("7.00"), "window": "day"})
    assert raised["id"] == made["id"] and raised["limit"] == usd("7.00")
    assert raised["alerts_pct"] == [50, 80] and raised["on_exceed"] == "ask"
    alerted = await parts.must("PUT", "/api/budgets", {"id": made["id"], "alerts_pct": []})
    assert alerted["window"] == "day" and alerted["limit"] == usd("7.00") and alerted["alerts_pct"] == []
    again = await parts.must("PUT", "/api/budgets", alerted)
    assert again == alerted, "a budget that was read may be sent back"


async def test_the_whole_month_counts_whenever_the_limit_is_set(parts: Parts) -> None:
    await parts.spend(70_000, user="alice")
    await parts.spend(50_000, user="bob")
    await parts.spend(30_000, model="small-latest")
    of_all = await parts.must("PUT", "/api/budgets", {"limit": usd("50.00")})
    of_alice = await parts.must("PUT", "/api/budgets", {"limit": usd("5.00")}, user="alice")
    of_model = await parts.must(
        "PUT", "/api/budgets", {"limit": usd("5.00"), "scope": {"model": "small-latest"}, "window": "total"}
    )
    assert [each["used"]["amount"] for each in (of_all, of_alice, of_model)] == ["0.00015", "0.00007", "0.00015"]
    assert of_model["scope"]["model"] == "small"
    await parts.spend(1_000, user="alice")
    (shown,) = (await parts.must("GET", "/api/budgets", user="alice"))["data"]
    assert Decimal(shown["used"]["amount"]) == Decimal("0.000071")


async def test_a_default_budget_counts_every_person_by_themselves_and_what_they_had_used(parts: Parts) -> None:
    await parts.spend(70_000, user="alice")
    await parts.spend(10_000)
    made = await parts.must("PUT", "/api/budgets", {"scope": {"user": "*"}, "limit": usd("0.0003"), "window": "month"})
    await parts.spend(20_000, user="bob")
    (listed,) = (await parts.must("GET", "/api/budgets"))["data"]
    assert listed["id"] == made["id"] and listed["used"] == usd("0.00")
    for user, used in (("alice", "0.00007"), ("bob", "0.00002")):
        (shown,) = (await parts.must("GET", f"/api/budgets?user={user}"))["data"]
        assert (shown["id"], shown["used"]["amount"]) == (made["id"], used)
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user="alice", tokens=200_000)
        await parts.place(user="alice", tokens=200_000)
    assert refused.value.code == "budget_exceeded"
    own = await parts.must("PUT", "/api/budgets", {"limit": usd("5.00")}, user="alice")
    (shown,) = (await parts.must("GET", "/api/budgets", user="alice"))["data"]
    assert shown["id"] == own["id"] and shown["used"]["amount"] == "0.00007", "her own one stands in its place"


async def test_a_raise_ends_by_itself(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "window": "day", "alerts_pct": [80]})
    raised = await parts.must("PUT", "/api/budgets", {"limit": usd("3.00"), "window": "day", "until": later(hours=1)})
    assert raised["id"] == made["id"] and raised["limit"] == usd("3.00") and raised["limit_after"] == usd("1.00")
    assert raised["until"] and raised["alerts_pct"] == [80]
    parts.clock.ahead_s = 3_700
    (shown,) = (await parts.must("GET", "/api/budgets"))["data"]
    assert shown["limit"] == usd("1.00") and "until" not in shown


async def test_a_new_budget_with_an_end_is_gone_then_and_may_be_made_again(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "window": "day", "until": later(minutes=5)})
    assert made["until"]
    parts.clock.ahead_s = 400
    assert (await parts.must("GET", "/api/budgets"))["data"] == []
    again = await parts.must("PUT", "/api/budgets", {"limit": usd("2.00"), "window": "day"})
    assert "until" not in again and again["limit"] == usd("2.00") and again["state"] == "active"


async def test_what_was_spent_without_a_budget_counts_when_it_is_made_again(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00")})
    await parts.spend(10_000)
    assert (await parts.must("DELETE", f"/api/budgets/{made['id']}"))["deleted"] is True
    await parts.spend(20_000)
    again = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00")})
    assert again["id"] != made["id"] and again["used"]["amount"] == "0.00003"


async def test_lowering_below_what_is_used_pauses_and_loses_nothing(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "window": "month"})
    await parts.spend(90_000)
    lowered = await parts.must("PUT", "/api/budgets", {"limit": usd("0.00005"), "window": "month"})
    assert lowered["state"] == "paused" and lowered["used"]["amount"] == "0.00009"
    with pytest.raises(PaymentRequired) as refused:
        await parts.place()
    assert refused.value.code == "budget_paused"
    raised = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "window": "month"})
    assert raised["state"] == "paused", "only somebody who resumes it ends a pause"
    resumed = await parts.must("POST", f"/api/budgets/{made['id']}/resume")
    assert resumed["state"] == "active"
    await parts.spend(1_000)
    kinds = [entry.action for entry in await parts.people.audit.read(parts.org_id, after=0, most=99)]
    assert [kind for kind in kinds if kind.startswith("budget.")] == [
        "budget.put", "budget.put", "budget.pause", "budget.put", "budget.resume",
    ]  # fmt: skip


async def _use_up(parts: Parts) -> None:
    """Of a hundredth of a dollar too little is left for anything."""
    for cost in (5_000_000, 4_995_000):
        await parts.spend(cost, user="alice", tokens=5_000)


async def test_a_request_that_is_larger_than_what_is_left_pauses_nothing(parts: Parts) -> None:
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.02"), "on_exceed": "pause"})
    for spent in (0, 5_000_000):
        if spent:
            await parts.spend(spent, user="bob", tokens=5_000)
        with pytest.raises(PaymentRequired) as refused:
            await parts.place(user="alice", model="large", text="much to read, " * 200)
        assert refused.value.code == "budget_exceeded" and refused.value.members["limit"]["state"] == "active"
        await parts.spend(1_000, user="bob")
    assert all(entry.action != "budget.pause" for entry in await parts.audited())


async def test_what_is_only_held_pauses_nothing(parts: Parts) -> None:
    await parts.must("PUT", "/api/budgets", {"limit": usd("0.01"), "on_exceed": "pause"})
    work = await parts.place(user="alice", tokens=9_999)
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user="bob")
    assert refused.value.code == "budget_exceeded"
    await parts.ledger.void(work.hold_id, account=work.account)
    await parts.spend(1_000, user="bob")


async def test_a_budget_that_comes_to_exactly_its_limit_is_paused(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.01"), "on_exceed": "pause"})
    await parts.spend(10_000_000, user="alice", tokens=10_000)
    (shown,) = (await parts.must("GET", "/api/budgets"))["data"]
    assert (shown["id"], shown["state"]) == (made["id"], "paused")


async def test_a_pause_at_the_limit_stays_until_somebody_resumes_it(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.01"), "on_exceed": "pause"}, user="alice")
    await _use_up(parts)
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user="alice")
    assert refused.value.code == "budget_paused" and refused.value.members["limit"]["state"] == "paused"
    await parts.spend(1_000, user="bob")
    raised = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "id": made["id"]}, user="alice")
    assert raised["state"] == "paused"
    resumed = await parts.must("POST", f"/api/budgets/{made['id']}/resume", user="alice")
    assert resumed["state"] == "active"
    await parts.spend(1_000, user="alice")


async def test_a_default_budget_is_resumed_for_the_one_who_is_paused(parts: Parts) -> None:
    wanted = {"scope": {"user": "*"}, "limit": usd("0.01"), "on_exceed": "pause", "window": "day"}
    made = await parts.must("PUT", "/api/budgets", wanted)
    await _use_up(parts)
    with pytest.raises(PaymentRequired):
        await parts.place(user="alice")
    (shown,) = (await parts.must("GET", "/api/budgets?user=alice"))["data"]
    assert shown["state"] == "paused"
    assert (await parts.must("GET", "/api/budgets?user=bob"))["data"][0]["state"] == "active"
    path = f"/api/budgets/{made['id']}/resume"
    assert await parts.refused("POST", path) == (422, "invalid_request", "user")
    assert await parts.refused("POST", f"{path}?user=alice", user="bob") == (403, "forbidden", "user")
    assert (await parts.must("POST", f"{path}?user=alice"))["state"] == "active"


async def test_a_change_of_window_applies_from_the_next_one(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00"), "window": "day"})
    changed = await parts.must("PUT", "/api/budgets", {"id": made["id"], "window": "week"})
    assert changed["window"] == "day" and changed["next"]["window"] == "week"
    assert changed["next"]["from"] == made["resets_at"]


async def test_a_window_that_is_about_to_change_takes_no_second_budget(parts: Parts) -> None:
    made = await parts.must("PUT", "/api/budgets", {"limit": usd("0.001"), "window": "month"}, user="alice")
    await parts.must("PUT", "/api/budgets", {"id": made["id"], "window": "day"}, user="alice")
    wanted = {"limit": usd("50.00"), "window": "month"}
    assert await parts.refused("PUT", "/api/budgets", wanted, user="alice") == (409, "conflict", "window")
    assert [each["id"] for each in (await parts.must("GET", "/api/budgets", user="alice"))["data"]] == [made["id"]]
    with pytest.raises(PaymentRequired):
        await parts.place(user="alice", model="large", tokens=100)
    kept = await parts.must("PUT", "/api/budgets", {"id": made["id"], "window": "month"}, user="alice")
    assert kept["window"] == "month" and "next" not in kept, "and the change can be taken back"


async def test_a_scope_that_does_not_exist_is_refused_by_name(parts: Parts) -> None:
    for scope, param in (
        ({"user": "nobody"}, "scope.user"),
        ({"key": "ak_00ffffffffffffff"}, "scope.key"),
        ({"key": "x"}, "scope.key"),
        ({"model": "smaal"}, "scope.model"),
        ({"team": "x"}, "scope.team"),
    ):
        found = await parts.refused("PUT", "/api/budgets", {"limit": usd("1.00"), "scope": scope})
        assert found == (422, "invalid_request", param)
    foreign = await parts.refused("PUT", "/api/budgets", {"limit": usd("1.00"), "scope": {"org": "org_00ab"}})
    assert foreign == (403, "forbidden", "scope.org")
    listed = {"budgets": [{"limit": usd("1.00")}, {"limit": usd("1.00"), "scope": {"user": "nobody"}}]}
    assert await parts.refused("PUT", "/api/budgets", listed) == (422, "invalid_request", "budgets[1].scope.user")
    assert (await parts.must("GET", "/api/budgets"))["data"] == [], "nothing of a list that is wrong is made"


async def test_sessions_and_tasks_need_no_registry_and_stack_on_the_person(parts: Parts) -> None:
    made = await parts.must(
        "PUT", "/api/budgets", {"limit": usd("0.0002"), "scope": {"session": "s1"}, "window": "total"}, user="alice"
    )
    assert made["scope"] == {"org": parts.org_id, "user": "alice", "session": "s1"}
    await parts.spend(150_000, user="alice", farebox_session="s1")
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user="alice", farebox_session="s1")
    assert refused.value.members["limit"]["id"] == made["id"]
    await parts.spend(1_000, user="alice", farebox_session="s2")


async def test_bad_figures_are_refused_by_name(parts: Parts) -> None:
    for body, param in (
        ({"window": "month"}, "limit"),
        ({"limit": {"amount": "1e3", "currency": "USD"}}, "limit.amount"),
        ({"limit": {"amount": "1", "currency": "EUR"}}, "limit.currency"),
        ({"limit": 5}, "limit"),
        ({"limit": usd("1"), "window": "year"}, "window"),
        ({"limit": usd("1"), "alerts_pct": [0]}, "alerts_pct[0]"),
        ({"limit": usd("1"), "on_exceed": "explode"}, "on_exceed"),
        ({"limit": usd("1"), "until": later(hours=-1)}, "until"),
        ({"limit": usd("1"), "color": 1}, "color"),
        ([], "budgets"),
        ("x", "body"),
    ):
        assert await parts.refused("PUT", "/api/budgets", body) == (422, "invalid_request", param)
    missing = {"id": "bu_00ff", "limit": usd("1")}
    assert await parts.refused("PUT", "/api/budgets", missing) == (404, "not_found", "id")
    assert (await parts.refused("DELETE", "/api/budgets/bu_00ff"))[0] == 404


async def test_a_person_touches_no_budget_but_their_own(parts: Parts) -> None:
    of_all = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00")})
    of_bob = await parts.must("PUT", "/api/budgets", {"limit": usd("1.00")}, user="bob")
    for made in (of_all, of_bob):
        expected = 403 if made is of_all else 404
        assert (await parts.refused("DELETE", f"/api/budgets/{made['id']}", user="alice"))[0] == expected
        assert (await parts.refused("POST", f"/api/budgets/{made['id']}/resume", user="alice"))[0] == expected
        body = {"id": made["id"], "limit": usd("9.00")}
        assert (await parts.refused("PUT", "/api/budgets", body, user="alice"))[0] == expected
    for user in ("bob", "*"):
        body = {"scope": {"user": user}, "limit": usd("9.00")}
        assert await parts.refused("PUT", "/api/budgets", body, user="alice") == (403, "forbidden", "scope.user")
    assert (await parts.refused("GET", "/api/budgets?user=bob", user="alice"))[0] == 403


async def test_reading_is_not_changing(parts: Parts) -> None:
    key = await parts.make_key(permissions=(Permission.READ,))
    assert (await parts.ask("GET", "/api/budgets", key=key)).status_code == 200
    refused = await parts.refused("PUT", "/api/budgets", {"limit": usd("1.00")}, key=key)
    assert refused[:2] == (403, "forbidden")


async def test_a_list_is_answered_as_one_and_read_page_by_page(parts: Parts) -> None:
    listed = [{"limit": usd("1.00"), "window": window} for window in ("day", "week", "month", "total")]
    done = await parts.must("PUT", "/api/budgets", {"budgets": listed})
    assert [each["window"] for each in done["data"]] == ["day", "week", "month", "total"]
    first = await parts.must("GET", "/api/budgets?limit=3")
    rest = await parts.must("GET", f"/api/budgets?limit=3&after={first['next']}")
    assert rest["next"] is None
    ids = [each["id"] for each in first["data"] + rest["data"]]
    assert ids == sorted(each["id"] for each in done["data"])


async def test_the_same_key_and_body_answer_the_same_and_another_body_is_refused(parts: Parts) -> None:
    body = {"limit": usd("1.00"), "window": "day"}
    first = await parts.ask("PUT", "/api/budgets", body, **{"idempotency-key": "k"})
    await parts.must("DELETE", f"/api/budgets/{first.json()['id']}")
    again = await parts.ask("PUT", "/api/budgets", body, **{"idempotency-key": "k"})
    assert again.content == first.content
    other = await parts.refused("PUT", "/api/budgets", {"limit": usd("2.00")}, **{"idempotency-key": "k"})
    assert other[:2] == (409, "idempotency_mismatch")
    of_bob = await parts.must("PUT", "/api/budgets", body, user="bob", **{"idempotency-key": "k"})
    assert of_bob["scope"]["user"] == "bob", "one person's answer is never another's"


async def test_what_is_held_and_what_is_expected_show_while_requests_run(parts: Parts) -> None:
    await parts.must("PUT", "/api/budgets", {"limit": usd("9.00"), "window": "total"})
    work = await parts.place()
    (shown,) = (await parts.must("GET", "/api/budgets"))["data"]
    assert Decimal(shown["held"]["amount"]) * USD == work.granted and shown["forecast"] is None
