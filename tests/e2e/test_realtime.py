"""Realtime sessions over WebSocket, with the official client: paid by the response, cut where the money ends."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from e2e.people import make_org
from e2e.stack import Stack, until
from openai import AsyncOpenAI
from pymacaroons import Macaroon
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

MODEL = "gpt-realtime"
# Of gpt-realtime, at 100,000 USD a BTC: a token of text in costs 4 msat, one out 16.
INPUT_MSAT, OUTPUT_MSAT = 4, 16
# What a session of this model holds before it begins is 264 sats: a credit that pays that, and no second one.
ONE_RESPONSE_SATS = 300


def client(stack: Stack, credential: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=credential, max_retries=0)


def socket_url(stack: Stack, query: str = f"model={MODEL}", path: str = "/v1/realtime") -> str:
    return f"{stack.base_url.replace('http', 'ws', 1)}{path}?{query}"


def request_id_of(connection: Any) -> str:
    return str(connection._connection.response.headers["farebox-request-id"])


async def be_text_only(connection: Any, limit_tokens: int = 100) -> None:
    await connection.session.update(
        session={"type": "realtime", "output_modalities": ["text"], "max_output_tokens": limit_tokens}
    )
    await heard(connection, "session.updated")


async def say(connection: Any, text: str = "hello there") -> None:
    content = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()


async def heard(connection: Any, kind: str) -> Any:
    async with asyncio.timeout(20):
        async for event in connection:
            if event.type == kind:
                return event
    raise AssertionError(f"the session ended before {kind}")


async def test_a_session_costs_the_sum_of_its_responses(stack: Stack) -> None:
    credential = stack.buy(2_000)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "30"}
    ) as connection:
        request_id = request_id_of(connection)
        await heard(connection, "session.created")
        await be_text_only(connection)
        for _ in range(3):
            await say(connection)
            await heard(connection, "response.done")
    balance = stack.settled(credential)
    sent = stack.sent(request_id)
    record = stack.record(request_id, credential)
    assert sent["output_tokens"] == 90 and not sent["payer_credential_seen"]
    assert balance["posted"] == sent["input_tokens"] * INPUT_MSAT + 90 * OUTPUT_MSAT
    assert record["state"] == "posted" and record["basis"] == "reported" and record["cut"] is None
    assert record["usage"]["output_tokens"] == 90 and record["cost"] == {"amount_msat": balance["posted"]}


async def test_a_running_session_shows_what_it_has_cost(stack: Stack) -> None:
    credential = stack.buy(2_000)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "10"}
    ) as connection:
        request_id = request_id_of(connection)
        await say(connection)
        await heard(connection, "response.done")
        cost = 2 * INPUT_MSAT + 10 * OUTPUT_MSAT
        await asyncio.to_thread(
            until, lambda: stack.record(request_id, credential)["cost"] == {"amount_msat": cost}, what="the checkpoint"
        )
        record = await asyncio.to_thread(stack.record, request_id, credential)
        assert record["state"] == "open" and record["held"]["amount_msat"] > cost


async def test_without_a_credential_the_upgrade_is_answered_with_the_402_of_http(stack: Stack) -> None:
    seen = len(stack.sim_log())
    with pytest.raises(InvalidStatus) as refused:
        async with client(stack, "sk-somebodys-own").realtime.connect(model=MODEL):
            pass
    response = refused.value.response
    problem = json.loads(bytes(response.body or b""))
    assert response.status_code == problem["status"] == 402 and problem["code"] == "payment_required"
    assert response.headers["www-authenticate"].startswith('L402 macaroon="') and problem["invoice"]
    assert len(stack.sim_log()) == seen


@pytest.mark.parametrize(
    ("query", "path", "status", "code"),
    [
        ("model=nobody-knows-this", "/v1/realtime", 404, "unknown_model"),
        ("", "/v1/realtime", 422, "invalid_request"),
        ("model=gpt-realtime&model=gpt-realtime-mini", "/v1/realtime", 422, "invalid_request"),
        ("model=gpt-realtime&call_id=rtc_1", "/v1/realtime", 422, "invalid_request"),
        ("model=gpt-realtime", "/v1/chat/completions", 404, "unknown_route"),
    ],
)
async def test_what_is_not_served_is_refused_before_the_upgrade(
    stack: Stack, query: str, path: str, status: int, code: str
) -> None:
    credential = stack.buy(1_000)
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            socket_url(stack, query, path), additional_headers={"authorization": f"L402 {credential}"}, proxy=None
        ):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(bytes(refused.value.response.body or b""))["code"] == code
    assert stack.settled(credential)["posted"] == 0


async def test_a_credit_below_one_response_is_refused_with_a_top_up(stack: Stack) -> None:
    credential = stack.buy(5)
    with pytest.raises(InvalidStatus) as refused:
        async with client(stack, credential).realtime.connect(model=MODEL):
            pass
    assert refused.value.response.status_code == 402
    assert stack.settled(credential)["posted"] == 0


async def test_a_session_ends_where_the_credit_does_and_no_response_runs_unpaid(stack: Stack) -> None:
    credential = stack.buy(ONE_RESPONSE_SATS)
    done = 0
    error: Any = None
    async with connect(
        socket_url(stack),
        additional_headers={"authorization": f"Bearer {credential}", "x-sim-output-tokens": "2000"},
        proxy=None,
    ) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await socket.send('{"type":"response.create","event_id":"mine"}')
                while True:
                    event = json.loads(await socket.recv())
                    error = event if event["type"] == "error" else error
                    if event["type"] == "response.done":
                        done += 1
                        break
    request_id = socket.response.headers["farebox-request-id"]  # type: ignore[union-attr]
    balance = stack.settled(credential)
    record = stack.record(request_id, credential)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    assert error["error"]["code"] == "payment_required" and error["error"]["type"] == "insufficient_quota"
    assert error["error"]["event_id"] == "mine"
    assert done >= 1 and stack.sent(request_id)["output_tokens"] == done * 2_000
    assert record["cut"] == "credit" and record["shortfall"] == {"amount_msat": 0}
    assert balance["posted"] == stack.sent(request_id)["input_tokens"] * INPUT_MSAT + done * 2_000 * OUTPUT_MSAT
    assert balance["credited"] == ONE_RESPONSE_SATS * 1_000


async def test_a_smaller_limit_lets_a_smaller_credit_speak(stack: Stack) -> None:
    credential = stack.buy(ONE_RESPONSE_SATS)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "500"}
    ) as connection:
        await be_text_only(connection, 500)
        for _ in range(20):
            await say(connection)
            await heard(connection, "response.done")
    assert stack.settled(credential)["posted"] >= 20 * 500 * OUTPUT_MSAT


async def test_who_hangs_up_in_a_response_pays_for_what_it_showed(stack: Stack) -> None:
    credential = stack.buy(2_000)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "400", "x-sim-interval-ms": "10"}
    ) as connection:
        request_id = request_id_of(connection)
        await be_text_only(connection, 400)
        await say(connection)
        seen = 0
        async for event in connection:
            seen += event.type == "response.output_text.delta"
            if seen == 20:
                break
    balance = stack.settled(credential)
    record = stack.record(request_id, credential)
    assert record["basis"] == "counted" and record["state"] == "posted"
    assert 20 <= record["usage"]["output_tokens"] <= 80
    assert 0 < record["usage"]["input_tokens"] < 100
    assert balance["posted"] == record["cost"]["amount_msat"]
    until(lambda: stack.sent(request_id)["cut_off"], what="the end of the upstream's work")
    assert stack.sent(request_id)["tokens_sent"] < 200


async def test_a_response_without_usage_is_counted(stack: Stack) -> None:
    credential = stack.buy(2_000)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "25", "x-sim-fault": "no-usage"}
    ) as connection:
        request_id = request_id_of(connection)
        await be_text_only(connection)
        await say(connection)
        await heard(connection, "response.done")
    stack.settled(credential)
    record = stack.record(request_id, credential)
    assert record["basis"] == "counted" and 20 <= record["usage"]["output_tokens"] <= 60


async def test_a_report_beyond_the_limit_is_not_charged(stack: Stack) -> None:
    credential = stack.buy(2_000)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "60", "x-sim-fault": "usage-x2"}
    ) as connection:
        request_id = request_id_of(connection)
        await be_text_only(connection, 60)
        await say(connection)
        await heard(connection, "response.done")
    stack.settled(credential)
    assert stack.record(request_id, credential)["usage"]["output_tokens"] == 60


async def test_a_session_in_which_nothing_was_asked_costs_nothing(stack: Stack) -> None:
    credential = stack.buy(1_000)
    async with client(stack, credential).realtime.connect(model=MODEL) as connection:
        await heard(connection, "session.created")
    assert stack.settled(credential)["posted"] == 0


async def test_browsers_show_their_credential_as_a_subprotocol_which_goes_no_further(stack: Stack) -> None:
    credential = stack.buy(1_000)
    key = credential.translate(str.maketrans("+/:", "-_.")).replace("=", "")
    offered = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{key}")]
    async with connect(socket_url(stack), subprotocols=offered, proxy=None) as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"
    request_id = socket.response.headers["farebox-request-id"]  # type: ignore[union-attr]
    assert not stack.sent(request_id)["payer_credential_seen"]
    assert stack.settled(credential)["posted"] == 0


async def test_a_key_in_the_query_is_a_credential_and_an_upstream_can_be_addressed(stack: Stack) -> None:
    credential = stack.buy(1_000)
    url = socket_url(stack, f"key={credential.replace('+', '%2B')}&model={MODEL}", "/openai/v1/realtime")
    async with connect(url, proxy=None) as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"


async def test_a_transcription_model_without_a_price_is_refused_and_the_session_goes_on(stack: Stack) -> None:
    credential = stack.buy(2_000)
    async with client(stack, credential).realtime.connect(
        model=MODEL, extra_headers={"x-sim-output-tokens": "5"}
    ) as connection:
        audio: Any = {"input": {"transcription": {"model": "nobody-knows-this"}}}
        await connection.session.update(session={"type": "realtime", "audio": audio}, event_id="mine")
        error = await heard(connection, "error")
        assert error.error.code == "unknown_model" and error.error.event_id == "mine"
        await say(connection)
        assert (await heard(connection, "response.done")).response.status == "completed"


async def test_an_attenuated_credential_is_held_to_its_path_here_too(stack: Stack) -> None:
    token, _, preimage = stack.buy(1_000).rpartition(":")
    macaroon = Macaroon.deserialize(token)
    macaroon.add_first_party_caveat("path_prefix=/v1/chat")
    key = f"{macaroon.serialize()}:{preimage}"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(socket_url(stack), additional_headers={"authorization": f"L402 {key}"}, proxy=None):
            pass
    assert refused.value.response.status_code == 403


async def test_a_person_behind_an_app_speaks_within_what_goes_without_asking(stack: Stack) -> None:
    org = await asyncio.to_thread(make_org, stack)
    budget = await asyncio.to_thread(partial(org.budget, "0.40", window="day"))
    headers = {"x-sim-output-tokens": "30", "farebox-user": "alice"}
    async with client(stack, org.app_key).realtime.connect(model=MODEL, extra_headers=headers) as connection:
        request_id = request_id_of(connection)
        await be_text_only(connection)
        for _ in range(2):
            await say(connection)
            await heard(connection, "response.done")

    def record() -> Any:
        return org.must("GET", f"/api/requests/{request_id}", user="alice")

    await asyncio.to_thread(until, lambda: record()["state"] == "posted", what="the end of the session")
    told = await asyncio.to_thread(record)
    assert told["usage"]["output_tokens"] == 60 and told["basis"] == "reported"
    (listed,) = (await asyncio.to_thread(org.must, "GET", "/api/budgets"))["data"]
    assert listed["id"] == budget["id"] and listed["used"] == told["cost"]
    second = await asyncio.to_thread(partial(org.budget, "0.10", window="day"))
    assert second["state"] == "active"
    with pytest.raises(InvalidStatus) as refused:
        async with client(stack, org.app_key).realtime.connect(model=MODEL, extra_headers=headers):
            pass
    problem = json.loads(bytes(refused.value.response.body or b""))
    assert (problem["status"], problem["code"]) == (402, "budget_exceeded")
