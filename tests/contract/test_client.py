"""The client for agents on real sockets: a small L402 server, a simulated node and its wallet, and the official
SDKs."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from toll_booth import TollBooth, toll_booth

from gateway.__main__ import main
from gateway.client import Caps, HttpWallet, LndWallet, NotBought, Payer, Payment, Refusal, credential
from gateway.client.purse import PaymentState

CHAT: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}]}
PATH = "/v1/chat/completions"


@pytest.fixture
def booth() -> Iterator[TollBooth]:
    with toll_booth() as running:
        yield running


@pytest.fixture
def payer(booth: TollBooth) -> Payer:
    return Payer(HttpWallet(booth.wallet_url))


@contextmanager
def client_of(booth: TollBooth, payer: Payer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=booth.base_url, auth=payer.httpx2_auth(), timeout=20) as client:
        yield client


def nowhere() -> str:
    """An address where nobody listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# httpx and httpx2, sync and async


def test_httpx_pays_once_and_spends_the_rest(booth: TollBooth, payer: Payer) -> None:
    with httpx.Client(base_url=booth.base_url, auth=payer.httpx_auth()) as client:
        assert [client.post(PATH, json=CHAT).status_code for _ in range(2)] == [200, 200]
        assert booth.settled() == 1
        assert client.post(PATH, json=CHAT).status_code == 200  # 25 sats were two calls of 10: a top-up
    assert booth.settled() == 2


async def test_httpx_async_pays(booth: TollBooth, payer: Payer) -> None:
    async with httpx.AsyncClient(base_url=booth.base_url, auth=payer.httpx_auth()) as client:
        assert (await client.post(PATH, json=CHAT)).status_code == 200
    assert booth.settled() == 1


def test_a_top_up_adds_to_what_is_left(booth: TollBooth, payer: Payer) -> None:
    with client_of(booth, payer) as client:
        assert [client.post(PATH, json=CHAT).status_code for _ in range(5)] == [200] * 5
    assert booth.settled() == 2  # 50 sats, five calls of 10: the 5 left of the first token were not lost


def test_streams_are_handed_on_as_they_come(booth: TollBooth, payer: Payer) -> None:
    wish = {"x-sim-interval-ms": "20", "x-sim-output-tokens": "1000"}
    with (
        client_of(booth, payer) as client,
        client.stream("POST", PATH, json=CHAT | {"stream": True}, headers=wish) as answer,
    ):
        assert b"chat.completion.chunk" in next(answer.iter_raw())


def test_a_deposit_can_be_asked_for(booth: TollBooth) -> None:
    payer = Payer(HttpWallet(booth.wallet_url), deposit_sats=40)
    with client_of(booth, payer) as client:
        assert [client.post(PATH, json=CHAT).status_code for _ in range(4)] == [200] * 4
    assert [payment.amount_msat for payment in payer.purse.payments()] == [40_000]


def test_uploads_are_sent_again_after_paying(booth: TollBooth, payer: Payer) -> None:
    files: Any = {"file": ("a.wav", io.BytesIO(b"\0" * 64_000), "audio/wav"), "model": (None, "whisper-1")}
    with client_of(booth, payer) as client:
        assert client.post("/v1/audio/transcriptions", files=files).json()["usage"]["seconds"] == 2


# One payment at a time, never two for one challenge


def test_threads_that_start_together_pay_once(booth: TollBooth, payer: Payer) -> None:
    booth.toll.price_sats = 1
    barrier = threading.Barrier(12)

    def ask(_: int) -> int:
        with client_of(booth, payer) as client:
            barrier.wait()
            return client.post(PATH, json=CHAT).status_code

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == [200] * 12
    assert booth.settled() == 1


async def test_tasks_that_start_together_pay_once(booth: TollBooth, payer: Payer) -> None:
    booth.toll.price_sats = 1
    async with httpx2.AsyncClient(base_url=booth.base_url, auth=payer.httpx2_auth()) as client:
        answers = await asyncio.gather(*(client.post(PATH, json=CHAT) for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert booth.settled() == 1


async def test_a_cancelled_call_leaves_the_way_free_and_its_payment_known(booth: TollBooth, payer: Payer) -> None:
    booth.do(lambda: setattr(booth.buyer.faults, "keep_payments_in_flight", True))
    async with httpx2.AsyncClient(base_url=booth.base_url, auth=payer.httpx2_auth()) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.post(PATH, json=CHAT), 0.5)
        (started,) = payer.purse.payments()
        assert started.state is PaymentState.STARTED
        blocked = await client.post(PATH, json=CHAT)
        assert blocked.headers["farebox-client-refusal"].startswith("payment_open")
        assert len(payer.purse.payments()) == 1
        booth.do(lambda: booth.buyer.release(bytes.fromhex(started.payment_hash)))


@pytest.mark.parametrize("times", [20])
def test_a_server_that_always_asks_again_gets_two_payments_in_all(booth: TollBooth, payer: Payer, times: int) -> None:
    booth.toll.never_serves = True
    with client_of(booth, payer) as client:
        refusals = [client.post(PATH, json=CHAT).headers["farebox-client-refusal"] for _ in range(times)]
    assert booth.settled() == 2
    assert refusals[-1].startswith("unserved")


def test_a_server_that_fails_after_payment_is_not_paid_again(booth: TollBooth, payer: Payer) -> None:
    booth.toll.status_when_paid = 503
    with client_of(booth, payer) as client:
        assert {client.post(PATH, json=CHAT).status_code for _ in range(20)} == {503}
        booth.toll.status_when_paid = 0
        assert client.post(PATH, json=CHAT).status_code == 200
    assert booth.settled() == 1


# What is not paid


@pytest.mark.parametrize(("caps", "code"), [(Caps(per_call_sats=24), "call_cap"), (Caps(per_day_sats=24), "day_cap")])
def test_caps_are_kept_and_the_402_comes_back_with_the_reason(booth: TollBooth, caps: Caps, code: str) -> None:
    seen: list[Payment | Refusal] = []
    payer = Payer(HttpWallet(booth.wallet_url), caps=caps, observe=seen.append)
    with client_of(booth, payer) as client:
        answer = client.post(PATH, json=CHAT)
    assert answer.status_code == 402 and answer.headers["farebox-client-refusal"].startswith(code)
    assert booth.settled() == 0 and [type(notice) for notice in seen] == [Refusal]


def test_an_invoice_that_the_macaroon_is_not_bound_to_is_not_paid(booth: TollBooth, payer: Payer) -> None:
    booth.toll.swaps_invoice = True
    with client_of(booth, payer) as client:
        assert client.post(PATH, json=CHAT).headers["farebox-client-refusal"].startswith("bad_challenge")
    assert booth.settled() == 0


def test_plain_http_to_another_machine_is_refused_unless_allowed(booth: TollBooth) -> None:
    port = httpx2.URL(booth.base_url).port

    class Elsewhere(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            here = request.url.copy_with(host="127.0.0.1", port=port)
            return super().handle_request(
                httpx2.Request(request.method, here, headers=request.headers, stream=request.stream)
            )

    for allowed, status in ((False, 402), (True, 200)):
        payer = Payer(HttpWallet(booth.wallet_url), allow_plain_http=allowed)
        with httpx2.Client(auth=payer.httpx2_auth(), transport=Elsewhere()) as client:
            answer = client.post(f"http://gateway.example:{port}{PATH}", json=CHAT)
        assert (answer.status_code, booth.settled()) == (status, int(allowed))


def test_a_wallet_that_is_away_costs_nothing(booth: TollBooth) -> None:
    payer = Payer(HttpWallet(nowhere()))
    with client_of(booth, payer) as client:
        assert client.post(PATH, json=CHAT).headers["farebox-client-refusal"].startswith("payment_failed")
    assert [payment.state for payment in payer.purse.payments()] == [PaymentState.FAILED]


# Tokens that outlive the process


def test_a_purse_file_keeps_tokens_for_its_owner_alone(booth: TollBooth, tmp_path: Path) -> None:
    purse_file = tmp_path / "deep" / "purse.json"
    for _ in range(2):
        with client_of(booth, Payer(HttpWallet(booth.wallet_url), purse_file=purse_file)) as client:
            assert client.post(PATH, json=CHAT).status_code == 200
    assert booth.settled() == 1
    assert stat.S_IMODE(purse_file.stat().st_mode) == 0o600
    purse_file.chmod(0o644)
    with pytest.raises(PermissionError):
        Payer(HttpWallet(booth.wallet_url), purse_file=purse_file)
    purse_file.chmod(0o600)
    purse_file.write_text("{}")
    with pytest.raises(ValueError, match="not a purse"):
        Payer(HttpWallet(booth.wallet_url), purse_file=purse_file)


def test_a_payment_is_on_disk_before_the_wallet_is_asked(booth: TollBooth, tmp_path: Path) -> None:
    purse_file = tmp_path / "purse.json"
    states: list[str] = []

    class Looking(HttpWallet):
        def pay(self, payment: Payment) -> Any:
            states.extend(each["state"] for each in json.loads(purse_file.read_text())["payments"])
            return super().pay(payment)

    with client_of(booth, Payer(Looking(booth.wallet_url), purse_file=purse_file)) as client:
        client.post(PATH, json=CHAT)
    assert states == ["started"]


def test_two_payers_on_one_purse_file_lose_nothing(booth: TollBooth, tmp_path: Path) -> None:
    purse_file = tmp_path / "purse.json"
    payers = [Payer(HttpWallet(booth.wallet_url), purse_file=purse_file) for _ in range(2)]
    for payer, path in zip(payers, (PATH, f"/other{PATH}"), strict=True):
        with client_of(booth, payer) as client:
            assert client.post(path, json=CHAT).status_code == 200
    assert len(Payer(HttpWallet(booth.wallet_url), purse_file=purse_file).purse.payments()) == 2


# lnd


def test_an_lnd_node_pays_and_tracks(booth: TollBooth) -> None:
    wallet = LndWallet(booth.buyer.address, tls_cert=booth.buyer.tls_cert_pem, macaroon=booth.buyer.macaroon_hex)
    payer = Payer(wallet)
    try:
        with client_of(booth, payer) as client:
            assert client.post(PATH, json=CHAT).status_code == 200
        (payment,) = payer.purse.payments()
        assert wallet.track(payment).preimage == payment.preimage
    finally:
        wallet.close()
    assert booth.settled() == 1


# The official SDKs


def test_openai_pays_streams_and_overrides_its_own_key(booth: TollBooth, payer: Payer) -> None:
    with openai.OpenAI(
        base_url=f"{booth.base_url}/v1", api_key="none", http_client=httpx2.Client(auth=payer.httpx2_auth())
    ) as client:
        stream = client.chat.completions.create(**CHAT, stream=True)
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in stream)) == 64 * 4
        assert client.embeddings.create(model="text-embedding-3-small", input="x").data
    assert booth.toll.authorizations[0] == "Bearer none"
    assert all(shown.startswith("L402 ") for shown in booth.toll.authorizations[1:])
    assert booth.settled() == 1


async def test_async_openai_and_anthropic_share_a_payer(booth: TollBooth, payer: Payer) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{booth.base_url}/v1", api_key="none", http_client=httpx2.AsyncClient(auth=payer.httpx2_auth())
    ) as chatgpt:
        assert (await chatgpt.chat.completions.create(**CHAT)).choices
    async with (
        anthropic.AsyncAnthropic(
            base_url=booth.base_url, api_key="none", http_client=httpx2.AsyncClient(auth=payer.httpx2_auth())
        ) as claude,
        claude.messages.stream(model="m", max_tokens=9, messages=CHAT["messages"]) as stream,
    ):
        assert (await stream.get_final_message()).usage.output_tokens == 9
    assert booth.settled() == 1


def test_anthropic_pays(booth: TollBooth, payer: Payer) -> None:
    with anthropic.Anthropic(
        base_url=booth.base_url, api_key="none", http_client=httpx2.Client(auth=payer.httpx2_auth())
    ) as client:
        assert client.messages.create(model="m", max_tokens=9, messages=CHAT["messages"]).usage.output_tokens == 9


async def test_google_genai_pays_sync_and_async(booth: TollBooth, payer: Payer) -> None:
    with httpx2.Client(auth=payer.httpx2_auth()) as blocking:
        async with httpx2.AsyncClient(auth=payer.httpx2_auth()) as asynchronous:
            options = types.HttpOptions(base_url=booth.base_url, httpx_client=blocking, httpx_async_client=asynchronous)
            client = genai.Client(api_key="none", http_options=options)
            whole = await asyncio.to_thread(client.models.generate_content, model="m", contents="Hello")
            assert len(whole.text or "") == 64 * 4
            stream = await client.aio.models.generate_content_stream(model="m", contents="Hello")
            assert len([chunk async for chunk in stream]) == 64
    assert booth.settled() == 1


def test_an_sdk_shows_the_refusal_and_does_not_try_again(booth: TollBooth) -> None:
    payer = Payer(HttpWallet(booth.wallet_url), caps=Caps(per_call_sats=1))
    with (
        openai.OpenAI(
            base_url=f"{booth.base_url}/v1", api_key="none", http_client=httpx2.Client(auth=payer.httpx2_auth())
        ) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        client.chat.completions.create(**CHAT)
    assert raised.value.response.headers["farebox-client-refusal"].startswith("call_cap")
    assert booth.toll.challenges == 1


def test_a_credential_bought_once_is_a_key_for_any_sdk(booth: TollBooth, tmp_path: Path) -> None:
    wallet = HttpWallet(booth.wallet_url)
    key = credential(booth.base_url, wallet, 100, purse_file=tmp_path / "purse.json")
    with openai.OpenAI(base_url=f"{booth.base_url}/v1", api_key=key) as client:
        assert client.chat.completions.create(**CHAT).choices
    assert credential(booth.base_url, wallet, 100, purse_file=tmp_path / "purse.json") == key
    booth.toll.swaps_invoice = True
    with pytest.raises(NotBought, match="bad_challenge"):
        credential(booth.base_url, wallet, 100)


# farebox pay


def pay(*arguments: str) -> int:
    return main(["pay", *arguments])


def test_farebox_pay_shows_the_price_pays_and_streams(booth: TollBooth, capfdbinary: Any) -> None:
    arguments = ["--wallet", booth.wallet_url, "-H", "x-sim-output-tokens: 3", "-d", json.dumps(CHAT)]
    assert pay(f"{booth.base_url}{PATH}", *arguments, "--yes") == 0
    out, err = capfdbinary.readouterr()
    assert json.loads(out)["usage"]["completion_tokens"] == 3
    assert b"price: 25 sats" in err
    assert pay(f"{booth.base_url}{PATH}", *arguments, "--yes", "--quiet") == 0
    assert capfdbinary.readouterr().err == b""


def test_farebox_pay_stops_at_max_sats(booth: TollBooth, capfdbinary: Any) -> None:
    assert pay(f"{booth.base_url}/v1/models", "--wallet", booth.wallet_url, "--max-sats", "24") == 2
    assert b"not paid" in capfdbinary.readouterr().err
    assert booth.settled() == 0


def test_farebox_pay_asks_for_what_it_may_pay(booth: TollBooth, capfdbinary: Any) -> None:
    booth.toll.sells_credit = True
    arguments = ["--wallet", booth.wallet_url, "--max-sats", "12", "--yes"]
    assert pay(f"{booth.base_url}/v1/models", *arguments) == 0
    out, err = capfdbinary.readouterr()
    assert json.loads(out)["object"] == "list" and b"price: 12 sats" in err
    assert (booth.toll.challenges, booth.settled()) == (2, 1)


@pytest.mark.parametrize(
    ("sells_credit", "least_sats", "more", "challenges"),
    [
        (False, 1, [], 1),
        (True, 20, [], 2),
        (True, 1, ["--deposit", "20"], 1),
        (True, 1, ["-H", "x-bolthub-credit: 20"], 1),
    ],
    ids=["other deposits unheard of", "no deposit so small", "deposit chosen", "deposit chosen otherwise"],
)
def test_farebox_pay_asks_once_for_less_and_never_pays_more(
    booth: TollBooth, capfdbinary: Any, sells_credit: bool, least_sats: int, more: list[str], challenges: int
) -> None:
    booth.toll.sells_credit, booth.toll.least_deposit_sats = sells_credit, least_sats
    arguments = ["--wallet", booth.wallet_url, "--max-sats", "12", "--yes", *more]
    assert pay(f"{booth.base_url}/v1/models", *arguments) == 2
    out, err = capfdbinary.readouterr()
    assert b"pay first" in out and b"not paid" in err
    assert (booth.toll.challenges, booth.settled()) == (challenges, 0)


async def test_a_call_in_a_loop_asks_for_what_its_cap_leaves(booth: TollBooth) -> None:
    booth.toll.sells_credit = True
    payer = Payer(HttpWallet(booth.wallet_url), caps=Caps(per_call_sats=2_000, per_day_sats=11))
    async with httpx2.AsyncClient(base_url=booth.base_url, auth=payer.httpx2_auth()) as client:
        assert (await client.post(PATH, json=CHAT)).status_code == 200
        assert [payment.amount_msat for payment in payer.purse.payments()] == [11_000]
        refused = await client.post(PATH, json=CHAT)  # one sat is left on the token, and none below the cap
        assert refused.headers["farebox-client-refusal"].startswith("day_cap")
        assert refused.json()["creditSats"] == 11


def test_farebox_pay_tells_what_is_wrong(booth: TollBooth, capfdbinary: Any) -> None:
    assert pay(booth.base_url) == 2
    assert pay(booth.base_url, "--wallet", booth.wallet_url, "-H", "nonsense") == 2
    assert pay(booth.base_url, "--wallet", booth.wallet_url, "-d", "@/no/such/file") == 2
    assert pay(f"{nowhere()}/", "--wallet", booth.wallet_url) == 2
    assert pay(f"{booth.base_url}/nowhere", "--wallet", booth.wallet_url, "--yes") == 1
    assert b"404" in capfdbinary.readouterr().err


def test_farebox_pay_uses_what_is_left_in_the_purse(booth: TollBooth, tmp_path: Path) -> None:
    arguments = ["--wallet", booth.wallet_url, "--purse", str(tmp_path / "p.json"), "--yes", "--quiet"]
    assert [pay(f"{booth.base_url}/v1/models", *arguments) for _ in range(2)] == [0, 0]
    assert booth.settled() == 1
