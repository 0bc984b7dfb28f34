"""Clients that hang up, upstreams that stall, break off or lie: the hold is resolved, and the payer pays what was
delivered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.crowd import Ask, ask_one
from e2e.stack import CHAT, Parts, Stack, body, proof, start_stack, until

MODEL = "gpt-4o"
OUTPUT_MSAT = 10
INPUT_MOST_MSAT = 100  # the few words of the request
CHECKPOINT_S = 0.5
READ_IDLE_S = 1.0


@pytest.fixture(scope="module")
def brittle(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Short patience with upstreams and readers."""
    upstream = {"read_idle_timeout_s": READ_IDLE_S, "first_byte_timeout_s": 1.5}
    limits = {"stalled_reader_s": 1.0}
    with start_stack(tmp_path_factory.mktemp("brittle"), parts, upstream=upstream, limits=limits) as running:
        yield running
        running.check_books()


def request(credential: str, *, stream: bool = True, wish: dict[str, str], **members: Any) -> Ask:
    said = json.dumps(body("Hello there", model=MODEL, stream=stream, **members)).encode()
    return Ask(CHAT, proof(credential) | wish, said)


def counted_price(stack: Stack, request_id: str, credential: str) -> tuple[dict[str, Any], int]:
    record = stack.record(request_id, credential)
    assert record["state"] == "posted"
    return record, record["cost"]["amount_msat"]


class Client:
    """A client that reads as it likes, on a bare socket."""

    def __init__(self, stack: Stack, ask: Ask, *, receive_buffer_bytes: int | None = None) -> None:
        self._socket = socket.socket()
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", stack.port))
        self._socket.sendall(ask.as_bytes())
        self.data = b""

    def read_until(self, count: int, mark: bytes = b'"content":"') -> None:
        while self.data.count(mark) < count:
            piece = self._socket.recv(65_536)
            assert piece, "the answer ended early"
            self.data += piece

    @property
    def request_id(self) -> str:
        head = self.data.partition(b"\r\n\r\n")[0].decode().lower()
        (line,) = [line for line in head.split("\r\n") if line.startswith("farebox-request-id: ")]
        return line.partition(": ")[2]

    def close(self) -> None:
        self._socket.close()


def test_a_client_gone_after_100_of_1000_chunks_pays_for_what_was_delivered(stack: Stack) -> None:
    credential = stack.buy(100)
    client = Client(stack, request(credential, wish={"x-sim-output-tokens": "1000", "x-sim-interval-ms": "5"}))
    client.read_until(100)
    client.close()
    posted = stack.settled(credential)["posted"]
    until(lambda: stack.sent(client.request_id)["cut_off"], what="the end of the upstream's answer")
    sent = stack.sent(client.request_id)["tokens_sent"]
    assert 99 <= sent < 400, "the upstream was read on"
    # The first chunk brings no token. What was on its way to the client when it hung up is delivered, too.
    assert 99 * OUTPUT_MSAT <= posted <= (sent + 20) * OUTPUT_MSAT + INPUT_MOST_MSAT
    assert stack.record(client.request_id, credential)["basis"] == "counted"


def test_a_client_gone_before_the_first_byte_leaves_no_hold(stack: Stack) -> None:
    credential = stack.buy(100)
    wish = {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "700"}
    client = Client(stack, request(credential, wish=wish))
    until(lambda: stack.balance(credential)["held"] > 0, what="the hold")
    client.close()
    assert stack.settled(credential)["posted"] <= 64 * OUTPUT_MSAT + INPUT_MOST_MSAT


def test_a_client_gone_in_the_middle_of_its_upload_pays_nothing(stack: Stack) -> None:
    credential = stack.buy(1_000)
    form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    form += b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"\0" * 80_000
    head = {**proof(credential), "content-type": "multipart/form-data; boundary=x", "content-length": "900000"}
    with socket.create_connection(("127.0.0.1", stack.port)) as wire:
        lines = [f"{name}: {value}" for name, value in head.items()]
        wire.sendall(
            "\r\n".join(["POST /v1/audio/transcriptions HTTP/1.1", "host: x", *lines]).encode() + b"\r\n\r\n" + form
        )
        until(lambda: stack.balance(credential)["held"] > 0, what="the hold")
    assert stack.settled(credential)["posted"] == 0


def test_where_the_upstream_bills_regardless_a_client_that_hangs_up_pays_for_all(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with start_stack(tmp_path_factory.mktemp("draining"), parts, upstream={"drain_on_disconnect": True}) as draining:
        credential = draining.buy(100)
        wish = {"x-sim-output-tokens": "300", "x-sim-interval-ms": "3"}
        client = Client(draining, request(credential, wish=wish))
        client.read_until(50)
        client.close()
        posted = draining.settled(credential)["posted"]
        assert 300 * OUTPUT_MSAT <= posted <= 300 * OUTPUT_MSAT + INPUT_MOST_MSAT
        assert not draining.sent(client.request_id)["cut_off"]


def test_a_reader_that_takes_nothing_is_cut_and_its_upstream_closed(brittle: Stack) -> None:
    credential = brittle.buy(2_000)
    client = Client(brittle, request(credential, wish={"x-sim-output-tokens": "150000"}), receive_buffer_bytes=4_096)
    client.read_until(1)
    until(lambda: brittle.sent(client.request_id)["cut_off"], 20, what="the end of the upstream's answer")
    balance = brittle.settled(credential)
    assert 0 < balance["posted"] < 2_000_000
    client.close()


@pytest.mark.parametrize("fault", ["stall@30", "close@30"])
async def test_an_upstream_that_stalls_or_closes_half_way_is_paid_for_30_tokens(brittle: Stack, fault: str) -> None:
    credential = brittle.buy(100)
    reply = await ask_one(brittle.port, request(credential, wish={"x-sim-fault": fault, "x-sim-output-tokens": "500"}))
    assert reply.status == 200 and not reply.complete, "the client must not take half an answer for a whole one"
    posted = brittle.settled(credential)["posted"]
    record, cost = counted_price(brittle, reply.request_id, credential)
    assert posted == cost and record["basis"] == "counted"
    assert 30 * OUTPUT_MSAT <= posted <= 45 * OUTPUT_MSAT + INPUT_MOST_MSAT


@pytest.mark.parametrize("fault", ["stall@30", "close@30"])
async def test_an_unstreamed_answer_that_breaks_off_costs_nothing(brittle: Stack, fault: str) -> None:
    credential = brittle.buy(100)
    wish = {"x-sim-fault": fault, "x-sim-output-tokens": "500"}
    reply = await ask_one(brittle.port, request(credential, stream=False, wish=wish))
    assert reply.status in {502, 504}, reply.body
    assert brittle.settled(credential)["posted"] == 0


async def test_a_stream_without_usage_is_counted_and_marked_so(stack: Stack) -> None:
    credential = stack.buy(100)
    wish = {"x-sim-fault": "no-usage", "x-sim-output-tokens": "200"}
    reply = await ask_one(stack.port, request(credential, wish=wish))
    record, cost = counted_price(stack, reply.request_id, credential)
    assert reply.complete and record["basis"] == "counted"
    assert 200 * OUTPUT_MSAT <= cost == stack.settled(credential)["posted"] <= 260 * OUTPUT_MSAT + INPUT_MOST_MSAT


async def test_an_unstreamed_answer_without_usage_is_counted_too(stack: Stack) -> None:
    credential = stack.buy(100)
    wish = {"x-sim-fault": "no-usage", "x-sim-output-tokens": "200"}
    reply = await ask_one(stack.port, request(credential, stream=False, wish=wish))
    record, cost = counted_price(stack, reply.request_id, credential)
    assert record["basis"] == "counted"
    assert 200 * OUTPUT_MSAT <= cost == stack.settled(credential)["posted"] <= 260 * OUTPUT_MSAT + INPUT_MOST_MSAT


async def test_an_upstream_that_doubles_its_usage_is_not_believed(stack: Stack) -> None:
    credential = stack.buy(100)
    wish = {"x-sim-fault": "usage-x2", "x-sim-output-tokens": "400"}
    reply = await ask_one(stack.port, request(credential, wish=wish))
    record, cost = counted_price(stack, reply.request_id, credential)
    assert record["basis"] == "counted"
    assert 400 * OUTPUT_MSAT <= cost == stack.settled(credential)["posted"] <= 520 * OUTPUT_MSAT + INPUT_MOST_MSAT


async def test_an_unstreamed_answer_with_doubled_usage_is_not_believed_either(stack: Stack) -> None:
    credential = stack.buy(100)
    wish = {"x-sim-fault": "usage-x2", "x-sim-output-tokens": "400"}
    reply = await ask_one(stack.port, request(credential, stream=False, wish=wish))
    record, cost = counted_price(stack, reply.request_id, credential)
    assert record["basis"] == "counted"
    assert 400 * OUTPUT_MSAT <= cost == stack.settled(credential)["posted"] <= 520 * OUTPUT_MSAT + INPUT_MOST_MSAT


async def test_usage_above_what_the_request_allows_is_never_charged(stack: Stack) -> None:
    credential = stack.buy(100)
    wish = {"x-sim-fault": "usage-x2", "x-sim-output-tokens": "400"}
    reply = await ask_one(stack.port, request(credential, stream=False, wish=wish, max_tokens=100))
    _, cost = counted_price(stack, reply.request_id, credential)
    assert cost <= 100 * OUTPUT_MSAT + INPUT_MOST_MSAT


async def test_an_upstream_that_fails_before_the_first_byte_costs_nothing(stack: Stack) -> None:
    credential = stack.buy(100)
    reply = await ask_one(stack.port, request(credential, wish={"x-sim-fault": "status-500"}))
    assert reply.status == 500
    assert stack.settled(credential)["posted"] == 0
    assert stack.record(reply.request_id, credential)["state"] == "voided"


async def test_an_upstream_that_does_not_answer_in_time_costs_nothing(brittle: Stack) -> None:
    credential = brittle.buy(100)
    wish = {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "6000"}
    reply = await ask_one(brittle.port, request(credential, wish=wish))
    assert reply.status == 504, reply.body
    assert brittle.settled(credential)["posted"] == 0
    assert brittle.sent(reply.request_id)["cut_off"]


async def test_slow_headers_within_the_patience_are_waited_for(brittle: Stack) -> None:
    credential = brittle.buy(100)
    wish = {"x-sim-fault": "slow-headers", "x-sim-delay-ms": "400", "x-sim-output-tokens": "20"}
    reply = await ask_one(brittle.port, request(credential, wish=wish))
    assert reply.status == 200 and reply.note["usage"]["output_tokens"] == 20


async def test_a_running_request_can_be_asked_about_and_shows_what_it_earned(stack: Stack) -> None:
    credential = stack.buy(100)
    client = Client(stack, request(credential, wish={"x-sim-output-tokens": "400", "x-sim-interval-ms": "5"}))
    client.read_until(5)

    def earned() -> int:
        record = stack.record(client.request_id, credential)
        assert record["state"] == "open" and record["held"]["amount_msat"] > 0
        cost, output = int(record["cost"]["amount_msat"]), record["usage"]["output_tokens"]
        assert output * OUTPUT_MSAT <= cost <= output * OUTPUT_MSAT + INPUT_MOST_MSAT, "cost and usage fit"
        assert record["basis"] == ("counted" if cost else "estimated")
        return cost

    until(lambda: earned() >= 30 * OUTPUT_MSAT, what="a checkpoint")
    client.close()
    stack.settled(credential)


def test_what_costs_nothing_is_not_recorded_and_told_so(stack: Stack) -> None:
    credential = stack.buy(10)
    listing = stack.http.get("/v1/models", headers=proof(credential))
    request_id = listing.headers["farebox-request-id"]
    answer = stack.http.get(f"/api/requests/{request_id}", headers=proof(credential))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "listings and token counts are not recorded" in answer.json()["detail"]
