"""A realtime session between a scripted client and a scripted upstream: time, the store, and who is told what."""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType
from typing import Any

import pytest

from gateway.core.errors import Unavailable
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.holds import Extended, Refusal, Refused, Renewed
from gateway.core.money import NO_RATE, Unit
from gateway.core.price_cards import Band, PriceCard, TokenPrices
from gateway.core.realtime import MOST_RESPONSES_AT_ONCE, RealtimeMeter
from gateway.core.terms import HoldPolicy, Terms
from gateway.flows.realtime_session import RealtimeSession
from gateway.flows.settling import Work

# A nanousd a token of any kind.
PRICES = TokenPrices(*([1_000] * 14))
BANDS = (Band(-1, PRICES),)
CARD = PriceCard(provider="p", model="m", bands=BANDS, bounds=MappingProxyType({"": BANDS}))
FACTS = RequestFacts("m", True, input_bound_tokens=100, audio_output=True, session=True)
POLICY = HoldPolicy(unstreamed_ceiling_tokens=50, stream_ceiling_tokens=5_000)
ASK = '{"type":"response.create","event_id":"mine"}'


def letters(text: str) -> int:
    return len(text)


class Side:
    """One side of the session: what it says is put in, what it was told is kept."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.told: list[str | bytes] = []
        self.blocked_since: float | None = None
        self.closed: tuple[int, str] | None = None
        self.aborted = self.gone = self.stuck = False
        self.subprotocol: str | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.close_code: int | None = None
        self.close_reason = ""

    async def receive(self) -> str | bytes | None:
        return await self.says.get()

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True


class Upstream(Side):
    async def send(self, frame: str | bytes) -> None:
        self.told.append(frame)


class Client(Side):
    async def send(self, frame: str | bytes) -> bool:
        if self.stuck:
            await asyncio.Event().wait()
        self.told.append(frame)
        return not self.gone

    def errors(self) -> list[str]:
        events = [json.loads(frame) for frame in self.told]
        return [event["error"]["code"] for event in events if event["type"] == "error"]

    def message(self) -> str:
        return str(json.loads(self.told[-1])["error"]["message"])


class Credit:
    """A ledger with one hold and `available` besides it; a limit lets the hold have `most`."""

    def __init__(self, held: int, available: int) -> None:
        self.held, self.available = held, available
        self.earned: list[int] = []
        self.away = self.closed = False
        self.most = 2**53

    async def extend_to(self, _hold_id: str, total: int) -> Extended | Refused:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        if self.closed:
            return Refused(Refusal.NOT_OPEN)
        more = min(max(min(total, self.most) - self.held, 0), self.available)
        self.held, self.available = self.held + more, self.available - more
        return Extended(self.held, self.available)

    async def checkpoint(self, _hold_id: str, earned: int, *, outcome: bytes) -> Renewed | Refused:
        if self.away:
            raise Unavailable("away")
        self.earned.append(earned)
        self.outcome = json.loads(outcome)
        return Refused(Refusal.NOT_OPEN) if self.closed else Renewed(earned)


class Scene:
    """A running session."""

    def __init__(self, *, held: int = 150, available: int = 0) -> None:
        self.client, self.upstream, self.credit = Client(), Upstream(), Credit(held, available)
        terms = Terms(CARD, FACTS, Unit.NANOUSD, NO_RATE)
        self.work = Work("req_001", "ho_001", "acct_00", terms, held, available)
        meter = RealtimeMeter(
            facts=FACTS, card=CARD, limits=RequestLimits(), response_tokens=50, counter=letters, card_of=lambda _: None
        )
        self.session = RealtimeSession(
            client=self.client, socket=self.upstream, meter=meter, ledger=self.credit,  # type: ignore[arg-type]
            work=self.work, policy=POLICY,
        )  # fmt: skip
        self.loop = asyncio.get_running_loop()
        self.running = asyncio.ensure_future(self.session.run())

    def tick(self, after_s: float) -> None:
        self.session.tick(self.loop.time() + after_s, read_timeout_s=0, stalled_reader_s=60)

    def event(self, kind: str, **members: Any) -> None:
        self.upstream.says.put_nowait(json.dumps({"type": kind, **members}))

    async def until_told(self, side: Side, number: int) -> None:
        async with asyncio.timeout(5):
            while len(side.told) < number:
                await asyncio.sleep(0)

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.running
            await self.session.settle_tasks()
            await self.session.last_words()
        assert self.upstream.aborted


async def test_checkpoints_tell_what_was_earned_and_at_most_what_is_held() -> None:
    scene = Scene()
    usage = {"input_tokens": 20, "output_tokens": 10_000}
    scene.event("response.done", response={"id": "r", "usage": usage})
    await scene.until_told(scene.client, 1)
    await scene.session.settle_tasks()
    assert scene.credit.earned == [150]
    assert scene.credit.outcome["usage"]["input_tokens"] == 20 and scene.credit.outcome["basis"] == "reported"
    scene.client.says.put_nowait(None)
    await scene.end()
    assert scene.client.closed is None
    scene.tick(1_000)
    assert scene.session.failure is None


async def test_a_session_is_renewed_in_time_and_ends_when_it_cannot_be() -> None:
    scene = Scene()
    scene.tick(0.1)
    assert not scene.credit.earned
    scene.tick(5)
    await scene.session.settle_tasks()
    assert scene.credit.earned == [0]
    scene.credit.away = True
    scene.tick(10)
    await scene.session.settle_tasks()
    scene.tick(5 + POLICY.hold_lifetime_s)
    await scene.end()
    assert scene.session.failure == "lease" and scene.client.closed == (1001, "lease")


async def test_a_hold_that_was_resolved_elsewhere_ends_the_session() -> None:
    scene = Scene()
    scene.credit.closed = True
    scene.tick(5)
    await scene.end()
    assert scene.session.failure == "hold_ended"


async def test_a_session_ends_before_its_hold_must() -> None:
    scene = Scene()
    for after_s in range(20, int(POLICY.hold_greatest_age_s) - 40, 20):
        scene.tick(after_s)
        await scene.session.settle_tasks()
    assert not scene.running.done()
    scene.tick(POLICY.hold_greatest_age_s - 29)
    await scene.end()
    assert scene.client.closed is not None and scene.client.closed[0] == 1001


async def test_a_client_that_takes_nothing_is_given_up_and_told_nothing() -> None:
    scene = Scene()
    scene.client.blocked_since = scene.loop.time() - 61
    scene.tick(0)
    await scene.end()
    assert scene.session.failure == "client_gone" and scene.client.closed is None


async def test_a_client_that_has_gone_ends_the_session_at_its_next_frame() -> None:
    scene = Scene()
    scene.client.gone = True
    scene.event("session.created")
    await scene.end()
    assert scene.session.failure is None and scene.client.closed is None


async def test_without_the_store_no_response_begins() -> None:
    scene = Scene(held=150, available=1_000)
    scene.client.says.put_nowait(ASK)
    await scene.until_told(scene.upstream, 1)
    scene.credit.away = True
    scene.client.says.put_nowait(ASK)
    await scene.end()
    assert len(scene.upstream.told) == 1 and scene.session.failure == "store"


async def test_a_refused_extension_is_the_end_of_the_credit() -> None:
    scene = Scene(held=10, available=1_000)
    scene.credit.closed = True
    scene.client.says.put_nowait(ASK)
    await scene.end()
    assert scene.session.cut == "credit" and scene.client.errors() == ["payment_required"]
    assert scene.client.closed == (1008, "payment_required") and not scene.upstream.told


async def test_the_policys_ceiling_ends_a_session_as_a_cap() -> None:
    scene = Scene(held=150, available=0)
    scene.event("response.done", response={"id": "r", "usage": {"input_tokens": 6_000, "output_tokens": 0}})
    await scene.until_told(scene.client, 1)
    scene.client.says.put_nowait(ASK)
    await scene.end()
    assert scene.session.cut == "cap"


async def test_an_agreed_maximum_ends_a_session_as_a_cap_and_says_so() -> None:
    scene = Scene(held=100, available=5_000)
    scene.credit.most = scene.work.ceiling = 100
    scene.client.says.put_nowait(ASK)
    await scene.end()
    assert scene.session.cut == "cap" and scene.client.closed == (1008, "payment_required")
    assert "connect again" in scene.client.message() and "credit" not in scene.client.message()


async def test_a_budget_that_ends_a_session_is_named() -> None:
    scene = Scene(held=100, available=5_000)
    scene.credit.most = 120
    scene.client.says.put_nowait(ASK)
    await scene.end()
    assert scene.session.cut == "budget" and scene.client.errors() == ["payment_required"]
    assert "budget" in scene.client.message()


async def test_too_many_responses_at_once_are_refused_and_the_session_goes_on() -> None:
    scene = Scene(held=100_000)
    for _ in range(MOST_RESPONSES_AT_ONCE + 1):
        scene.client.says.put_nowait(ASK)
    await scene.until_told(scene.client, 1)
    assert len(scene.upstream.told) == MOST_RESPONSES_AT_ONCE and scene.client.errors() == ["rate_limited"]
    scene.session.stop("enough")
    scene.session.stop("again")
    await scene.end()
    assert scene.session.failure == "enough"


async def test_silence_that_would_be_answered_ends_where_the_credit_does() -> None:
    scene = Scene()
    scene.event("session.created", session={"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5_000}})
    scene.event("response.done", response={"id": "r", "usage": {"input_tokens": 20, "output_tokens": 10}})
    await scene.end()
    assert scene.session.cut == "credit"


async def test_a_frame_that_cannot_be_relayed_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()

    async def broken() -> str:
        raise RuntimeError("broken")

    scene.upstream.receive = broken  # type: ignore[method-assign]
    await scene.end()
    assert scene.session.failure == "unreadable"
    assert "could not be relayed" in caplog.text


async def test_last_words_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flows.realtime_session.RENEWAL_MARGIN_S", 0.05)
    scene = Scene(held=10)
    scene.client.stuck = True
    scene.client.says.put_nowait(ASK)
    await scene.end()
    assert scene.client.closed is None


async def test_a_model_without_a_price_is_not_passed_on_and_the_rest_is() -> None:
    scene = Scene()
    wanted = {"type": "session.update", "session": {"input_audio_transcription": {"model": "no"}}}
    for frame in (json.dumps(wanted), '{"type":"input_audio_buffer.clear"}'):
        scene.client.says.put_nowait(frame)
    await scene.until_told(scene.upstream, 1)
    assert scene.upstream.told == ['{"type":"input_audio_buffer.clear"}'] and scene.client.errors() == ["unknown_model"]
    scene.client.says.put_nowait(None)
    await scene.end()


async def test_a_running_response_is_paid_and_may_end_before_the_session_does() -> None:
    scene = Scene(held=350)
    for _ in range(3):
        scene.client.says.put_nowait(ASK)
    await scene.until_told(scene.client, 1)
    scene.event("response.created", response={"id": "r"})
    scene.event("response.text.delta", response_id="r", delta="x" * 10)
    scene.event("response.done", response={"id": "r", "usage": {"input_tokens": 20, "output_tokens": 10}})
    await scene.until_told(scene.client, 4)
    scene.event("response.created", response={"id": "s"})
    scene.event("response.done", response={"id": "s", "usage": {"input_tokens": 20, "output_tokens": 10}})
    await scene.end()
    assert scene.client.errors() == ["payment_required"] and scene.client.closed == (1008, "payment_required")


async def test_an_unasked_response_that_cannot_be_paid_is_not_passed_on() -> None:
    scene = Scene(held=10)
    scene.event("response.created", response={"id": "r"})
    await scene.end()
    assert scene.client.errors() == ["payment_required"] and len(scene.client.told) == 1


@pytest.mark.parametrize(
    ("code", "told"), [(1000, 1000), (4_000, 4_000), (None, 1011), (1005, 1011), (2_999, 1011), (5_000, 1011)]
)
async def test_the_upstreams_close_is_told_where_it_may_be(code: int | None, told: int) -> None:
    scene = Scene()
    scene.upstream.close_code, scene.upstream.close_reason = code, ""
    scene.upstream.says.put_nowait(None)
    await scene.end()
    assert scene.client.closed is not None and scene.client.closed[0] == told
    assert (scene.session.failure is None) == (told == code)


async def test_two_that_need_money_at_once_extend_the_hold_once() -> None:
    scene = Scene(held=10, available=10_000)
    scene.event("response.created", response={"id": "r"})
    scene.client.says.put_nowait(ASK)
    await scene.until_told(scene.upstream, 1)
    await scene.until_told(scene.client, 1)
    assert scene.credit.held >= 300 and scene.work.granted == scene.credit.held
    scene.session.stop("enough")
    await scene.end()
