"""Alerts, waiting quotes and questions reach the app's own server: signed, in order, once each; and are tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.people import Org, make_org, usd
from e2e.receiver import Receiver, running_receiver
from e2e.stack import Parts, Stack, start_stack, until
from e2e.test_ask import Streamed, approved_quote
from standardwebhooks import Webhook

TIMEOUT_S = 1.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("webhooks")
    (directory / "policies").mkdir()
    (directory / "policies" / "approvals.yaml").write_text(yaml.safe_dump({"notify_above_usd": "0.0005"}))
    webhooks = {"allow_private_addresses": True, "timeout_s": TIMEOUT_S}
    with start_stack(directory, parts, webhooks=webhooks) as stack:
        yield stack
        stack.check_books()


@pytest.fixture
def org(gateway: Stack) -> Org:
    return make_org(gateway)


def listen(org: Org, receiver: Receiver, *events: str) -> str:
    """Have the organization's events told to a receiver; the secret."""
    return str(org.must("PUT", "/api/webhooks", {"url": receiver.url, "events": list(events)})["secret"])


def test_an_alert_at_eighty_per_cent_comes_once_and_its_signature_holds(org: Org, receiver: Receiver) -> None:
    secret = listen(org, receiver)
    org.must("POST", "/api/persons", {"id": "alice"})
    budget = org.budget("0.0002", user="alice", window="month", alerts_pct=[50, 80])
    while org.chat(user="alice").status_code == 200:
        pass
    until(lambda: len(receiver.got) >= 2, what="two alerts")
    receiver.must_be_signed(secret)
    for headers, body in receiver.got:
        with pytest.raises(Exception, match=r"(?i)signature"):
            Webhook(secret).verify(body + b" ", headers)
    told = receiver.data("budget.alert")
    assert receiver.types() == ["budget.alert", "budget.alert"]
    assert [each["pct"] for each in told] == [50, 80]
    for each in told:
        assert (each["budget_id"], each["user"], each["window"]) == (budget["id"], "alice", "month")
        assert (each["scope"], each["limit"]) == (budget["scope"], usd("0.0002"))
        assert each["used"]["currency"] == "USD" and each["resets_at"] == budget["resets_at"]
    (shown,) = org.must("GET", "/api/budgets", user="alice")["data"]
    assert shown["alerted_pct"] == [50, 80]
    events = org.must("GET", "/api/events")["data"]
    assert [each["data"] for each in reversed(events)] == told, "the API says it in the same words"


def test_an_alert_of_a_default_budget_says_whose_it_is(org: Org, receiver: Receiver) -> None:
    listen(org, receiver, "budget.alert")
    budget = org.budget("0.10", scope={"user": "*"}, alerts_pct=[1], window="total")
    for _ in range(3):
        assert org.chat(user="ann lee", model="gpt-4").status_code == 200
    until(lambda: receiver.got, what="the alert")
    (told,) = receiver.data("budget.alert")
    assert (told["budget_id"], told["user"]) == (budget["id"], "ann lee")
    assert told["scope"] == budget["scope"] == {"org": org.org_id, "user": "*"}
    assert (told["window"], told["resets_at"]) == ("total", None)


def test_a_budget_that_pauses_stays_paused_until_somebody_resumes_it(org: Org, receiver: Receiver) -> None:
    listen(org, receiver)
    budget = org.budget("0.0002", window="total", on_exceed="pause")
    answers = [org.chat(user=f"user-{number % 3}") for number in range(12)]
    refused = [answer for answer in answers if answer.status_code == 402]
    assert refused and refused[-1].json()["code"] == "budget_paused"
    assert refused[-1].json()["limit"]["state"] == "paused"
    until(lambda: "budget.paused" in receiver.types(), what="the webhook")
    (told,) = receiver.data("budget.paused")
    assert told["budget_id"] == budget["id"] and told["limit"] == usd("0.0002")
    org.budget("100.00", window="total", on_exceed="pause")
    assert org.chat().json()["code"] == "budget_paused", "a higher limit alone does not resume it"
    org.must("POST", f"/api/budgets/{budget['id']}/resume", {})
    assert org.chat().status_code == 200
    until(lambda: "budget.resumed" in receiver.types(), what="that it is resumed")


def test_a_receiver_that_fails_is_tried_again_in_order(org: Org, receiver: Receiver) -> None:
    receiver.status = 500
    listen(org, receiver)
    org.must("POST", "/api/webhooks/test", {})
    assert org.chat(user="zoe", model="gpt-4", max_tokens=40_000).status_code == 402
    until(lambda: receiver.tried, what="the first attempt")
    until(lambda: org.must("GET", "/api/webhooks")["failing_since"], what="that it fails")
    shown = org.must("GET", "/api/webhooks")
    assert (shown["url"], shown["state"], shown["last_error"]) == (receiver.url, "failing", "status 500")
    assert receiver.got == [] and shown["next_attempt"] > shown["failing_since"]
    receiver.status = 200
    until(lambda: len(receiver.got) == 2, seconds=30, what="both events")
    assert receiver.types() == ["webhook.test", "quote.waiting"]
    until(lambda: org.must("GET", "/api/webhooks")["state"] == "active", what="that it works")
    assert [each["type"] for each in org.must("GET", "/api/events")["data"]] == ["quote.waiting", "webhook.test"]


def test_a_receiver_that_is_slow_is_tried_again_under_the_same_id_and_holds_up_nobody(
    org: Org, receiver: Receiver, other: Receiver
) -> None:
    receiver.delay_s = 3 * TIMEOUT_S
    listen(org, receiver)
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: receiver.tried, what="the first attempt")
    stranger = make_org(org.stack)
    listen(stranger, other)
    stranger.must("POST", "/api/webhooks/test", {})
    until(lambda: other.got, seconds=3, what="another one's event")
    until(lambda: org.must("GET", "/api/webhooks")["last_error"] == "TimeoutError", what="that it is too slow")
    receiver.delay_s = 0.0
    until(lambda: len(receiver.tried) == 2, seconds=30, what="the next attempt")
    until(lambda: org.must("GET", "/api/webhooks")["state"] == "active", what="that it works")
    assert len(set(receiver.tried)) == 1


def test_a_receiver_that_is_gone_is_not_told_until_it_is_set_again(org: Org, receiver: Receiver) -> None:
    receiver.status = 410
    listen(org, receiver)
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: org.must("GET", "/api/webhooks")["state"] == "disabled", what="that it is disabled")
    assert org.chat(user="zoe", model="gpt-4", max_tokens=40_000).status_code == 402
    until(lambda: len(org.must("GET", "/api/webhooks/dead")["data"]) == 2, what="two dead letters")
    assert len(receiver.tried) == 1
    receiver.status = 200
    listen(org, receiver)
    assert org.must("GET", "/api/webhooks")["state"] == "active"
    waiting, test = org.must("GET", "/api/webhooks/dead")["data"]
    assert (waiting["type"], test["type"]) == ("quote.waiting", "webhook.test"), "newest first"
    for each in (test, waiting):
        assert org.ask("POST", f"/api/webhooks/dead/{each['id']}/retry", {}).status_code == 202
        assert org.ask("POST", f"/api/webhooks/dead/{each['id']}/retry", {}).status_code == 404
    until(lambda: len(receiver.got) == 2, what="both events")
    assert receiver.types() == ["webhook.test", "quote.waiting"]
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [test["id"], waiting["id"]]
    assert org.must("GET", "/api/webhooks/dead")["data"] == []
    org.must("DELETE", "/api/webhooks")
    assert org.ask("POST", f"/api/webhooks/dead/{test['id']}/retry", {}).status_code == 404


def test_a_redirect_is_not_followed(org: Org, receiver: Receiver, other: Receiver) -> None:
    receiver.status, receiver.location = 307, other.url
    listen(org, receiver)
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: org.must("GET", "/api/webhooks")["last_error"] == "status 307", what="that it failed")
    assert other.tried == []


def test_while_a_secret_is_rotated_both_sign(org: Org, receiver: Receiver) -> None:
    before = listen(org, receiver)
    after = org.must("POST", "/api/webhooks/rotate", {})["secret"]
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: receiver.got, what="an event")
    receiver.must_be_signed(before, after)
    ((headers, _),) = receiver.got
    assert len(headers["webhook-signature"].split()) == 2
    receiver.got.clear()
    secret = listen(org, receiver)
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: receiver.got, what="an event")
    receiver.must_be_signed(secret)
    for old in (before, after):
        with pytest.raises(Exception, match=r"(?i)signature"):
            receiver.must_be_signed(old)


def test_the_answer_to_a_quote_is_told_and_nothing_that_was_not_asked_for(org: Org, receiver: Receiver) -> None:
    listen(org, receiver, "quote.answered")
    body = org.chat(user="ann", model="gpt-4", max_tokens=40_000).json()
    org.must("POST", f"/api/quotes/{body['quote']['id']}/refuse", {}, user="ann")
    until(lambda: bool(receiver.got), what="the answer")
    assert receiver.types() == ["quote.answered"], "what was not asked for is not sent"


def test_the_question_of_a_stream_and_its_answer_are_told(org: Org, receiver: Receiver) -> None:
    secret = listen(org, receiver, "overage.needed", "overage.answered")
    quote = approved_quote(org, "quinn", "0.010", 403)
    stream = Streamed(org, "quinn", quote=quote, tokens=403)
    stream.until_begun()
    until(lambda: receiver.got, what="the question")
    (asked,) = receiver.data("overage.needed")
    assert (asked["request_id"], asked["user"]) == (stream.request_id, "quinn")
    assert asked["original_max"] == usd("0.01") and asked["additional_needed"]["currency"] == "USD"
    assert [each["action"] for each in asked["options"]] == ["stop", "approve_overage"]
    answer = {"action": "stop", "overage_id": asked["overage_id"]}
    org.must("POST", f"/api/requests/{stream.request_id}/overage", answer, user="quinn")
    stream.until_over()
    until(lambda: "overage.answered" in receiver.types(), what="the answer")
    (answered,) = receiver.data("overage.answered")
    assert (answered["overage_id"], answered["state"]) == (asked["overage_id"], "stopped")
    receiver.must_be_signed(secret)


def test_a_charge_that_nobody_was_asked_about_is_told_above_what_the_policy_says(org: Org, receiver: Receiver) -> None:
    listen(org, receiver, "charge.posted")
    assert org.chat(user="ann").status_code == 200
    answer = org.chat(user="ann", model="gpt-4", max_tokens=200, headers={"farebox-session": "s1"})
    until(lambda: receiver.got, what="the charge")
    (told,) = receiver.data("charge.posted")
    record = org.must("GET", f"/api/requests/{answer.headers['farebox-request-id']}", user="ann")
    assert (told["request_id"], told["cost"]) == (record["request_id"], record["cost"])
    assert (told["user"], told["session"], told["model"]) == ("ann", "s1", record["model"])
    assert f'id="{told["quote_id"]}"' in answer.headers["farebox-quote"]
    assert told["pockets"] == [{"pocket": "prepaid", "amount": record["cost"]}]
    assert len(receiver.got) == 1, "small ones are not"


def test_each_charge_comes_as_a_cloud_event_to_whoever_wants_it(org: Org, receiver: Receiver) -> None:
    wanted = {"url": receiver.url, "events": ["webhook.test"], "usage": True}
    secret = org.must("PUT", "/api/webhooks", wanted)["secret"]
    answers = [org.chat(user=user) for user in ("ann", "bob", "ann")]
    requests = [answer.headers["farebox-request-id"] for answer in answers]

    def events() -> list[dict[str, Any]]:
        return [event for _, body in receiver.got for event in json.loads(body)]

    until(lambda: len(events()) == len(requests), what="every charge")
    receiver.must_be_signed(secret)
    assert {headers["content-type"] for headers, _ in receiver.got} == {"application/cloudevents-batch+json"}
    assert [event["subject"] for event in events()] == requests and len({event["id"] for event in events()}) == 3
    for event, user in zip(events(), ("ann", "bob", "ann"), strict=True):
        record = org.must("GET", f"/api/requests/{event['subject']}", user=user)
        assert (event["specversion"], event["type"]) == ("1.0", "farebox.usage.posted")
        assert {name: event["data"][name] for name in ("model", "usage", "basis", "cost")} == {
            name: record[name] for name in ("model", "usage", "basis", "cost")
        }
        assert event["data"]["user"] == user
    assert org.must("GET", "/api/events")["data"] == [], "charges are in the usage"


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:1/x", "http://example.com/x", "https://user:pass@example.com/", "ftp://x", "https://[::1", "https://",
    "https://example.com:99999/", "https://example.com:0/", "https://exa mple.com/", "https://example.com/\n", "https://b\u00fccher.example/",
    "https://localhost./", "https://2130706433/", "https://0x7f.1/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/",
    "https://100.64.0.1/", "https://224.0.0.1/", "https://[64:ff9b::a00:1]/", "https://example.com/" + "a" * 100_000, "", None, 7,
])  # fmt: skip
def test_an_address_that_could_never_be_told_is_refused_by_name(stranger: Org, url: object) -> None:
    answer = stranger.ask("PUT", "/api/webhooks", {"url": url})
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, "invalid_request", "url")
    assert stranger.ask("GET", "/api/webhooks").status_code == 404, "nothing has changed"


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Org:
    return make_org(stack, credit="")


def test_a_name_that_stands_for_nothing_is_found_out_when_it_is_sent_to(stack: Stack) -> None:
    org = make_org(stack, credit="")
    org.must("PUT", "/api/webhooks", {"url": "https://receiver.invalid/x"})
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: org.must("GET", "/api/webhooks")["last_error"], what="the failure")
    assert org.must("GET", "/api/webhooks")["state"] == "failing"
