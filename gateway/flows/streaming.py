"""A stream that is metered while it flows: never a token above what was paid, and no waiting while the money lasts.

Every read of the upstream passes `_arrive`, called from the socket itself: the reader tells how many output tokens the
stream has brought at most, and while the hold has bought as many, the piece goes out at once. Near the end of the hold
more is reserved ahead of need; where the money ends, the piece is cut to the events that still fit and the upstream is
closed.

Invariants: nothing is forwarded that the hold does not pay, nor beyond its certain life (`checkpoints.py`); `finished`
is set exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.core.errors import Unavailable
from gateway.core.metering import StreamReader
from gateway.core.request_record import outcome_json
from gateway.core.terms import HoldPolicy, Terms
from gateway.core.usage import Basis, Usage
from gateway.flows.asking import Asker
from gateway.flows.checkpoints import Checkpoints
from gateway.flows.delivered import Delivered
from gateway.flows.stream_ends import Sink, Source, why_broken
from gateway.flows.stream_purse import StreamPurse
from gateway.ports import Ledger

log = logging.getLogger("farebox.relay")

# Between two attempts to reserve while the store is away; each takes seconds by itself where nobody answers.
RESERVE_AGAIN_S = 0.25


class MeteredStream:
    """One running stream. After `finished`: `cut` (None, "credit", "budget" or "cap"), `tail`, and `failure`: None, or
    one word for why it broke off."""

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        reader: StreamReader,
        ledger: Ledger,
        hold_id: str,
        terms: Terms,
        granted: int,
        policy: HoldPolicy,
        count_input: Callable[[], int],
        bound_input: Callable[[], int],
        renewed_at_s: float,
        drain_on_disconnect: bool = False,
        has_unseen_input: bool = False,
        ceiling: int | None = None,
        asker: Asker | None = None,
    ) -> None:
        self.reader = reader
        self.cut: str | None = None
        self.failure: str | None = None
        self.tail = b""
        self._source, self._sink, self._hold_id = source, sink, hold_id
        self._purse = StreamPurse(
            ledger, hold_id, policy, terms=terms, granted=granted, ceiling=ceiling, bound_input=bound_input
        )
        self._delivered = Delivered(reader, count_input=count_input, has_unseen_input=has_unseen_input)
        self._drain_on_disconnect = drain_on_disconnect
        self._asker = asker
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._extending: asyncio.Task[None] | None = None
        self._held: bytes | None = None  # a piece that waits for money
        self._upstream_over = self._gone = False
        self.last_data_at = self._loop.time()
        # The first one, at the first tick, is the price of the input.
        self._checkpoints = Checkpoints(
            ledger, hold_id, policy, renewed_at_s=renewed_at_s, first_at_s=self.last_data_at,
            earned=self._told, lost=self.stop,
        )  # fmt: skip

    @property
    def terms(self) -> Terms:
        """The request's prices, its input counted exactly where that was needed."""
        return self._purse.terms

    @property
    def granted(self) -> int:
        """What the hold has."""
        return self._purse.granted

    def start(self) -> None:
        """Begin to forward. Call once. Nothing is read for a client that went before anything could be sent."""
        if self.finished.done():
            return
        self._source.stream(self._arrive, self._upstream_ended)

    # What the upstream brings.

    def _arrive(self, data: bytes) -> None:
        self.last_data_at = self._loop.time()
        try:
            piece = self.reader.feed(data)
            if piece.tail:
                self.tail += piece.tail
            if piece.forward:
                self._offer(piece.forward)
        except Exception:  # raised into the socket's callback it would be lost, and the hold with it
            log.exception("hold %s: the stream could not be read", self._hold_id)
            self.stop("unreadable")

    def _offer(self, forward: bytes) -> None:
        if self._held is not None:  # cannot happen while the source is paused, but must not be lost if it does
            self._held += forward
            return
        bound, purse = self.reader.output_bound(), self._purse
        if bound > purse.paid_tokens and self.reader.count() > purse.paid_tokens:
            self._held = forward
            self._source.pause()
            self._extend()
            return
        if self.last_data_at > self._checkpoints.live_until_s:
            self.reader.fit(forward, 0)
            self.stop("lease")
            return
        self._forward(forward)
        if bound > purse.paid_tokens - purse.step_tokens // 2 and not purse.exhausted and self._extending is None:
            self._extend_if_near()

    def _forward(self, forward: bytes) -> None:
        if not self._gone and not self._sink.write(forward):
            self._source.pause()

    def drained(self) -> None:
        """The client has caught up."""
        if self._held is None:
            self._resume()

    def _resume(self) -> None:
        """The upstream may go on; while it could not, its silence was none."""
        self.last_data_at = self._loop.time()
        self._source.resume()

    def client_gone(self) -> None:
        """The client has hung up: it pays for what was delivered, or for all where the upstream bills regardless."""
        self._gone = True
        if self._drain_on_disconnect or self._delivered.owes_unseen(self.terms.facts):
            self.drained()
            return
        if self._held is not None:
            self.reader.fit(self._held, 0)
            self._held = None
        self._source.abort()
        self._finish()

    def _upstream_ended(self) -> None:
        self._upstream_over = True
        if self._held is None:
            self._close_reader()

    def _close_reader(self) -> None:
        piece = self.reader.close()
        self.tail += piece.tail
        if piece.forward:
            self._offer(piece.forward)
            if self._held is not None or self.finished.done():
                return
        if not self._source.complete:
            self.failure = why_broken(self._source.failure)
            log.info("hold %s: %s", self._hold_id, self._source.failure or "the upstream broke off")
        self._finish()

    # Money.

    def _extend_if_near(self) -> None:
        # The count is dear: not where everything that the request allows is reserved already.
        paid, step = self._purse.paid_tokens, self._purse.step_tokens
        if paid < self._purse.most_tokens and self.reader.count() > paid - step // 2:
            self._extend()

    def _extend(self) -> None:
        if self._extending is None:
            self._extending = self._loop.create_task(self._guarded(self._extend_hold()))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever goes wrong beside the stream ends it: a client must not wait for money that nobody fetches."""
        try:
            await work
        except Unavailable:
            if self._held is not None and not self.finished.done():
                self._cut_held("store")
        except Exception:
            log.exception("hold %s: the stream could not be metered", self._hold_id)
            self.stop("unmetered")

    async def _extend_hold(self) -> None:
        """Reserve the next step, then let go what waited for it, or cut. Errors: Unavailable."""
        purse = self._purse
        try:
            if purse.paid_tokens < purse.most_tokens:
                await self._reserve_in_time(purse.step(self.reader.count()))
            if self._held is not None and self.reader.count() > purse.paid_tokens:
                purse.count_input_exactly()
        finally:
            self._extending = None
        self._release_held()

    async def _reserve_in_time(self, total: int) -> None:
        """A store that is away for a moment ends no stream: a piece that waits for money waits for as long as the hold
        certainly lives. Errors: Unavailable."""
        while True:
            try:
                if not await self._purse.reserve(total):
                    self.stop("hold_ended")
                return
            except Unavailable:
                lives = self._loop.time() < self._checkpoints.live_until_s
                if self._held is None or self.finished.done() or not lives:
                    raise
            await asyncio.sleep(RESERVE_AGAIN_S)

    def _release_held(self) -> None:
        held = self._held
        if held is None or self.finished.done():
            return
        if self.reader.count() > self._purse.paid_tokens:
            self._ask_or_cut(self._purse.why_spent())
            return
        self._held = None
        self._forward(held)
        if self._upstream_over:
            self._close_reader()
        elif self._sink.blocked_since is None or self._gone:
            self._resume()

    def _ask_or_cut(self, why: str) -> None:
        asker = self._asker
        asks = asker is not None and not self._gone and asker.asks_about(why)
        if asker is None or not asks or not self._purse.a_yes_helps(why, self.reader.count()):
            self._cut_held(why)
        elif self._asking is None:
            self._asking = self._loop.create_task(self._guarded(self._ask(asker, why)))

    async def _ask(self, asker: Asker, why: str) -> None:
        """The stream stands still while somebody is asked for more. Yes: it goes on where it stood; no, or silence: it
        ends here. Errors: Unavailable."""
        purse = self._purse
        purse.note_question(why)
        if not await purse.shrink(self.earned() + asker.margin(purse.terms)):
            self.stop("hold_ended")
            return
        want = purse.greatest_step(self.reader.count())
        agreed = await asker.ask(current_cost=self.earned(), granted=purse.granted, needed=want, reason=why)
        self._asking = None
        if self.finished.done():
            return
        if agreed is None:
            self._cut_held(why)
            return
        purse.agree(agreed)
        await self._reserve_in_time(want)
        self._release_held()

    def _cut_held(self, why: str) -> None:
        held, self._held = self._held or b"", None
        fits = self.reader.fit(held, self._purse.paid_tokens)
        if fits and not self._gone:
            self._sink.write(fits)
        self.stop(why)

    def stop(self, why: str) -> None:
        """End the stream here: the upstream at once, the client by the dialect's own closing events."""
        if self.finished.done():
            return
        self._source.abort()
        if why in {"credit", "budget", "cap", "limit"}:
            self.cut = "cap" if why == "limit" else why
            self.usage()  # the closing events tell it, with the input as counted
            self.tail = self.reader.closing()
        else:
            self.failure = why
            self.tail = b""
        self._finish()

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    # Time.

    def tick(self, now: float, *, read_timeout_s: float, stalled_reader_s: float) -> None:
        """Called about once a second while the stream runs: checkpoints, stalls, readers that take nothing."""
        if self.finished.done():
            return
        # A client that has gone blocks nothing: where its stream goes on, that is for what is owed.
        blocked_since = None if self._gone else self._sink.blocked_since
        if blocked_since is not None and now - blocked_since > stalled_reader_s:
            self._sink.cut_off()
            self.client_gone()
            return
        if blocked_since is None and self._held is None and now - self.last_data_at > read_timeout_s:
            self.stop("upstream_stalled")
            return
        if self._asking is not None and self._asker is not None and not self._gone:
            waiting = self._asker.keep_alive(now) if self.reader.between_events else b""
            if waiting:
                self._sink.write(waiting)
        self._checkpoints.tick(now)

    def earned(self) -> int:
        """What was delivered so far is worth, at most what is held."""
        return self._told()[0]

    def _told(self) -> tuple[int, bytes]:
        """For a checkpoint."""
        usage, basis = self.usage()
        return min(self.terms.amount(usage), self.granted), outcome_json(usage, basis)

    def usage(self) -> tuple[Usage, Basis]:
        """What the stream used so far: reported where the upstream has said so, else counted."""
        return self._delivered.usage(self.terms.facts, self._held)

    async def settle_tasks(self) -> None:
        """Wait until no extension or checkpoint is under way, so that the post is the last word. Call once."""
        if self._asking is not None:
            self._asking.cancel()
        for task in (self._extending, self._asking):
            if task is not None:
                await asyncio.wait([task])
        await self._checkpoints.settled()
        self._checkpoints.let_go()
