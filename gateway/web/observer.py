"""Tells metrics and the access log of each finished request, in names and numbers only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.call import Call
from gateway.core.finished import Finished
from gateway.flows.proxying import Trace


class RequestObserver:
    """The proxy's observer: hands a `Finished` to every sink. `policy` gives the digest of the policies in force."""

    def __init__(
        self, sinks: Sequence[Callable[[Finished], None]], *, now_s: Callable[[], float], policy: Callable[[], str]
    ) -> None:
        """`now_s` is the monotonic clock that `Call.started_s` was read from."""
        self._sinks = tuple(sinks)
        self._now_s = now_s
        self._policy = policy

    def finished(self, call: Call, trace: Trace) -> None:
        """One request is over, however it ended."""
        request = Finished(
            call.request_id, call.method, status=trace.status, reason=trace.reason, policy=self._policy(),
            duration_s=self._now_s() - call.started_s, upstream_s=trace.upstream_s, first_byte_s=trace.first_byte_s,
        )  # fmt: skip
        admitted = trace.admitted
        if admitted is not None:
            match = admitted.match
            request.route, request.upstream = match.route.path, match.upstream_name
            request.dialect, request.operation = match.dialect.value, match.operation.value
            request.model = admitted.facts.model
            work = admitted.work
            if work is not None:
                request.account, request.hold, request.unit = work.account, work.hold_id, work.unit.value
                request.state = work.state if work.acknowledged or not work.resolved else "spooled"
                request.amount, request.held, request.shortfall = work.cost, work.granted, work.shortfall
                request.basis, request.cut, request.usage = work.basis.value, work.cut, work.usage
                request.acknowledged = work.acknowledged
                request.model = work.model or request.model
        for sink in self._sinks:
            sink(request)
