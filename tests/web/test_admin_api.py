"""What operators do with accounts and persons, over HTTP, on a real store: every account can be named, none by accident."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from people_parts import USD, Parts, running_people, usd

from gateway.core.directory import Org, Permission, Principal
from gateway.core.errors import Problem
from gateway.core.plans import Plan

BAD_IDS = ("nonsense", "org_zz", "org_", "ac_7G", "ORG_7f00", "tk_7f00", "org_7f00 ", "org_" + "0" * 65, "%00")


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        running.change_approvals(auto_most=100 * USD, cumulative_most=1_000 * USD)
        yield running


async def refused(parts: Parts, method: str, path: str, body: Any = None) -> tuple[int, str, str | None]:
    answer = await parts.operate(method, path, body)
    assert not answer.is_success, answer.text
    return answer.status_code, answer.json()["code"], answer.json().get("param")


async def carol(parts: Parts) -> str:
    """A person with a plan, and so an account of their own."""
    made = await parts.must("POST", "/api/persons", {"id": "carol", "plan": "pro"})
    account: str = made["account"]
    assert account != parts.account
    return account


# Names.


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_an_id_that_is_none_is_not_found(parts: Parts, bad: str) -> None:
    money = {"amount": usd("1.00"), "cause": "correction"}
    for method, path, body in (
        ("GET", "", None), ("PATCH", "", {"name": "x"}), ("POST", "/keys", {}), ("POST", "/debits", money),
        ("POST", "/credits", {"amount": usd("1.00")}), ("PUT", "/credit-limit", {"limit": usd("1.00")}),
        ("PATCH", "/persons/alice", {}), ("DELETE", "/persons/alice/credentials", None),
    ):  # fmt: skip
        assert (await refused(parts, method, f"/accounts/{bad}{path}", body))[:2] == (404, "not_found"), path


async def test_an_id_of_nobody_is_not_found(parts: Parts) -> None:
    for nobody in ("org_7f00", "ac_7f00"):
        assert await refused(parts, "GET", f"/accounts/{nobody}") == (404, "not_found", "id")
        assert await refused(parts, "GET", f"/audit?account={nobody}") == (404, "not_found", "id")
        assert await refused(parts, "POST", f"/accounts/{nobody}/credits", {"amount": "1"}) == (404, "not_found", "id")


@pytest.mark.parametrize("bad", ["", "org_zz", "x", "org_7f%0A"])
async def test_a_query_that_names_no_account_is_422(parts: Parts, bad: str) -> None:
    assert (await refused(parts, "GET", f"/audit?account={bad}")) == (422, "invalid_request", "account")
    for path in ("/api/account", "/api/usage", "/api/keys"):
        answer = await parts.ask("GET", f"{path}?account={bad}", key=parts.operator_key)
        assert (answer.status_code, answer.json()["param"]) == (422, "account"), path
    answer = await parts.ask("GET", f"/api/account?account={parts.account}", key=parts.operator_key)
    assert answer.json()["account"] == parts.account


@pytest.mark.parametrize("source", ["a b", "Zahlung für März", "x" * 65, "", 5, "a\x1fb", "кредит"])
async def test_a_source_that_the_ledger_cannot_keep_is_422(parts: Parts, source: Any) -> None:
    body = {"amount": usd("1.00"), "source": source}
    assert await refused(parts, "POST", f"/accounts/{parts.org_id}/credits", body) == (422, "invalid_request", "source")


# Lists.


async def test_accounts_of_organizations_and_of_persons_are_listed_in_pages(parts: Parts) -> None:
    own = await carol(parts)
    for _ in range(3):
        await parts.operated("POST", "/accounts", {"name": "another"})
    whole = await parts.operated("GET", "/accounts")
    assert whole["next"] is None and len(whole["data"]) == 5
    mine = {row["account"]: row for row in whole["data"]}
    assert (mine[own]["user"], mine[own]["org"], mine[own]["plan"]) == ("carol", parts.org_id, "pro")
    assert mine[parts.account]["user"] is None and mine[parts.account]["id"] == parts.org_id
    seen, after = [], ""
    while True:
        page = await parts.operated("GET", f"/accounts?limit=2{after}")
        seen += page["data"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == whole["data"]
    assert await refused(parts, "GET", "/accounts?after=zz") == (422, "invalid_request", "after")
    assert await refused(parts, "GET", "/accounts?limit=0") == (422, "invalid_request", "limit")


async def test_keys_approvals_events_and_dead_letters_come_in_pages(parts: Parts) -> None:
    for number in range(3):
        await parts.must("POST", "/api/keys", {"name": f"k{number}"})
    parts.change_approvals(auto_most=0, cumulative_most=0, explicit_most=100 * USD)
    for tokens in (100, 200, 300):
        with pytest.raises(Problem):
            await parts.place(user="alice", tokens=tokens)
    for path, count in (("/api/keys", 4), ("/api/approvals", 3)):
        whole = (await parts.must("GET", path))["data"]
        assert len(whole) == count
        first = await parts.must("GET", f"{path}?limit=2")
        rest = await parts.must("GET", f"{path}?limit=2&after={first['next']}")
        assert first["data"] + rest["data"] == whole and rest["next"] is None
        assert (await parts.refused("GET", f"{path}?limit=x"))[2] == "limit"
    for path in ("/api/events", "/api/webhooks/dead"):
        assert await parts.must("GET", f"{path}?limit=5") == {"data": [], "next": None}
        assert (await parts.refused("GET", f"{path}?limit=1001"))[2] == "limit"


# Money.


async def test_a_persons_own_account_is_shown_credited_debited_and_given_a_limit(parts: Parts) -> None:
    own = await carol(parts)
    base = f"/accounts/{own}"
    assert (await parts.operated("GET", base))["available"] == usd("7.00")
    credited = await parts.operated("POST", f"{base}/credits", {"amount": usd("3.00")})
    assert (credited["account"], credited["available"]) == (own, usd("10.00"))
    debited = await parts.operated("POST", f"{base}/debits", {"amount": usd("1.00"), "cause": "correction"})
    assert debited["available"] == usd("9.00")
    limited = await parts.operated("PUT", f"{base}/credit-limit", {"limit": usd("4.00")})
    assert limited["available"] == usd("11.00")
    logged = [entry.action for entry in await parts.audited()][-3:]
    assert logged == ["credit.add", "credit.take", "credit.limit"], "in the log of their organization"
    assert (await parts.operated("GET", f"/audit?account={own}"))["data"]
    for method, path, body in (("PATCH", "", {"name": "x"}), ("POST", "/keys", {}), ("PATCH", "/persons/carol", {})):
        assert await refused(parts, method, base + path, body) == (404, "not_found", "id")


async def test_a_suspended_account_is_credited_and_debited_and_serves_nobody(parts: Parts) -> None:
    base = f"/accounts/{parts.org_id}"
    assert (await parts.operated("PATCH", base, {"suspended": True}))["state"] == "suspended"
    assert (await parts.operated("POST", f"{base}/credits", {"amount": usd("1.00")}))["available"] == usd("11.00")
    taken = {"amount": usd("11.00"), "cause": "refund"}
    assert (await parts.operated("POST", f"{base}/debits", taken))["available"] == usd("0.00")
    assert (await parts.refused("GET", "/api/account"))[:2] == (403, "forbidden")


async def test_a_movement_is_logged_once_with_the_balances_of_its_own_step(parts: Parts) -> None:
    base, wanted = f"/accounts/{parts.org_id}", {"amount": usd("5.00"), "id": "case-7", "source": "bank"}
    for _ in range(3):
        await parts.operated("POST", f"{base}/credits", wanted)
    await parts.operated("POST", f"{base}/debits", {"amount": usd("16.00"), "cause": "chargeback", "id": "case-8"})
    await parts.operated("PUT", f"{base}/credit-limit", {"limit": usd("2.00")})
    added, taken, limit = [entry for entry in await parts.audited() if entry.action.startswith("credit.")]
    assert (added.subject, added.authenticated, taken.subject) == ("case-7", "operator", "case-8")
    assert msgspec.json.decode(added.before) == {"available": usd("10.00")}
    after = msgspec.json.decode(added.after)
    assert (after["amount"], after["available"], after["source"]) == (usd("5.00"), usd("15.00"), "bank")
    assert msgspec.json.decode(taken.before) == {"available": usd("15.00")}
    after = msgspec.json.decode(taken.after)
    assert (after["taken"], after["owed"], after["available"]) == (usd("15.00"), usd("1.00"), usd("0.00"))
    assert msgspec.json.decode(limit.before) == {"limit": usd("0.00")}
    assert msgspec.json.decode(limit.after)["limit"] == usd("2.00")


# Plans, persons, credentials.


@pytest.mark.parametrize("nothing", ["", None])
async def test_a_plan_is_taken_off_with_its_allowance_and_its_limit(parts: Parts, nothing: str | None) -> None:
    base = f"/accounts/{parts.org_id}"
    given = await parts.operated("PATCH", base, {"plan": "pro"})
    assert (given["plan"], given["available"]) == ("pro", usd("17.00"))
    taken = await parts.operated("PATCH", base, {"plan": nothing})
    assert (taken["plan"], taken["available"]) == (None, usd("10.00"))
    shown = await parts.must("GET", "/api/account")
    assert shown["plan"] is None and shown["pockets"]["postpaid"]["limit"] == usd("0.00")
    assert await refused(parts, "PATCH", base, {"plan": "gold"}) == (422, "invalid_request", "plan")


async def test_a_plan_that_comes_back_gives_nothing_twice_and_begins_afresh_with_its_next_period(parts: Parts) -> None:
    parts.set_plan(Plan(name="daily", included=1 * USD, credit_limit=2 * USD, window="day"))
    base = f"/accounts/{parts.org_id}"
    for plan, available in (("daily", "13.00"), (None, "10.00"), ("daily", "12.00"), ("daily", "12.00")):
        assert (await parts.operated("PATCH", base, {"plan": plan}))["available"] == usd(available)
    shown = await parts.must("GET", "/api/account")
    assert shown["plan"] == "daily" and shown["pockets"]["allowance"]["included"] == usd("0.00")
    parts.clock.ahead_s = 86_400
    shown = await parts.must("GET", "/api/account")
    assert shown["pockets"]["allowance"]["included"] == usd("1.00") and shown["available"] == usd("13.00")


async def test_a_limit_of_the_operators_own_outlives_the_plan(parts: Parts) -> None:
    base = f"/accounts/{parts.org_id}"
    await parts.operated("PATCH", base, {"plan": "pro"})
    await parts.operated("PUT", f"{base}/credit-limit", {"limit": usd("3.00")})
    assert (await parts.operated("PATCH", base, {"plan": None}))["available"] == usd("13.00")


async def test_a_persons_plan_is_given_and_taken_off_and_the_account_stays_theirs(parts: Parts) -> None:
    parts.set_plan(Plan(name="small", included=1 * USD))
    await parts.must("POST", "/api/persons", {"id": "bob"})
    path = f"/accounts/{parts.org_id}/persons/bob"
    given = await parts.operated("PATCH", path, {"plan": "small"})
    assert given["plan"] == "small" and given["account"] != parts.account
    await parts.credit(2 * USD, given["account"])
    taken = await parts.operated("PATCH", path, {"plan": None})
    assert (taken["plan"], taken["account"]) == (None, given["account"])
    shown = await parts.must("GET", "/api/account", user="bob")
    assert (shown["available"], shown["plan"]) == (usd("2.00"), None)
    assert await refused(parts, "PATCH", path.replace("bob", "nobody"), {}) == (404, "not_found", "id")
    assert await refused(parts, "PATCH", path, {"plan": "gold"}) == (422, "invalid_request", "plan")
    assert await refused(parts, "PATCH", path, {"suspended": "yes"}) == (422, "invalid_request", "suspended")
    assert [entry.action for entry in await parts.audited()].count("person.change") == 2


async def test_a_suspended_person_neither_spends_nor_asks_until_they_may_again(parts: Parts) -> None:
    await parts.spend(40_000, user="alice")
    path = f"/accounts/{parts.org_id}/persons/alice"
    assert (await parts.operated("PATCH", path, {"suspended": True}))["state"] == "suspended"
    with pytest.raises(Problem) as raised:
        await parts.spend(40_000, user="alice")
    assert raised.value.code == "forbidden"
    for method, asked in (("GET", "/api/account"), ("GET", "/api/budgets"), ("POST", "/api/allowances")):
        assert (await parts.refused(method, asked, {"cap": "1"}, user="alice"))[:2] == (403, "forbidden")
    await parts.spend(40_000, user="bob")
    await parts.operated("PATCH", path, {"suspended": False})
    await parts.spend(40_000, user="alice")


async def test_lost_credentials_are_taken_away_and_new_ones_set_without_a_proof(parts: Parts) -> None:
    await parts.must("POST", "/api/persons", {"id": "alice"})
    path, lost = "/api/persons/alice/credentials", {"password": "correct horse battery"}
    await parts.must("POST", path, lost, user="alice")
    fresh = {"password": "staple correct horse"}
    assert (await parts.refused("POST", path, fresh, user="alice"))[1] == "step_up_required"
    for _ in range(6):
        await parts.ask("POST", path, fresh | {"proof": {"password": "wrong wrong wrong"}}, user="alice")
    assert (await parts.refused("POST", path, fresh | {"proof": lost}, user="alice"))[0] == 429
    told = await parts.operated("DELETE", f"/accounts/{parts.org_id}/persons/alice/credentials")
    assert told == {"id": "alice", "deleted": True}
    await parts.must("POST", path, fresh, user="alice")
    reset = [entry for entry in await parts.audited() if entry.action == "credential.reset"]
    assert [(entry.authenticated, b"password" in entry.after) for entry in reset] == [("operator", False)]
    nobody = f"/accounts/{parts.org_id}/persons/nobody/credentials"
    assert await refused(parts, "DELETE", nobody) == (404, "not_found", "id")


# How it was shown who asked.


async def test_entries_say_that_a_token_vouched_for_the_person(parts: Parts) -> None:
    token = Principal(parts.org_id, "ak_00", "alice", tuple(Permission), vouched="jwt")
    app = Principal(parts.org_id, "ak_00", "alice", tuple(Permission))
    for principal, name in ((token, "alice"), (app, "bob")):
        await parts.people.peopling.make(principal, name, "")
    await parts.people.step_up.reset(token, "alice")
    shown = {(entry.action, entry.authenticated) for entry in (await parts.audited())[-3:]}
    assert shown == {("person.put", "jwt"), ("person.put", "key"), ("credential.reset", "jwt")}


async def test_a_webhooks_change_is_logged_with_what_was_before_and_without_its_secret(parts: Parts) -> None:
    for url in ("https://one.example/hook", "https://two.example/hook"):
        await parts.must("PUT", "/api/webhooks", {"url": url, "events": ["quote.waiting"]})
    await parts.must("POST", "/api/webhooks/rotate", {})
    await parts.must("DELETE", "/api/webhooks")
    entries = [entry for entry in await parts.audited() if entry.action.startswith("webhook.")]
    assert [entry.action for entry in entries] == ["webhook.put", "webhook.put", "webhook.rotate", "webhook.delete"]
    urls = [
        tuple(shown and shown["url"] for shown in map(msgspec.json.decode, (entry.before, entry.after)))
        for entry in entries
    ]
    one, two = "https://one.example/hook", "https://two.example/hook"
    assert urls == [(None, one), (one, two), (two, two), (two, None)]
    assert all(b"secret" not in entry.after for entry in entries)


@pytest.mark.parametrize("path", ["/api/webhooks/test", "/admin/api/reload"])
async def test_a_change_that_is_only_an_act_happens_once_under_a_key(parts: Parts, path: str) -> None:
    await parts.must("PUT", "/api/webhooks", {"url": "https://one.example/hook"})
    await parts.operated("GET", "/plans")
    key = parts.operator_key if path.startswith("/admin") else parts.key
    answers = [await parts.ask("POST", path, {}, key=key, **{"idempotency-key": "k"}) for _ in range(2)]
    assert answers[0].is_success and answers[0].content == answers[1].content
    other = await parts.ask("POST", path, {"x": 1}, key=key, **{"idempotency-key": "k2"})
    assert (other.status_code, other.json()["param"]) == (422, "x")
    fresh, _ = await parts.people.outbox.look(int(parts.org_id[4:6], 16), 0)
    assert len([event for event in fresh if event.kind == "webhook.test"]) == (1 if "webhooks" in path else 0)


async def test_an_app_gives_no_plan_that_is_the_operators_money(parts: Parts) -> None:
    parts.set_plan(Plan(name="gold", included=50 * USD, credit_limit=50 * USD))
    parts.set_plan(Plan(name="plain"))
    answer = await parts.refused("POST", "/api/persons", {"id": "erin", "plan": "gold"})
    assert answer == (403, "forbidden", "plan")
    assert (await parts.refused("GET", "/api/persons/erin"))[:2] == (404, "not_found"), "nothing has changed"
    assert (await parts.must("POST", "/api/persons", {"id": "erin", "plan": "plain"}))["plan"] == "plain"
    given = await parts.operated("PATCH", f"/accounts/{parts.org_id}/persons/erin", {"plan": "gold"})
    assert given["plan"] == "gold"
    assert (await parts.must("GET", "/api/account", user="erin"))["available"] == usd("100.00")


async def test_a_change_of_plan_changes_what_may_be_owed_and_gives_nothing_twice(parts: Parts) -> None:
    parts.set_plan(Plan(name="gold", included=5 * USD, credit_limit=2 * USD))
    parts.set_plan(Plan(name="basic", included=1 * USD))
    path = f"/accounts/{parts.org_id}/persons/carol"
    await parts.must("POST", "/api/persons", {"id": "carol"})
    seen = []
    for plan in ("gold", "basic", "gold", "basic", "gold"):
        await parts.operated("PATCH", path, {"plan": plan})
        shown = await parts.must("GET", "/api/account", user="carol")
        seen.append((shown["pockets"]["allowance"]["left"]["amount"], shown["pockets"]["postpaid"]["limit"]["amount"]))
    assert [left for left, _ in seen] == ["5.00", "1.00", "0.00", "0.00", "0.00"], "each of them once a period"
    assert [limit for _, limit in seen] == ["2.00", "0.00", "2.00", "0.00", "2.00"]


async def test_an_operators_limit_outlives_the_period_of_a_plan(parts: Parts) -> None:
    parts.set_plan(Plan(name="gold", included=1 * USD, credit_limit=2 * USD, window="day"))
    await parts.must("POST", "/api/persons", {"id": "carol"})
    given = await parts.operated("PATCH", f"/accounts/{parts.org_id}/persons/carol", {"plan": "gold"})
    await parts.operated("PUT", f"/accounts/{given['account']}/credit-limit", {"limit": usd("0.00")})
    parts.clock.ahead_s = 86_400
    await parts.people.peopling.renew_account((await _org(parts)), given["account"], "gold")
    shown = await parts.must("GET", "/api/account", user="carol")
    assert shown["pockets"]["postpaid"]["limit"] == usd("0.00")
    assert shown["pockets"]["allowance"]["left"] == usd("1.00")


async def _org(parts: Parts) -> Org:
    view = await parts.people.store.org(parts.org_id)
    assert view is not None
    return view.org
