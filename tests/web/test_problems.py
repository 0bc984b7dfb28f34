"""Every refusal has one body, and each SDK shows its message and does not try again in vain."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest
import uvicorn
from google import genai
from google.genai import errors as genai_errors
from starlette.responses import StreamingResponse
from starlette.routing import Route

from gateway.core import errors
from gateway.core.errors import Problem
from gateway.core.finished import Finished
from gateway.core.headers import is_grpc
from gateway.core.operations import Dialect
from gateway.web.problems import render_failure, render_problem
from gateway.web.site import ObservedSite, own_site

ALL = [
    errors.PaymentRequired, errors.AmbiguousCredential, errors.InvalidKey, errors.Forbidden, errors.NotFound,
    errors.MethodNotAllowed, errors.Conflict, errors.TooLarge, errors.HeadTooLarge, errors.MalformedRequest,
    errors.UpgradeRequired, errors.InvalidRequest, errors.RateLimited,
    errors.UpstreamFailed, errors.UpstreamTimeout, errors.Unavailable, errors.Problem,
]  # fmt: skip


def rendered(problem: Problem, dialect: Dialect = Dialect.OPENAI, **options: Any) -> tuple[int, dict[str, str], Any]:
    status, headers, body = render_problem(problem, dialect, **options)
    named = {name.decode(): value.decode() for name, value in headers}
    return status, named, json.loads(body) if body else None


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_refusal_has_the_same_members_in_every_dialect(kind: type[Problem], dialect: Dialect) -> None:
    status, headers, body = rendered(kind("why it was", param="model"), dialect)
    assert status == body["status"] == kind.status
    assert (body["title"], body["detail"], body["code"], body["param"]) == (
        kind.title,
        "why it was",
        kind.code,
        "model",
    )
    assert body["type"] == "https://farebox.dev/problems/" + kind.code.replace("_", "-")
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) == len(render_problem(kind("why it was", param="model"), dialect)[2])
    assert (headers.get("x-should-retry") == "false") is (status not in (429, 502, 503, 504))


def test_error_has_the_shape_of_the_callers_dialect() -> None:
    problem = errors.InvalidRequest("n: too many", param="n")
    assert rendered(problem, Dialect.OPENAI)[2]["error"] == {
        "message": "n: too many", "type": "invalid_request", "param": "n", "code": "invalid_request",
    }  # fmt: skip
    assert rendered(problem, Dialect.ANTHROPIC)[2]["error"]["type"] == "invalid_request_error"
    assert rendered(problem, Dialect.GEMINI)[2]["error"] == {
        "code": 422, "message": "n: too many", "status": "INVALID_ARGUMENT",
    }  # fmt: skip
    assert rendered(problem, Dialect.OLLAMA)[2]["error"] == "n: too many"


def test_more_members_stand_beside_and_never_over_the_common_ones() -> None:
    problem = errors.PaymentRequired("pay", members={"invoice": "lnbc1", "status": 200, "error": "mine"})
    _, _, body = rendered(problem)
    assert (body["invoice"], body["status"], body["error"]["message"]) == ("lnbc1", 402, "pay")


def test_a_challenge_comes_before_all_other_headers() -> None:
    problem = errors.PaymentRequired("pay", headers={"www-authenticate": 'L402 macaroon="a", invoice="b"'})
    _, headers, _ = render_problem(problem)
    assert headers[0] == (b"www-authenticate", b'L402 macaroon="a", invoice="b"')
    assert b"retry-after" not in dict(headers)


@pytest.mark.parametrize(("problem", "seconds"), [(errors.Unavailable("away"), "1"), (errors.RateLimited("slow"), "1"),
                                                  (errors.Unavailable("away", retry_after_s=7), "7")])  # fmt: skip
def test_what_passes_with_time_says_when_to_come_back(problem: Problem, seconds: str) -> None:
    assert rendered(problem)[1]["retry-after"] == seconds


def test_our_own_failures_say_nothing_of_the_inside() -> None:
    status, _, body = render_failure(Dialect.OPENAI)
    assert status == 500 and json.loads(body)["code"] == "internal"


def test_grpc_callers_are_told_in_trailers_of_the_head() -> None:
    status, headers, body = rendered(errors.PaymentRequired("pay", headers={"www-authenticate": "L402 x"}), grpc=True)
    assert (status, body) == (200, None)
    assert (headers["grpc-status"], headers["grpc-message"]) == ("13", "payment required")
    assert headers["www-authenticate"] == "L402 x" and headers["content-type"] == "application/grpc"
    _, headers, _ = rendered(errors.Unavailable("away\r\nx: 50 % é"), grpc=True)
    assert (headers["grpc-status"], headers["grpc-message"]) == ("14", "away%0D%0Ax: 50 %25 %C3%A9")
    assert is_grpc([(b"content-type", b"application/grpc+proto")])
    assert not is_grpc([(b"content-type", b"application/json")]) and not is_grpc([])


async def refuse(request: Any) -> Any:
    raise errors.Conflict("already", code="idempotency_mismatch")


async def fail(request: Any) -> Any:
    raise RuntimeError("secret inside")


async def fail_in_the_middle(request: Any) -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("secret inside")

    return StreamingResponse(pieces())


@asynccontextmanager
async def asking_our_own_site() -> AsyncIterator[tuple[httpx.AsyncClient, list[Finished]]]:
    """Routes that refuse and fail, and what is told of their requests."""
    told: list[Finished] = []
    routes = [Route("/refuse", refuse), Route("/fail", fail), Route("/break", fail_in_the_middle)]
    transport = httpx.ASGITransport(cast(Any, ObservedSite(own_site(list(routes)), told.append)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client, told


async def test_the_handlers_of_the_framework_give_the_same_body() -> None:
    async with asking_our_own_site() as (client, _):
        assert (await client.get("/refuse")).json()["code"] == "idempotency_mismatch"
        assert (await client.get("/nowhere")).json()["code"] == "not_found"
        wrong = await client.post("/refuse")
        grpc = await client.get("/refuse", headers={"content-type": "application/grpc"})
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert (grpc.status_code, grpc.content, grpc.headers["grpc-status"]) == (200, b"", "10")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}  # Starlette keeps them in a set


async def test_what_nobody_foresaw_is_answered_cleanly_and_found_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with asking_our_own_site() as (client, told):
        failed = await client.get("/fail")
    assert (failed.status_code, failed.json()["code"]) == (500, "internal") and "secret" not in failed.text
    request_id = failed.headers["farebox-request-id"]
    (record,) = [record for record in caplog.records if record.name == "farebox.site"]
    assert request_id in record.getMessage() and "/fail" in record.getMessage()
    assert record.exc_info is not None and "secret inside" in str(record.exc_info[1])
    assert [(each.request_id, each.status, each.reason) for each in told] == [(request_id, 500, "internal")]


async def test_an_answer_that_fails_in_the_middle_breaks_off_and_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asking_our_own_site() as (client, told):
        with pytest.raises(RuntimeError):
            await client.get("/break")
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == ["farebox.site"]
    assert [(each.status, each.reason) for each in told] == [(200, "internal")]


def test_a_refusal_that_says_when_to_come_back_does_not_forbid_it() -> None:
    waits = rendered(errors.Conflict("under way", retry_after_s=1))[1]
    assert (waits["retry-after"], "x-should-retry" in waits) == ("1", False)


@asynccontextmanager
async def refusing(problem: Problem, dialect: Dialect) -> AsyncIterator[tuple[str, list[str]]]:
    """A server on a socket that answers every request with the problem, and the paths it was asked for."""
    asked: list[str] = []
    status, headers, body = render_problem(problem, dialect)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        server.should_exit = True
        await serving
        listener.close()


MESSAGE = "the credit is spent: pay the invoice"


async def test_openais_sdk_shows_the_message_and_does_not_try_again() -> None:
    async with (
        refusing(errors.PaymentRequired(MESSAGE), Dialect.OPENAI) as (url, asked),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="x") as client,
    ):
        with pytest.raises(openai.APIStatusError, match=MESSAGE) as caught:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert (caught.value.status_code, caught.value.code, len(asked)) == (402, "payment_required", 1)


async def test_openais_sdk_tries_again_what_passes_with_time() -> None:
    async with (
        refusing(errors.Unavailable("away", retry_after_s=0), Dialect.OPENAI) as (url, asked),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=1) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="away"):
            await client.models.list()
    assert len(asked) == 2


async def test_anthropics_sdk_shows_the_message_and_does_not_try_again() -> None:
    async with (
        refusing(errors.Conflict(MESSAGE), Dialect.ANTHROPIC) as (url, asked),
        anthropic.AsyncAnthropic(base_url=url, api_key="x") as client,
    ):
        with pytest.raises(anthropic.APIStatusError, match=MESSAGE):
            await client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}])
    assert len(asked) == 1


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_googles_sdk_shows_the_message() -> None:
    async with refusing(errors.PaymentRequired(MESSAGE), Dialect.GEMINI) as (url, asked):
        client = genai.Client(api_key="x", http_options={"base_url": url})
        with pytest.raises(genai_errors.ClientError, match=MESSAGE) as caught:
            await client.aio.models.generate_content(model="gemini-2.0-flash", contents="hi")
        await client.aio.aclose()
    assert (caught.value.code, len(asked)) == (402, 1)
