"""A realtime session while it runs: two pumps, one meter, one hold.

Invariants: no frame that may begin a response goes up before what it may cost is held; nothing passes after the last
acknowledged renewal plus the hold's lifetime less a margin; `run` ends exactly once, and then nothing more is relayed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.core.errors import Unavailable
from gateway.core.holds import Extended, Refusal
from gateway.core.money import amount_of
from gateway.core.realtime import RealtimeMeter
from gateway.core.realtime_events import RealtimeEvent, error_event, event_id_of, read_event
from gateway.core.request_record import outcome_json
from gateway.core.terms import HoldPolicy
from gateway.flows.checkpoints import RENEWAL_MARGIN_S, Checkpoints
from gateway.flows.settling import Work
from gateway.ports import Ledger, UpstreamSocket

log = logging.getLogger("farebox.relay")

# The session ends so long before its hold must.
AGE_MARGIN_S = 30.0
# RFC 6455: a policy was broken; the server goes away; something went wrong here.
POLICY, GOING_AWAY, FAILED = 1008, 1001, 1011
_PASSED_ON = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
_WHY_CUT = {
    "credit": "the credit does not cover another response: buy more, and connect again",
    "budget": "a budget does not allow another response",
    "cap": "another response may cost more than this session was allowed: connect again",
}


class Client(Protocol):
    """The client's side of the socket."""

    blocked_since: float | None

    async def receive(self) -> str | bytes | None: ...
    async def send(self, frame: str | bytes) -> bool: ...
    async def close(self, code: int, reason: str) -> None: ...


class RealtimeSession:
    """One running session. After `run`: `cut` (None, "credit", "budget" or "cap") and `failure` say how it ended."""

    def __init__(
        self,
        *,
        client: Client,
        socket: UpstreamSocket,
        meter: RealtimeMeter,
        ledger: Ledger,
        work: Work,
        policy: HoldPolicy,
    ) -> None:
        self.meter = meter
        self.cut: str | None = None
        self.failure: str | None = None
        self._client, self._socket, self._ledger, self._work, self._policy = client, socket, ledger, work, policy
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._granted = work.granted
        self._reserving = asyncio.Lock()  # both pumps may need money at once
        self._started_at = self._loop.time()
        self._checkpoints = Checkpoints(
            ledger, work.hold_id, policy, renewed_at_s=work.renewed_at_s or self._started_at,
            first_at_s=self._started_at + policy.checkpoint_interval_s, earned=self._told_so_far, lost=self.stop,
        )  # fmt: skip
        self._code, self._reason = 1000, ""  # how the client is told
        self._cause: str | None = None
        self._client_gone = False
        self._is_last = False  # another response was refused for want of money; those that run are paid
        self._short_of = "credit"
        self._told = 0  # events of our own
        self._most = work.terms.bound(policy.stream_ceiling_tokens)

    async def run(self) -> None:
        """Relay until one side ends, the money does, or `stop` is called."""
        pumps = [asyncio.ensure_future(self._guarded(pump)) for pump in (self._pump_up, self._pump_down)]
        try:
            await self._ended
        finally:
            self._socket.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _guarded(self, pump: Callable[[], Awaitable[None]]) -> None:
        try:
            await pump()
        except Unavailable:
            self.stop("store")
        except Exception:
            log.exception("hold %s: the session could not be relayed", self._work.hold_id)
            self.stop("unreadable")

    # The two directions.

    async def _pump_up(self) -> None:
        while not self._ended.done():
            frame = await self._client.receive()
            if frame is None:
                self._gone()
                return
            event = read_event(frame)
            if await self._may_go_up(event):
                await self._socket.send(frame)

    async def _may_go_up(self, event: RealtimeEvent) -> bool:
        """Hold what the event may cost. False when it must not go up: the client is told why."""
        unpriced = self.meter.unpriced(event)
        if unpriced is not None:
            message = f"the model {unpriced!r} has no price here and is not served"
            await self._tell_error(message, code="unknown_model", event=event)
            return False
        self.meter.hear(event)
        if not self.meter.may_begin(event):
            return True
        if event.type == "response.create" and self.meter.is_crowded:
            message = "too many responses run at once; wait for response.done"
            await self._tell_error(message, code="rate_limited", event=event)
            return False
        while self.amount(self.meter.needed(event)) > self._granted:  # another may have begun while this one waited
            if not await self._reserve(self.meter.needed(event)):
                self._cause = event_id_of(event)
                await self._refuse_further()
                return False
        self.meter.ask(event)
        return True

    async def _refuse_further(self) -> None:
        """The money does not cover another response. Those that run are paid, and may end."""
        if not self.meter.is_busy:
            self._cut()
        elif not self._is_last:
            self._is_last = True
            await self._tell_money()

    async def _pump_down(self) -> None:
        while not self._ended.done():
            frame = await self._socket.receive()
            if frame is None:
                self._upstream_ended()
                return
            event = read_event(frame)
            began_unasked = self.meter.tell(event)
            if (began_unasked or self.meter.exceeded()) and not await self._reserve(self.meter.committed()):
                self.meter.take_back(event)
                self._cut()
                return
            if not await self._client.send(frame):
                self._gone()
                return
            if event.type == "response.done":
                await self._response_done()

    async def _response_done(self) -> None:
        if not self._ended.done():
            self._checkpoints.write(self._loop.time())
        over = self._is_last and not self.meter.is_busy
        if over or (self.meter.answers_silence and not await self._reserve(self.meter.needed())):
            self._cut()

    def _upstream_ended(self) -> None:
        code, reason = self._socket.close_code, self._socket.close_reason
        if code in _PASSED_ON or (code is not None and 3000 <= code < 5000):
            self._code, self._reason = code, reason
        else:
            self._code = FAILED
            self._reason = self.failure = "upstream_closed"
        self._end()

    # Money.

    def amount(self, picousd_times_margin: int) -> int:
        """In the payer's unit, rounded up once."""
        terms = self._work.terms
        return amount_of(picousd_times_margin, margin_ppm=1, unit=terms.unit, rate=terms.rate)

    async def _reserve(self, picousd_times_margin: int) -> bool:
        """Have so much held. False: it cannot be."""
        total = self.amount(picousd_times_margin)
        if total <= self._granted:
            return True
        async with self._reserving:
            if total <= self._granted:
                return True
            answer = await self._ledger.extend_to(self._work.hold_id, total)
            if isinstance(answer, Extended):
                self._granted = self._work.granted = max(answer.granted, self._granted)
                limited = answer.available > 0  # money was left: it was a scope that allowed no more
            else:
                limited = answer.reason in {Refusal.LIMIT, Refusal.PAUSED}
        if total <= self._granted:
            return True
        agreed = self._work.ceiling
        if total > self._most or (agreed is not None and self._granted >= agreed):
            self._short_of = "cap"
        else:
            self._short_of = "budget" if limited else "credit"
        return False

    def _gone(self) -> None:
        self._client_gone = True
        self._end()

    def _cut(self) -> None:
        if not self._ended.done():
            self.cut = self._short_of
            self._code, self._reason = POLICY, "payment_required"
            self._end()

    def stop(self, why: str) -> None:
        """End the session here."""
        if not self._ended.done():
            self.failure = why
            self._code, self._reason = GOING_AWAY, why
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def last_words(self) -> None:
        """Tell the client how it ended, in the interface's own shape, and close."""
        if self._client_gone:
            return
        try:
            async with asyncio.timeout(RENEWAL_MARGIN_S):
                if self.cut is not None and not self._is_last:
                    await self._tell_money()
                await self._client.close(self._code, self._reason)
        except (TimeoutError, OSError):
            log.info("hold %s: the client did not take the end of its session", self._work.hold_id)

    async def _tell_money(self) -> None:
        why = _WHY_CUT[self._short_of]
        await self._tell(why, code="payment_required", kind="insufficient_quota", cause=self._cause)

    async def _tell_error(self, message: str, *, code: str, event: RealtimeEvent) -> None:
        await self._tell(message, code=code, kind="invalid_request_error", cause=event_id_of(event))

    async def _tell(self, message: str, *, code: str, kind: str, cause: str | None) -> None:
        self._told += 1
        event_id = f"event_{self._work.request_id}_{self._told}"
        await self._client.send(error_event(message=message, code=code, kind=kind, event_id=event_id, cause=cause))

    # Time.

    def tick(self, now: float, *, read_timeout_s: float, stalled_reader_s: float) -> None:
        """Called about once a second while the session runs: checkpoints, its age, readers that take nothing. A session
        may be silent for as long as it likes."""
        if self._ended.done():
            return
        blocked_since = self._client.blocked_since
        if blocked_since is not None and now - blocked_since > stalled_reader_s:
            self._client_gone = True
            self.stop("client_gone")
        elif now > self._checkpoints.live_until_s:
            self.stop("lease")
        elif now > self._started_at + self._policy.hold_greatest_age_s - AGE_MARGIN_S:
            self.stop("greatest_age")
        else:
            self._checkpoints.tick(now)

    def _told_so_far(self) -> tuple[int, bytes]:
        """For a checkpoint."""
        earned = min(self.amount(self.meter.earned), self._granted)
        return earned, outcome_json(self.meter.usage, self.meter.basis, model=self.meter.model)

    async def settle_tasks(self) -> None:
        """Wait until no checkpoint is under way, so that the post is the last word."""
        await self._checkpoints.settled()
