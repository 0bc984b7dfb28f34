"""One relayed request from its hold to its resolution: the way of the money is one visible try/finally.

admit (hold) -> open the upstream -> relay the answer, metered -> post or void. Whatever happens in between - the client
gone, the upstream broken, the task cancelled - the hold is resolved once: at what was delivered, or at nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from gateway.core.answer_head import AnswerKind, kind_of
from gateway.core.answers.registry import reader_for
from gateway.core.call import Call
from gateway.core.cost_comment import place_comment, sse_comment
from gateway.core.credentials import Credential
from gateway.core.errors import UpstreamFailed
from gateway.core.headers import Headers, header_value, headers_down, speaks
from gateway.core.money import money_header, money_object
from gateway.core.operations import Dialect, Operation
from gateway.core.routing import Match
from gateway.core.usage import Basis, Usage
from gateway.core.usage_tail import UsageTail
from gateway.flows.admission import Admission, Admitted
from gateway.flows.counting import Counting
from gateway.flows.passing import Outlet, pass_through
from gateway.flows.renewing import Renewals
from gateway.flows.settling import Settler, Work
from gateway.flows.stream_ends import why_broken
from gateway.flows.streaming import MeteredStream
from gateway.flows.trace import Trace
from gateway.flows.upstream_request import upstream_request
from gateway.ports import Answer, Ledger, Upstreams

# The last event of a stream waits for the post, at most this long.
LAST_EVENT_WAIT_S = 0.05
# Every answer is compared with it: an attribute of an Enum class takes 0.2 us to find.
_WHOLE = AnswerKind.WHOLE


class Streams(Protocol):
    """Keeps time for the streams that run: calls `tick` on each about once a second."""

    def add(self, stream: MeteredStream, read_timeout_s: float) -> None: ...
    def discard(self, stream: MeteredStream) -> None: ...


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Limits of the relay that come from the configuration, per upstream where a mapping."""

    whole_answer_most_bytes: int
    drain_on_disconnect: frozenset[str]
    read_timeout_s: dict[str, float]
    stalled_reader_s: float = 60.0


class Relay:
    """Serves admitted requests."""

    def __init__(
        self,
        *,
        admission: Admission,
        upstreams: Upstreams,
        ledger: Ledger,
        settler: Settler,
        counting: Counting,
        streams: Streams,
        renewals: Renewals,
        settings: RelaySettings,
    ) -> None:
        self._admission = admission
        self._upstreams = upstreams
        self._ledger = ledger
        self._settler = settler
        self._counting = counting
        self._streams = streams
        self._renewals = renewals
        self._settings = settings
        self._loop = asyncio.get_running_loop()

    def match_of(self, call: Call) -> Match | None:
        """The route of a request that was never read so far."""
        found = self._admission.routes.match(call.method, call.path)
        return found if isinstance(found, Match) else None

    def dialect_of(self, call: Call) -> Dialect:
        """The dialect to answer a refusal in: the route's, else what the caller's headers speak."""
        found = self.match_of(call)
        if found is None or found.operation is Operation.LISTING:
            return speaks(call.headers)
        return found.dialect

    def is_raw(self, call: Call) -> bool:
        """Whether the route takes a flat price, so that nobody reads the body and all of it can stream."""
        found = self.match_of(call)
        return found is not None and found.operation is Operation.RAW

    async def serve(self, call: Call, credential: Credential, outlet: Outlet, trace: Trace) -> None:
        """Answer one request. Errors: Problem, while nothing has been sent to the client."""
        admitted = await self._admission.admit(call, credential, trace)
        work = trace.work = admitted.work
        if work is None:
            await self._relay_free(call, admitted, outlet, trace)
            return
        delivered: Callable[[], tuple[Usage, Basis]] | None = None
        self._renewals.add(work)
        try:
            answer = await self._open(call, admitted, trace)
            try:
                kind = kind_of(answer.status, answer.headers, admitted.facts, admitted.match.dialect)
                match kind:
                    case _ if kind is _WHOLE:  # first, as it is looked at most
                        await self._relay_whole(call, admitted, work, answer, outlet, trace)
                    case AnswerKind.OUR_FAULT:
                        await self._settler.void(work)
                        raise UpstreamFailed("the upstream refused the gateway's own credential or account")
                    case AnswerKind.ERROR:
                        await self._settler.void(work)
                        await self._pass_on(call, admitted, answer, outlet, trace)
                    case AnswerKind.BINARY:
                        await self._relay_large(call, admitted, work, answer, outlet, trace)
                    case AnswerKind.STREAM:
                        self._renewals.discard(work)  # from here on it renews itself
                        stream = self._metered(call, admitted, work, answer, outlet)
                        delivered = stream.usage
                        await self._relay_stream(call, admitted, work, stream, answer, outlet, trace)
            finally:
                answer.abort()
        finally:
            self._renewals.discard(work)
            if not work.resolved:
                await asyncio.shield(asyncio.ensure_future(self._resolve(work, delivered)))

    async def _resolve(self, work: Work, delivered: Callable[[], tuple[Usage, Basis]] | None) -> None:
        """The way out when the way through was broken: what was delivered is charged, else nothing."""
        if delivered is None:
            await self._settler.void(work)
        else:
            usage, basis = delivered()
            await self._settler.post(work, usage, basis)

    async def _open(self, call: Call, admitted: Admitted, trace: Trace) -> Answer:
        started = self._loop.time()
        answer = await self._upstreams.open(upstream_request(call, admitted, self._admission.policies.hold))
        trace.upstream_s = self._loop.time() - started
        return answer

    # Answers read whole.

    async def _relay_whole(
        self, call: Call, admitted: Admitted, work: Work, answer: Answer, outlet: Outlet, trace: Trace
    ) -> None:
        body = await answer.read_up_to(self._settings.whole_answer_most_bytes)
        if body is None:
            await self._relay_large(call, admitted, work, answer, outlet, trace)
            return
        usage, basis, model = await self._counting.of_answer(
            admitted, call.body, body, size_bytes=len(body), most_output_tokens=work.tokens_bought()
        )
        self._price_as_served(admitted, work, model)
        await self._settler.post(work, usage, basis)
        headers = _headers(call, answer, work)
        if work.acknowledged:
            headers.append((b"farebox-cost", money_header(work.cost, work.unit)))
            if work.shows_balance:
                headers.append((b"farebox-balance", money_header(work.available, work.unit)))
        trace.status = answer.status
        await outlet.respond(answer.status, headers, body)

    async def _relay_large(
        self, call: Call, admitted: Admitted, work: Work, answer: Answer, outlet: Outlet, trace: Trace
    ) -> None:
        """Pass on what is too large or no text; its usage is in its last bytes, or in the request."""
        tail = UsageTail()
        headers = _headers(call, answer, work)
        ended = await self._pump(admitted, answer, headers, outlet, trace, tail.feed)
        usage, basis, _ = await self._counting.of_answer(
            admitted,
            call.body,
            tail.as_answer(),
            size_bytes=tail.total_bytes,
            most_output_tokens=work.tokens_bought(),
        )
        await self._settler.post(work, usage, basis)
        if ended and not outlet.gone:
            await outlet.finish()

    async def _relay_free(self, call: Call, admitted: Admitted, outlet: Outlet, trace: Trace) -> None:
        answer = await self._open(call, admitted, trace)
        try:
            if kind_of(answer.status, answer.headers, admitted.facts, admitted.match.dialect) is AnswerKind.OUR_FAULT:
                raise UpstreamFailed("the upstream refused the gateway's own credential or account")
            await self._pass_on(call, admitted, answer, outlet, trace)
        finally:
            answer.abort()

    async def _pass_on(self, call: Call, admitted: Admitted, answer: Answer, outlet: Outlet, trace: Trace) -> None:
        """Relay an answer that costs nothing."""
        body = await answer.read_up_to(self._settings.whole_answer_most_bytes)
        if body is not None:
            trace.status = answer.status
            await outlet.respond(answer.status, _headers(call, answer, None), body)
        elif await self._pump(admitted, answer, _headers(call, answer, None), outlet, trace, None) and not outlet.gone:
            await outlet.finish()

    async def _pump(
        self,
        admitted: Admitted,
        answer: Answer,
        headers: Headers,
        outlet: Outlet,
        trace: Trace,
        also: Callable[[bytes], None] | None,
    ) -> bool:
        """Stream an answer through unread. True when it came to its proper end."""
        trace.status = answer.status
        ended = await pass_through(
            answer,
            outlet,
            headers,
            also=also,
            drains=also is not None and admitted.match.operation is not Operation.RAW,
            stalled_reader_s=self._settings.stalled_reader_s,
        )
        trace.reason = "client_gone" if outlet.gone else "" if ended else why_broken(answer.failure)
        return ended

    # Streams.

    def _metered(self, call: Call, admitted: Admitted, work: Work, answer: Answer, outlet: Outlet) -> MeteredStream:
        facts, match = admitted.facts, admitted.match
        reader = reader_for(
            match.operation,
            counter=self._counting.counter(admitted),
            strip_usage=not facts.asks_usage,
            client_asked_usage=facts.asks_usage,
            content_type=(header_value(answer.headers, b"content-type") or b"").decode("latin-1"),
        )
        return MeteredStream(
            source=answer,
            sink=outlet,
            reader=reader,
            ledger=self._ledger,
            hold_id=work.hold_id,
            terms=work.terms,
            granted=work.granted,
            policy=self._admission.policies.hold,
            count_input=partial(self._counting.input_tokens, admitted, call.body),
            bound_input=partial(self._counting.input_bound, admitted, call.body),
            renewed_at_s=work.renewed_at_s,
            drain_on_disconnect=match.upstream_name in self._settings.drain_on_disconnect,
            has_unseen_input=facts.unseen_input_tokens > 0,
            ceiling=work.ceiling,
            asker=self._admission.asker(work, match.dialect),
        )

    async def _relay_stream(
        self,
        call: Call,
        admitted: Admitted,
        work: Work,
        stream: MeteredStream,
        answer: Answer,
        outlet: Outlet,
        trace: Trace,
    ) -> None:
        trace.status = answer.status
        trace.first_byte_s = self._loop.time() - call.started_s
        headers = [pair for pair in _headers(call, answer, work) if pair[0] != b"content-length"]
        await outlet.begin(answer.status, headers, on_gone=stream.client_gone, on_drained=stream.drained)
        name = admitted.match.upstream_name
        self._streams.add(stream, self._settings.read_timeout_s[name])
        try:
            stream.start()
            await stream.finished
        finally:
            self._streams.discard(stream)
            outlet.release()
        await asyncio.shield(asyncio.ensure_future(self._end_stream(call, admitted, work, stream, outlet, trace)))

    async def _end_stream(
        self, call: Call, admitted: Admitted, work: Work, stream: MeteredStream, outlet: Outlet, trace: Trace
    ) -> None:
        """Post, then let the last event go; a client is not kept waiting for a slow store."""
        await stream.settle_tasks()
        usage, basis = self._counting.judged(stream, admitted)
        work.terms, work.granted = stream.terms, stream.granted
        self._price_as_served(admitted, work, stream.reader.model)
        trace.reason = stream.failure or ("client_gone" if outlet.gone else "")
        post = asyncio.ensure_future(self._settler.post(work, usage, basis, cut=stream.cut))
        if not outlet.gone:
            await asyncio.wait([post], timeout=LAST_EVENT_WAIT_S)
            await self._last_event(call, admitted, work, stream, outlet)
        await post

    async def _last_event(
        self, call: Call, admitted: Admitted, work: Work, stream: MeteredStream, outlet: Outlet
    ) -> None:
        comment = b""
        if admitted.match.dialect in (Dialect.OPENAI, Dialect.ANTHROPIC) and admitted.facts.stream:
            comment = sse_comment(
                request_id=call.request_id,
                cost=money_object(work.cost, work.unit),
                balance=money_object(work.available, work.unit) if work.shows_balance else None,
                usage=work.usage.as_members(),
                final=work.acknowledged,
                cut=work.cut,
            )
        if stream.failure is None:
            await outlet.finish(place_comment(comment, stream.tail) if comment else stream.tail)
        elif comment:
            # No clean end: the client must see that the answer broke off.
            outlet.write(comment)

    def _price_as_served(self, admitted: Admitted, work: Work, served: str | None) -> None:
        """Price by the model that was served, where the book knows it; never above what was held (`Settler.post`)."""
        if served is None or served == admitted.facts.model:
            return
        terms = self._admission.terms_for_served(admitted, work.terms, served)
        if terms is not None:
            if terms is not work.terms:
                work.most = work.granted
            work.terms = terms
            work.model = served


def _headers(call: Call, answer: Answer, work: Work | None) -> Headers:
    """What goes down before any body: the upstream's, and ours that stand before the work is done."""
    headers = headers_down(answer.headers, call.request_id.encode())
    if work is not None and work.quote:
        headers.append((b"farebox-quote", work.quote))
    return headers
