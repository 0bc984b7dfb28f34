"""One realtime session from its hold to its resolution: frames pass untouched both ways, and no response runs that the
credit cannot pay.

admit (hold) -> open the upstream's socket -> accept the client -> relay -> post or void. One pump a direction, each
frame handed on before the next is taken, so that whoever reads slowly slows the other side down. Before a frame goes
up that may begin a response, what that response may cost is held; where the money ends, the upstream is closed at once,
and the client is told in the interface's own words. The hold is resolved once, at what the session has earned.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol
from urllib.parse import parse_qs

from gateway.core.call import Call
from gateway.core.credentials import Credential, strip_query
from gateway.core.errors import InvalidRequest, NotFound, Unavailable
from gateway.core.headers import Headers, headers_down, headers_up
from gateway.core.operations import Operation
from gateway.core.realtime import RealtimeMeter
from gateway.core.routing import Match
from gateway.flows.admission import Admission, Admitted
from gateway.flows.counting import Counting
from gateway.flows.realtime_session import RealtimeSession
from gateway.flows.settling import Settler, Work
from gateway.flows.streams import OpenStreams
from gateway.flows.trace import Trace
from gateway.ports import Ledger, SocketRequest, UpstreamSocket, UpstreamSockets

# A subprotocol of browsers, which cannot set headers: `openai-insecure-api-key.<key>`.
KEY_SUBPROTOCOL = "openai-insecure-api-key."
# The closing words wait for the post, at most this long.
LAST_WORDS_WAIT_S = 0.05


class SocketClient(Protocol):
    """The client's side of the socket (web/realtime.py)."""

    blocked_since: float | None

    async def accept(self, subprotocol: str | None, headers: Headers) -> None: ...
    async def receive(self) -> str | bytes | None: ...
    async def send(self, frame: str | bytes) -> bool: ...
    async def close(self, code: int, reason: str) -> None: ...


class RealtimeRelay:
    """Serves realtime sessions."""

    def __init__(
        self,
        *,
        admission: Admission,
        sockets: UpstreamSockets,
        ledger: Ledger,
        settler: Settler,
        counting: Counting,
        streams: OpenStreams,
    ) -> None:
        self._admission = admission
        self._sockets = sockets
        self._ledger = ledger
        self._settler = settler
        self._counting = counting
        self._streams = streams

    async def serve(
        self, call: Call, credential: Credential, subprotocols: list[str], client: SocketClient, trace: Trace
    ) -> None:
        """Relay one session. Errors: Problem, while the client's upgrade has not been accepted."""
        found = self._admission.routes.match("GET", call.path)
        if not isinstance(found, Match) or found.operation is not Operation.REALTIME:
            raise NotFound(f"no route serves a WebSocket at {call.path}", code="unknown_route")
        call.model, call.upgrades = _model(call.query), True
        trace.match = found
        admitted = await self._admission.admit(call, credential, trace)
        work = trace.work = admitted.work
        if work is None:
            raise Unavailable("a session without a hold", code="internal")
        session: RealtimeSession | None = None
        try:
            socket = await self._open(call, admitted, subprotocols)
            try:
                await client.accept(socket.subprotocol, _headers_down(socket, call))
                trace.status = 101
                session = self._session(admitted, work, client, socket)
                await self._run(session, trace)
            finally:
                socket.abort()
        finally:
            await asyncio.shield(asyncio.ensure_future(self._resolve(work, session)))

    async def _open(self, call: Call, admitted: Admitted, subprotocols: list[str]) -> UpstreamSocket:
        headers = [pair for pair in headers_up(call.headers) if not pair[0].startswith(b"sec-websocket-")]
        headers.append((b"farebox-request-id", call.request_id.encode()))
        request = SocketRequest(
            upstream=admitted.match.upstream_name,
            path=admitted.match.upstream_path,
            query=strip_query(call.query),
            headers=headers,
            subprotocols=tuple(each for each in subprotocols if not each.startswith(KEY_SUBPROTOCOL)),
        )
        return await self._sockets.open(request)

    def _session(self, admitted: Admitted, work: Work, client: SocketClient, socket: UpstreamSocket) -> RealtimeSession:
        policies = self._admission.policies

        meter = RealtimeMeter(
            facts=admitted.facts,
            card=work.terms.card,
            limits=policies.request_limits,
            response_tokens=policies.hold.unstreamed_ceiling_tokens,
            counter=self._counting.counter(admitted),
            card_of=partial(self._admission.card_of, admitted),
            follows_model=admitted.match.route.price is None,
        )
        return RealtimeSession(
            client=client, socket=socket, meter=meter, ledger=self._ledger, work=work, policy=policies.hold
        )

    async def _run(self, session: RealtimeSession, trace: Trace) -> None:
        self._streams.add(session, 0.0)
        try:
            await session.run()
        finally:
            self._streams.discard(session)
            trace.reason = session.failure or ""

    async def _resolve(self, work: Work, session: RealtimeSession | None) -> None:
        """The end on every way out: what the session earned is charged, else nothing."""
        if work.resolved:
            return
        if session is None:
            await self._settler.void(work)
            return
        await session.settle_tasks()
        meter = session.meter
        meter.close()
        work.model = meter.model
        post = asyncio.ensure_future(
            self._settler.post(work, meter.usage, meter.basis, cut=session.cut, cost=session.amount(meter.earned))
        )
        await asyncio.wait([post], timeout=LAST_WORDS_WAIT_S)
        await session.last_words()
        await post


def _model(query: bytes) -> str:
    """The one model that the query names. What else may name a session is not served: nobody could tell its price."""
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    if "call_id" in asked:
        raise InvalidRequest("call_id: a session of a phone call cannot be joined here; name a model", param="call_id")
    models = asked.get("model", [])
    if len(models) > 1:
        raise InvalidRequest("model: the query must name one model", param="model")
    return models[0] if models else ""


def _headers_down(socket: UpstreamSocket, call: Call) -> Headers:
    kept = headers_down(socket.headers, call.request_id.encode())
    left_out = (b"sec-websocket-", b"date", b"server", b"content-length")
    return [pair for pair in kept if not pair[0].startswith(left_out)]
