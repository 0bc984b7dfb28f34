"""Alerts, waiting quotes and questions reach the app's own server: signed, in order, once each; and are tried again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from e2e.people import Org, make_org
from e2e.stack import Parts, Stack, start_stack, until
from standardwebhooks import Webhook


@dataclass
class Receiver:
    """An app's server. `status` is what it answers; `got` are the bodies of what it took, with their headers."""

    url: str = ""
    status: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    tried: int = 0

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.tried += 1
            if kept.status == 200:
                kept.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(kept.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def gateway(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("webhooks")
    with start_stack(directory, parts, webhooks={"allow_private_addresses": True}) as stack:
        yield stack
        stack.check_books()


@pytest.fixture
def org(gateway: Stack) -> Org:
    return make_org(gateway)


def test_an_alert_at_eighty_per_cent_comes_once_and_its_signature_holds(org: Org, receiver: Receiver) -> None:
    secret = org.must("PUT", "/api/webhooks", {"url": receiver.url})["secret"]
    org.must("POST", "/api/persons", {"id": "alice"})
    budget = org.budget("0.0002", user="alice", window="month", alerts_pct=[50, 80])
    while org.chat(user="alice").status_code == 200:
        pass
    until(lambda: len(receiver.got) >= 2, what="two alerts")
    for headers, body in receiver.got:
        Webhook(secret).verify(body, headers)
        with pytest.raises(Exception, match=r"(?i)signature"):
            Webhook(secret).verify(body + b" ", headers)
    told = [json.loads(body)["data"] for _, body in receiver.got]
    assert receiver.types() == ["budget.alert", "budget.alert"]
    assert [each["pct"] for each in told] == [50, 80]
    assert {each["budget_id"] for each in told} == {budget["id"]}
    (shown,) = org.must("GET", "/api/budgets", user="alice")["data"]
    assert shown["alerted_pct"] == [50, 80]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2


def test_a_budget_that_pauses_stays_paused_until_somebody_resumes_it(org: Org, receiver: Receiver) -> None:
    org.must("PUT", "/api/webhooks", {"url": receiver.url})
    budget = org.budget("0.0002", window="total", on_exceed="pause")
    answers = [org.chat(user=f"user-{number % 3}") for number in range(12)]
    refused = [answer for answer in answers if answer.status_code == 402]
    assert refused and refused[-1].json()["code"] == "budget_paused"
    assert refused[-1].json()["limit"]["state"] == "paused"
    until(lambda: "budget.paused" in receiver.types(), what="the webhook")
    org.budget("100.00", window="total", on_exceed="pause")
    assert org.chat().json()["code"] == "budget_paused", "a higher limit alone does not resume it"
    org.must("POST", f"/api/budgets/{budget['id']}/resume", {})
    assert org.chat().status_code == 200


def test_a_receiver_that_fails_is_tried_again_in_order(org: Org, receiver: Receiver) -> None:
    receiver.status = 500
    org.must("PUT", "/api/webhooks", {"url": receiver.url})
    org.must("POST", "/api/webhooks/test", {})
    assert org.chat(user="zoe", model="gpt-4", max_tokens=40_000).status_code == 402
    until(lambda: receiver.tried >= 1, what="the first attempt")
    shown = org.must("GET", "/api/webhooks")
    until(lambda: org.must("GET", "/api/webhooks")["failing_since"], what="that it fails")
    assert shown["url"] == receiver.url and receiver.got == []
    receiver.status = 200
    until(lambda: len(receiver.got) == 2, seconds=30, what="both events")
    assert receiver.types() == ["webhook.test", "quote.waiting"]
    assert org.must("GET", "/api/webhooks")["state"] == "active"
    assert [each["type"] for each in org.must("GET", "/api/events")["data"]] == ["quote.waiting", "webhook.test"]


def test_a_question_of_a_stream_is_told(org: Org, receiver: Receiver) -> None:
    org.must("PUT", "/api/webhooks", {"url": receiver.url, "events": ["quote.answered"]})
    body = org.chat(user="ann", model="gpt-4", max_tokens=40_000).json()
    org.must("POST", f"/api/quotes/{body['quote']['id']}/refuse", {}, user="ann")
    until(lambda: bool(receiver.got), what="the answer")
    assert receiver.types() == ["quote.answered"], "what was not asked for is not sent"


def test_a_private_address_is_refused_unless_the_operator_allows_it(stack: Stack) -> None:
    org = make_org(stack, credit="")
    for url in ("http://127.0.0.1:1/x", "http://example.com/x", "https://user:pass@example.com/", "ftp://x"):
        answer = org.ask("PUT", "/api/webhooks", {"url": url})
        assert (answer.status_code, answer.json()["param"]) == (422, "url"), answer.text
    # An address of the inside behind a name is found when it is sent to.
    org.must("PUT", "/api/webhooks", {"url": "https://localhost:1/x"})
    org.must("POST", "/api/webhooks/test", {})
    until(lambda: org.must("GET", "/api/webhooks")["last_error"], what="the refusal")
    assert "public" in org.must("GET", "/api/webhooks")["last_error"]
