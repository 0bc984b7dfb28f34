"""Tells metrics and the access log of each finished request, in names and numbers only.

Requests are told in batches, about twenty times a second: the same work costs half when it is done for many at once
(the processor's caches hold it), and no request waits for it. Whoever reads the numbers or closes calls `flush` first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.core.call import Call
from gateway.core.finished import Finished
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

    def _tell(self, call: Call, trace: Trace, duration_s: float) -> None:
        admitted = trace.admitted
        if admitted is None:
            request = Finished(
                call.request_id, call.method, status=trace.status, reason=trace.reason, policy=self._policy(),
                duration_s=duration_s, upstream_s=trace.upstream_s, first_byte_s=trace.first_byte_s,
            )  # fmt: skip
        else:
            match, work = admitted.match, admitted.work
            request = Finished(
                call.request_id, call.method, match.route.path, match.upstream_name, match.dialect, match.operation,
                admitted.facts.model, trace.status, trace.reason, policy=self._policy(), duration_s=duration_s,
                upstream_s=trace.upstream_s, first_byte_s=trace.first_byte_s,
            )  # fmt: skip
            if work is not None:
                _settle(request, work)
        for sink in self._sinks:
            sink(request)


def _settle(request: Finished, work: Work) -> None:
    """What the money did."""
    request.account, request.hold, request.unit = work.account, work.hold_id, work.terms.unit
    request.state = work.state if work.acknowledged or not work.resolved else "spooled"
    request.amount, request.held, request.shortfall = work.cost, work.granted, work.shortfall
    request.basis, request.cut, request.usage = work.basis, work.cut, work.usage
    request.acknowledged = work.acknowledged
    if work.model:
        request.model = work.model
