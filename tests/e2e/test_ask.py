"""A stream that comes to what was agreed stands still, asks, and goes on without a lost byte, or ends cleanly."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest
from anthropic import Anthropic
from e2e.people import Org, make_org, usd
from e2e.stack import Parts, Stack, start_stack, until
from openai import OpenAI
from websockets.sync.client import connect

from gateway.web.api.events import WATCHERS_OF_REQUEST_MOST

DEAR = "gpt-4"
WORDS = 400


@pytest.fixture(scope="module")
def org(stack: Stack) -> Org:
    return make_org(stack)


def words_of(count: int) -> dict[str, str]:
    return {"x-sim-output-tokens": str(count), "x-sim-interval-ms": "2"}


class Streamed:
    """A stream read by the official SDK in a thread."""

    def __init__(self, org: Org, user: str, *, quote: str, tokens: int = WORDS) -> None:
        self.text = ""
        self.finish: str | None = None
        self.request_id = ""
        self.error: Exception | None = None
        self._org, self._quote, self._tokens, self._user = org, quote, tokens, user
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        client = OpenAI(base_url=f"{self._org.stack.base_url}/v1", api_key=self._org.app_key, max_retries=0)
        headers = words_of(self._tokens) | {"farebox-user": self._user, "farebox-quote": self._quote}
        asked = client.chat.completions.with_streaming_response
        try:
            with client, asked.create(**body(self._tokens), extra_headers=headers) as raw:
                self.request_id = raw.headers["farebox-request-id"]
                for line in raw.iter_lines():
                    if line.startswith("data: {"):
                        (choice,) = json.loads(line[6:])["choices"] or [{}]
                        self.text += (choice.get("delta") or {}).get("content") or ""
                        self.finish = choice.get("finish_reason") or self.finish
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def until_begun(self) -> None:
        until(lambda: self.request_id or self.error, what="the head of the stream")
        assert self.error is None, self.error

    def until_over(self) -> Streamed:
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.error is None, self.error
        return self


def body(tokens: int) -> dict[str, Any]:
    return {
        "model": DEAR, "max_tokens": 40_000, "stream": True,
        "messages": [{"role": "user", "content": f"Tell me {tokens} words"}],
    }  # fmt: skip


def approved_quote(org: Org, user: str, approved: str, tokens: int = WORDS) -> str:
    answer = org.stack.http.post("/v1/chat/completions", json=body(tokens), headers=org.headers(user))
    assert answer.status_code == 402, answer.text
    quote_id: str = answer.json()["quote"]["id"]
    org.must("POST", f"/api/quotes/{quote_id}/approve", {"approved_max": usd(approved)}, user=user)
    return quote_id


def socket_of(org: Org, request_id: str, user: str) -> Any:
    url = org.stack.base_url.replace("http", "ws") + f"/api/requests/{request_id}/events"
    return connect(url, additional_headers=org.headers(user))


def next_event(socket: Any, kind: str) -> dict[str, Any]:
    while True:
        frame: dict[str, Any] = json.loads(socket.recv(timeout=30))
        if frame["event"] == kind:
            return frame


def test_a_paused_stream_is_resumed_over_a_websocket_and_loses_no_byte(org: Org) -> None:
    # gpt-4: 60 USD a million tokens of output; 0.01 USD is about 150 of the 400 words.
    quote = approved_quote(org, "alice", "0.010")
    stream = Streamed(org, "alice", quote=quote)
    stream.until_begun()
    with socket_of(org, stream.request_id, "alice") as socket:
        asked = next_event(socket, "overage_approval_needed")["data"]
        (waiting,) = org.must("GET", "/api/approvals", user="alice")["data"]
        assert (waiting["overage_id"], waiting["waits_for"]) == (asked["overage_id"], "alice")
        assert org.must("GET", "/api/approvals", user="bob")["data"] == []
        assert asked["original_max"] == usd("0.01") and Decimal(asked["additional_needed"]["amount"]) > 0
        before = len(stream.text)
        held = org.must("GET", f"/api/requests/{stream.request_id}", user="alice")
        assert held["state"] == "open" and Decimal(held["held"]["amount"]) <= Decimal("0.01")
        socket.send(json.dumps({"action": "approve_overage", "overage_id": "ov_other"}))
        assert next_event(socket, "error")["data"]["code"] == "conflict"
        socket.send(json.dumps({
            "action": "approve_overage", "overage_id": asked["overage_id"], "additional_max": usd("1.00"),
        }))  # fmt: skip
        assert next_event(socket, "overage_answered")["data"]["state"] == "approved"
        assert org.must("GET", "/api/approvals", user="alice")["data"] == []
        stream.until_over()
        assert len(stream.text) > before
        final = next_event(socket, "state")
        while final["data"]["state"] == "open":
            final = next_event(socket, "state")
        assert final["data"]["state"] == "posted"
    assert stream.finish == "stop"
    assert len(stream.text.split()) == WORDS, "not a byte was lost"
    sent = org.stack.sent(stream.request_id)
    assert sent is not None


def test_a_no_ends_the_stream_cleanly_within_what_was_approved(org: Org) -> None:
    quote = approved_quote(org, "bob", "0.010", 401)
    stream = Streamed(org, "bob", quote=quote, tokens=401)
    stream.until_begun()

    def refused() -> bool:
        answer = org.ask("POST", f"/api/requests/{stream.request_id}/overage", {"action": "stop"}, user="bob")
        return answer.status_code == 200

    until(refused, what="the question")
    stream.until_over()
    assert stream.finish == "length"
    record = org.must("GET", f"/api/requests/{stream.request_id}", user="bob")
    assert record["cut"] == "cap" and Decimal(record["cost"]["amount"]) <= Decimal("0.010")


def test_a_strangers_answer_is_refused(org: Org) -> None:
    quote = approved_quote(org, "carl", "0.010", 402)
    stream = Streamed(org, "carl", quote=quote, tokens=402)
    stream.until_begun()
    path = f"/api/requests/{stream.request_id}/overage"
    until(lambda: org.ask("POST", path, {"action": "nonsense"}, user="carl").status_code == 422, what="a request")
    answer = org.ask("POST", path, {"action": "approve_overage"}, user="mallory")
    assert answer.status_code == 404, "ids of others are not told"
    until(lambda: org.ask("POST", path, {"action": "stop"}, user="carl").status_code == 200, what="the question")
    stream.until_over()
    again = org.ask("POST", path, {"action": "approve_overage"}, user="carl")
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")


def test_a_budget_that_asks_is_lifted_for_this_stream_and_still_counts_it(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "dora"})
    org.budget("0.003", user="dora", window="month", on_exceed="ask")
    client = Anthropic(base_url=org.stack.base_url, api_key=org.app_key, max_retries=0)
    texts: list[str] = []
    ids: list[str] = []

    def read() -> None:
        headers = words_of(900) | {"farebox-user": "dora"}
        with client, client.messages.stream(
            model="claude-haiku-4-5", max_tokens=2_000, messages=[{"role": "user", "content": "Hello"}],
            extra_headers=headers,
        ) as stream:  # fmt: skip
            ids.append(stream.response.headers["farebox-request-id"])
            texts.extend(stream.text_stream)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    until(lambda: bool(ids), what="the head of the stream")
    with socket_of(org, ids[0], "dora") as socket:
        asked = next_event(socket, "overage_approval_needed")["data"]
        assert asked["reason"] == "budget"
        socket.send(json.dumps({"action": "approve_overage", "additional_max": usd("0.50")}))
        next_event(socket, "overage_answered")
        thread.join(60)
    assert not thread.is_alive()
    assert len("".join(texts).split()) == 900
    (budget,) = org.must("GET", "/api/budgets", user="dora")["data"]
    assert Decimal(budget["used"]["amount"]) > Decimal("0.003")
    refused = org.chat(user="dora", model=DEAR)
    assert (refused.status_code, refused.json()["code"]) == (402, "approval_required")
    assert refused.json()["reason"] == "budget"


def test_an_answer_in_one_piece_is_not_cut_short_by_a_budget_that_asks(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "otto"})
    made = org.budget("0.0008", user="otto", window="month", on_exceed="ask")
    wanted: dict[str, Any] = {"user": "otto", "max_tokens": 4_000, "headers": words_of(2_000)}
    asked = org.chat(**wanted)
    assert (asked.status_code, asked.json()["code"], asked.json()["reason"]) == (402, "approval_required", "budget")
    question = {"model": "gpt-4o-mini", "max_output_tokens": 4_000, "input_tokens": 10}
    told = org.must("POST", "/api/policies/explain", question, user="otto")
    assert (told["decision"], told["rule"]) == ("ask", "budget")
    path = asked.json()["quote"]["id"]
    org.must("POST", f"/api/quotes/{path}/approve", {}, user="otto")
    answer = org.chat(**{**wanted, "headers": words_of(2_000) | {"farebox-quote": path}})
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 2_000
    (budget,) = org.must("GET", "/api/budgets", user="otto")["data"]
    assert budget["id"] == made["id"] and Decimal(budget["used"]["amount"]) > Decimal("0.0008")


def test_where_a_limit_refuses_an_answer_in_one_piece_is_as_long_as_it_pays_for(org: Org) -> None:
    org.must("POST", "/api/persons", {"id": "pia"})
    org.budget("0.0008", user="pia", window="day")
    org.budget("1.00", user="pia", window="month", on_exceed="ask")
    answer = org.chat(user="pia", max_tokens=4_000, headers=words_of(2_000))
    assert answer.status_code == 200, answer.text
    assert 1_000 < answer.json()["usage"]["completion_tokens"] < 2_000


def test_whoever_answers_on_an_open_socket_is_looked_at_anew(org: Org) -> None:
    quote = approved_quote(org, "erin", "0.010", 403)
    stream = Streamed(org, "erin", quote=quote, tokens=403)
    stream.until_begun()
    key = org.must("POST", "/api/keys", {"name": "for a while"})
    address = f"{org.stack.base_url.replace('http', 'ws', 1)}/api/requests/{stream.request_id}/events"
    headers = {"authorization": f"Bearer {key['key']}", "farebox-user": "erin"}
    with connect(address, additional_headers=headers) as socket:
        next_event(socket, "overage_approval_needed")
        org.must("DELETE", f"/api/keys/{key['id']}")
        socket.send(json.dumps({"action": "approve_overage", "additional_max": usd("1.00")}))
        assert next_event(socket, "error")["data"]["code"] == "invalid_key"
    assert org.ask("POST", f"/api/requests/{stream.request_id}/overage", {"action": "stop"}, user="erin").is_success
    stream.until_over()
    assert stream.finish == "length"


def test_only_so_many_watch_one_request(org: Org) -> None:
    quote = approved_quote(org, "fay", "0.010", 404)
    stream = Streamed(org, "fay", quote=quote, tokens=404)
    stream.until_begun()
    path = f"/api/requests/{stream.request_id}/events"
    with ExitStack() as watching:
        statuses = []
        for _ in range(WATCHERS_OF_REQUEST_MOST + 2):
            answer = watching.enter_context(org.stack.http.stream("GET", path, headers=org.headers("fay"), timeout=30))
            statuses.append(answer.status_code)
        assert statuses == [200] * WATCHERS_OF_REQUEST_MOST + [429] * 2
        stop = f"/api/requests/{stream.request_id}/overage"
        until(lambda: org.ask("POST", stop, {"action": "stop"}, user="fay").is_success, what="the question")
        stream.until_over()
    seen = org.stack.http.get(path, headers=org.headers("fay"), timeout=30)
    assert seen.status_code == 200, "places are given back"
    assert "\nid: \n" not in seen.text and "event: state" in seen.text


def test_after_a_yes_the_bytes_are_the_upstreams(org: Org) -> None:
    """Not by words: by what the upstream says that it sent."""
    asked = body(405) | {"stream_options": {"include_usage": True}}
    quote = org.stack.http.post("/v1/chat/completions", json=asked, headers=org.headers("gus")).json()["quote"]["id"]
    org.must("POST", f"/api/quotes/{quote}/approve", {"approved_max": usd("0.010")}, user="gus")
    headers = words_of(405) | org.headers("gus", **{"farebox-quote": quote})
    got = b""
    with org.stack.http.stream("POST", "/v1/chat/completions", json=asked, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        request_id = answer.headers["farebox-request-id"]

        def agreed() -> bool:
            yes = {"action": "approve_overage", "additional_max": usd("1.00")}
            return org.ask("POST", f"/api/requests/{request_id}/overage", yes, user="gus").is_success

        asking = threading.Thread(target=lambda: until(agreed, what="the question"))
        asking.start()
        for piece in answer.iter_raw():
            got += piece
        asking.join()
    lines = got.splitlines(keepends=True)
    upstream = b"".join(line for line in lines if not line.startswith(b": farebox "))
    assert hashlib.sha256(upstream).hexdigest() == org.stack.sent(request_id)["sha256"]


@pytest.fixture(scope="module")
def impatient(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    directory = tmp_path_factory.mktemp("impatient")
    (directory / "policies").mkdir()
    (directory / "policies" / "approvals.yaml").write_text("answer_within_s: 4\ntwo_persons_above_usd: '5.00'\n")
    with start_stack(directory, parts) as stack:
        yield make_org(stack)
        stack.check_books()


def test_silence_is_a_no_and_comments_keep_the_client_waiting_until_then(impatient: Org) -> None:
    quote = approved_quote(impatient, "ann", "0.010")
    headers = words_of(WORDS) | impatient.headers("ann", **{"farebox-quote": quote})
    answer = impatient.stack.http.post("/v1/chat/completions", json=body(WORDS), headers=headers, timeout=60)
    assert answer.status_code == 200
    assert b": farebox waiting for an approval" in answer.content and answer.content.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"length"' in answer.content
    record = impatient.must("GET", f"/api/requests/{answer.headers['farebox-request-id']}", user="ann")
    assert record["cut"] == "cap" and Decimal(record["cost"]["amount"]) <= Decimal("0.010")
    late = impatient.ask("POST", f"/api/requests/{record['request_id']}/overage", {"action": "stop"}, user="ann")
    assert (late.status_code, late.json()["code"]) == (409, "illegal_transition")


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [("6.00", 403, "two_persons_needed"), ("999999.999999999", 422, "invalid_request"), ("0.00", 422, "invalid_request"),
     ("-1.00", 422, "invalid_request")],
)  # fmt: skip
def test_a_yes_to_more_than_one_may_agree_to_is_none(impatient: Org, more: str, status: int, code: str) -> None:
    tokens = 300 + len(more)
    quote = approved_quote(impatient, f"p{len(more)}", "0.010", tokens)
    stream = Streamed(impatient, f"p{len(more)}", quote=quote, tokens=tokens)
    stream.until_begun()
    path = f"/api/requests/{stream.request_id}/overage"
    asked = {"action": "approve_overage", "additional_max": usd(more)}
    seen: list[tuple[int, str]] = []

    def answered() -> bool:
        answer = impatient.ask("POST", path, asked, user=f"p{len(more)}")
        seen.append((answer.status_code, answer.json().get("code", "")))
        return seen[-1][0] != 404

    until(answered, what="the question")
    assert seen[-1] == (status, code)
    stream.until_over()
    assert stream.finish == "length", "it stood, and ended cleanly"
