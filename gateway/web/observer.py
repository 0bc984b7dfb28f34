"""Tells metrics and the access log of each finished request, in names and numbers only.

Requests are told in batches, about twenty times a second: the same work costs half when it is done for many at once
(the processor's caches hold it), and no request waits for it. Whoever reads the numbers or closes calls `flush` first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.core.call import Call
from gateway.core.finished import Finished
from gateway.flows.callers import Caller
from gateway.flows.settling import Work
from gateway.flows.trace import Trace

TELL_INTERVAL_S = 0.05


class RequestObserver:
    """The proxy's observer: hands a `Finished` to every sink. `policy` gives the digest of the policies in force."""

    def __init__(
        self, sinks: Sequence[Callable[[Finished], None]], *, now_s: Callable[[], float], policy: Callable[[], str]
    ) -> None:
        """`now_s` is the monotonic clock that `Call.started_s` was read from."""
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Call, Trace, float]] = []
        self._sinks = tuple(sinks)
        self._now_s = now_s
        self._policy = policy

    def finished(self, call: Call, trace: Trace) -> None:
        """One request is over, however it ended."""
        call.body = b""  # it may be large
        if not self._waiting:
            self._loop.call_later(TELL_INTERVAL_S, self.flush)
        self._waiting.append((call, trace, self._now_s() - call.started_s))

    def flush(self) -> None:
        """Tell what waits."""
        waiting, self._waiting = self._waiting, []
        for call, trace, duration_s in waiting:
            self._tell(call, trace, duration_s)

    def tell(self, request: Finished) -> None:
        """One request to our own paths is over."""
        request.policy = self._policy()
        for sink in self._sinks:
            sink(request)

    def _tell(self, call: Call, trace: Trace, duration_s: float) -> None:
        request = Finished(
            call.request_id, call.method, model=trace.model, status=trace.status, reason=trace.reason,
            account=trace.account, duration_s=duration_s, upstream_s=trace.upstream_s, first_byte_s=trace.first_byte_s,
        )  # fmt: skip
        match, caller, work = trace.match, trace.caller, trace.work
        if match is not None:
            request.route, request.upstream = match.route.path, match.upstream_name
            request.dialect, request.operation = match.dialect, match.operation
        if caller is not None:
            _belong(request, caller)
        if work is not None:
            _settle(request, work)
        self.tell(request)


def _belong(request: Finished, caller: Caller) -> None:
    """Whose it is."""
    request.account, request.org = caller.account, caller.key.org_id
    request.key_id, request.user = caller.key.key_id, caller.person_id


def _settle(request: Finished, work: Work) -> None:
    """What the money did."""
    request.account, request.hold, request.unit = work.account, work.hold_id, work.terms.unit
    request.state = work.state if work.acknowledged or not work.resolved else "spooled"
    request.amount, request.held, request.shortfall = work.cost, work.granted, work.shortfall
    request.basis, request.cut, request.usage = work.basis, work.cut, work.usage
    request.acknowledged = work.acknowledged
    if work.model:
        request.model = work.model
