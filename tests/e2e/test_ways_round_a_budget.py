"""Every way round a budget that its rules close, by name, on a running gateway with real money behind it.

A call of the flat route costs exactly 0.001 USD. What needs a clock that is moved (windows, raises, plans) is tried in
tests/web and tests/core.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from e2e.crowd import Ask, Reply, ask_all
from e2e.people import Org, make_org, usd
from e2e.stack import CHAT, Parts, Stack, body, start_stack, until

FLAT = "/raw/search"
SLOW = {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "2000"}
SLOWER = SLOW | {"x-sim-delay-ms": "6000"}


@pytest.fixture
def org(gateway: Stack) -> Org:
    return make_org(gateway, most_open_holds=2_000)


def calls(worth: int) -> str:
    """So many calls of the flat route, as money."""
    return str(Decimal(worth) / 1_000)


def ask(org: Org, user: str = "", key: str = "", **headers: str) -> Ask:
    named = org.headers(user) | ({"authorization": f"Bearer {key}"} if key else {}) | headers
    return Ask(FLAT, named, method="GET")


def statuses(replies: list[Reply]) -> Counter[int]:
    return Counter(reply.status for reply in replies)


def used(org: Org, budget_id: str, user: str = "") -> Decimal:
    listed = org.must("GET", "/api/budgets", user=user)["data"]
    (found,) = [each for each in listed if each["id"] == budget_id]
    assert found["held"] == usd("0.00")
    return Decimal(found["used"]["amount"])


# At once.


async def test_500_requests_at_once_against_four_nested_budgets_admit_exactly_the_smallest(org: Org) -> None:
    other_key = org.must("POST", "/api/keys", {"name": "other"})
    key_id = org.must("POST", "/api/keys", {"name": "narrow"})
    for person in ("alice", "bob"):
        org.must("POST", "/api/persons", {"id": person})
    made = {
        "org": org.budget(calls(130), window="day"),
        "key": org.budget(calls(110), window="total", scope={"key": key_id["id"]}),
        "user": org.budget(calls(80), window="month", user="alice"),
        "session": org.budget(calls(37), window="total", scope={"user": "alice", "session": "s1"}),
    }
    crowd = [ask(org, "alice", key_id["key"], **{"farebox-session": "s1"}, **SLOW)] * 500
    replies = await ask_all(org.stack.port, crowd)
    assert statuses(replies) == {200: 37, 402: 463}, "the session's"
    refused = json.loads(next(reply.body for reply in replies if reply.status == 402))
    assert (refused["code"], refused["limit"]["id"]) == ("budget_exceeded", made["session"]["id"])
    rest = [
        (43, ask(org, "alice", key_id["key"], **{"farebox-session": "s2"})),  # 80 - 37: the person's
        (30, ask(org, "bob", key_id["key"])),  # 110 - 80: the key's
        (20, ask(org, "bob", other_key["key"])),  # 130 - 110: the organization's
    ]
    for admitted, one in rest:
        assert statuses(await ask_all(org.stack.port, [one] * 100)) == {200: admitted, 402: 100 - admitted}
    assert {name: used(org, each["id"]) for name, each in made.items()} == {
        "org": Decimal("0.13"), "key": Decimal("0.11"), "user": Decimal("0.08"), "session": Decimal("0.037"),
    }  # fmt: skip
    assert Decimal(org.account()["available"]["amount"]) == Decimal(100) - Decimal("0.13")


async def test_a_thousand_first_requests_of_an_unknown_person_cannot_pass_a_default_budget(org: Org) -> None:
    org.budget(calls(7), window="day", scope={"user": "*"})
    replies = await ask_all(org.stack.port, [ask(org, "nobody-has-seen-me", **SLOW)] * 1_000)
    assert statuses(replies) == {200: 7, 402: 993}
    assert org.must("GET", "/api/persons/nobody-has-seen-me")["made"] == "first_sight"


async def test_a_streams_cost_counts_however_many_run(org: Org) -> None:
    made = org.budget("0.005", window="day", user="")
    said = json.dumps(body("Hi", model="gpt-4o", stream=True)).encode()
    streams = [Ask(CHAT, org.headers("alice", **{"x-sim-output-tokens": "300"}), said)] * 40
    replies = await ask_all(org.stack.port, streams)
    assert 0 < statuses(replies)[200] < 40
    costs = [Decimal(reply.note["cost"]["amount"]) for reply in replies if reply.status == 200]
    until(lambda: org.must("GET", "/api/budgets")["data"][0]["held"] == usd("0.00"))
    assert sum(costs) == used(org, made["id"]) <= Decimal("0.005")
    assert all(reply.complete for reply in replies)


# By another name.


def test_another_session_is_the_same_person(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "alice"})
    org.budget(calls(3), user="alice")
    answers = [org.stack.http.get(FLAT, headers=org.headers("alice", **{"farebox-session": f"s{n}"})) for n in range(6)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 402, 402, 402]


def test_an_alias_is_the_same_model(org: Org) -> None:
    made = org.budget("0.0004", scope={"model": "gpt-4o-mini"})
    names = ["gpt-4o-mini", "gpt-4o-mini-2024-07-18"]
    answers = [
        org.chat(user="alice", model=name, max_tokens=200, headers={"x-sim-output-tokens": "200"}) for name in names * 3
    ]
    assert {answer.status_code for answer in answers} == {200, 402}
    assert Decimal("0.0001") < used(org, made["id"]) <= Decimal("0.0004")
    by_alias = org.budget("0.0004", scope={"model": "gpt-4o-mini-2024-07-18"})
    assert by_alias["id"] == made["id"], "and so is the budget's"


def test_a_rotated_key_is_the_same_key(org: Org) -> None:
    key = org.must("POST", "/api/keys", {"name": "k"})
    org.budget(calls(2), scope={"key": key["id"]})
    texts = [key["key"]]
    for _ in range(3):
        texts.append(org.must("POST", f"/api/keys/{key['id']}/rotate", {"grace_s": 600})["key"])
    answers = [org.stack.http.get(FLAT, headers={"authorization": f"Bearer {text}"}) for text in texts]
    assert [answer.status_code for answer in answers] == [401, 401, 200, 200], "the newest and the one before it"
    assert org.stack.http.get(FLAT, headers={"authorization": f"Bearer {texts[-1]}"}).status_code == 402


@pytest.mark.parametrize("place", ["x-api-key", "x-goog-api-key", "?key=", "bearer"])
def test_a_key_in_another_place_is_the_same_key(org: Org, place: str) -> None:
    org.must("POST", "/api/persons", {"id": "alice"})
    org.budget(calls(1), user="alice")
    named = {"farebox-user": "alice"}
    if place == "?key=":
        answers = [org.stack.http.get(FLAT, params={"key": org.app_key}, headers=named) for _ in range(2)]
    else:
        shown = {"authorization": f"bearer {org.app_key}"} if place == "bearer" else {place: org.app_key}
        answers = [org.stack.http.get(FLAT, headers=named | shown) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 402]


def test_a_provider_address_is_the_same_route(org: Org) -> None:
    org.budget("0.00008", user="")
    answers = [
        org.stack.http.post(path, json=body(max_tokens=100), headers=org.headers("alice"))
        for path in (CHAT, "/openai/v1/chat/completions") * 4
    ]
    assert {answer.status_code for answer in answers} == {200, 402}
    total = sum(
        Decimal(answer.headers["farebox-cost"].split('"')[1]) for answer in answers if answer.status_code == 200
    )
    assert total <= Decimal("0.00008")


def test_a_name_that_only_looks_like_another_is_another_person_with_the_default_budget(org: Org) -> None:
    org.budget(calls(1), scope={"user": "*"})
    for name in ("al ice", "al%20ice", "al|ice", "al&ice", "al=ice&user=alice", "ALICE", "al\u00edce"):
        sent = [
            org.stack.http.get(FLAT, headers=httpx.Headers({**org.headers(), "farebox-user": name}, encoding="utf-8"))
            for _ in range(2)
        ]
        assert [answer.status_code for answer in sent] == [200, 402], name
    everybody = org.stack.http.get(FLAT, headers=org.headers("*"))
    assert (everybody.status_code, everybody.json()["param"]) == (422, "farebox-user"), "what budgets call everybody"


def test_two_names_in_one_request_are_refused(org: Org) -> None:
    headers = [*org.headers("alice").items(), ("farebox-user", "bob")]
    answer = org.stack.http.get(FLAT, headers=headers)
    assert (answer.status_code, answer.json()["param"]) == (422, "farebox-user")


def test_a_pass_through_route_is_inside_every_budget(org: Org) -> None:
    made = org.budget(calls(2))
    answers = [org.stack.http.get("/raw/anything/else?x=1", headers=org.headers()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 402, 402]
    assert used(org, made["id"]) == Decimal("0.002")


def test_no_person_at_all_is_still_the_key_and_the_organization(org: Org) -> None:
    org.budget(calls(1))
    answers = [org.stack.http.get(FLAT, headers=org.headers(name)) for name in ("", "alice", "bob")]
    assert [answer.status_code for answer in answers] == [200, 402, 402]


# By invented names.


def test_invented_names_buy_nothing_and_only_so_many_are_made_a_minute(gateway: Stack) -> None:
    org = make_org(gateway, persons_per_minute=5)
    answers = [org.stack.http.get(FLAT, headers=org.headers(f"invented-{number}")) for number in range(12)]
    # The minute may turn meanwhile: then five more.
    served = sum(answer.status_code == 200 for answer in answers)
    assert served in (5, 10), Counter(answer.status_code for answer in answers)
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
    assert org.stack.http.get(FLAT, headers=org.headers("invented-0")).status_code == 200, "who is known is served"


def test_names_made_on_first_sight_have_no_allowance_of_a_plan(gateway: Stack) -> None:
    org = make_org(gateway, credit="")
    answer = org.stack.http.get(FLAT, headers=org.headers("brand-new"))
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_required")
    assert org.must("GET", "/api/persons/brand-new")["plan"] is None


# By asking again.


def test_deleting_a_budget_and_making_it_again_forgets_nothing(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "alice"})
    made = org.budget(calls(2), user="alice")
    first = [org.stack.http.get(FLAT, headers=org.headers("alice")).status_code for _ in range(3)]
    org.must("DELETE", f"/api/budgets/{made['id']}", user="alice")
    org.budget(calls(2), user="alice")
    assert [*first, org.stack.http.get(FLAT, headers=org.headers("alice")).status_code] == [200, 200, 402, 402]


def test_a_pause_ends_by_nobodys_request(org: Org) -> None:
    made = org.budget(calls(2), on_exceed="pause", window="total")
    answers = [org.stack.http.get(FLAT, headers=org.headers()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 402, 402]
    assert answers[-1].json()["code"] == "budget_paused"
    org.budget(calls(500), id=made["id"], window="total")
    assert org.stack.http.get(FLAT, headers=org.headers()).json()["code"] == "budget_paused", (
        "a higher limit resumes nothing"
    )
    org.must("POST", f"/api/budgets/{made['id']}/resume", {})
    assert org.stack.http.get(FLAT, headers=org.headers()).status_code == 200


def test_a_limit_below_what_is_spent_pauses_and_loses_nothing(org: Org) -> None:
    made = org.budget(calls(10))
    for _ in range(4):
        assert org.stack.http.get(FLAT, headers=org.headers()).status_code == 200
    lowered = org.budget(calls(2), id=made["id"])
    assert lowered["state"] == "paused" and lowered["used"] == usd("0.004")
    assert org.stack.http.get(FLAT, headers=org.headers()).json()["code"] == "budget_paused"


def test_a_budget_on_what_does_not_exist_is_refused(org: Org) -> None:
    for scope, param in (
        ({"user": "nobody"}, "scope.user"),
        ({"key": "ak_000000"}, "scope.key"),
        ({"model": "gpt-999"}, "scope.model"),
    ):
        answer = org.ask("PUT", "/api/budgets", {"limit": usd("1.00"), "scope": scope})
        assert (answer.status_code, answer.json()["param"]) == (422, param), answer.text


def test_another_worker_knows_a_new_limit_at_once(org: Org) -> None:
    for _ in range(4):  # both workers have seen key and person
        assert org.stack.http.get(FLAT, headers={**org.headers("alice"), "connection": "close"}).status_code == 200
    org.budget(calls(4))
    answers = [httpx.get(f"{org.stack.base_url}{FLAT}", headers=org.headers("alice")) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {402}, "four were used in this window already"


# By being small, or by being many.


async def test_many_small_automatic_charges_escalate_also_at_once(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("tiers")
    (directory / "policies").mkdir()
    (directory / "policies" / "approvals.yaml").write_text("automatic_within_usd: '0.02'\n")
    with start_stack(directory, parts, workers=2) as stack:
        org = make_org(stack)
        replies = await ask_all(stack.port, [ask(org, "alice", **SLOW)] * 200)
        assert statuses(replies) == {200: 20, 402: 180}
        refused = json.loads(next(reply.body for reply in replies if reply.status == 402))
        assert (refused["code"], refused["reason"]) == ("approval_required", "cumulative")
        assert org.stack.http.get(FLAT, headers=org.headers("bob")).status_code == 200, "each payer by themselves"
        stack.check_books()


async def test_nobody_freezes_the_others_by_holding_everything(gateway: Stack) -> None:
    """All with one key, as most apps have it."""
    org = make_org(gateway, credit="0.010", share_ppm=300_000)
    crowd = [ask(org, "greedy", **SLOWER)] * 50
    greedy = asyncio.ensure_future(ask_all(gateway.port, crowd))
    while org.account()["held"] != usd("0.003"):
        assert not greedy.done()
        await asyncio.sleep(0.05)
    (modest,) = await ask_all(gateway.port, [ask(org, "modest")])
    assert modest.status == 200
    replies = await greedy
    assert statuses(replies) == {200: 3, 402: 47}
    assert "balance" in json.loads(next(reply.body for reply in replies if reply.status == 402))


async def test_a_person_has_only_so_many_requests_open(gateway: Stack) -> None:
    org = make_org(gateway, most_open_holds=4)
    replies = await ask_all(gateway.port, [ask(org, "busy", **SLOW)] * 20 + [ask(org, "other", **SLOW)])
    assert statuses(replies[:20]) == {200: 4, 429: 16} and replies[20].status == 200
    again = org.stack.http.get(FLAT, headers=org.headers("busy"))
    assert again.status_code == 200, "nothing stays counted"


@pytest.fixture(scope="module", autouse=True)
def _books(stack: Stack) -> Iterator[Any]:
    yield
    stack.check_books()
