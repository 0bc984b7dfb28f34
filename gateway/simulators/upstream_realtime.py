"""OpenAI's realtime WebSocket as the simulated upstream speaks it: text in, text out, usage in `response.done`."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

from msgspec import json
from starlette.types import Receive, Scope, Send

from gateway.simulators.upstream_headers import HeaderReader
from gateway.simulators.upstream_log import Record, RequestLog
from gateway.simulators.upstream_orders import Asked, BadOrder, Order, Wish, input_words, order_of, read_wish
from gateway.simulators.upstream_sending import Watch
from gateway.simulators.upstream_words import text, words

DEFAULT_MODEL = "gpt-realtime"
GREATEST_HISTORY = 1_000


async def serve_realtime(log: RequestLog, headers: HeaderReader, scope: Scope, receive: Receive, send: Send) -> None:
    """One conversation. The log has one record for the connection; its tokens are the sum of all responses."""
    record = log.open("WEBSOCKET", scope["path"])
    record.heard, record.request_id = headers.read(scope["headers"], scope["query_string"])
    try:
        await receive()  # the connect
        if not scope["path"].endswith("/v1/realtime"):
            await send({"type": "websocket.close", "code": 4404})
            return
        wish = read_wish(dict(record.heard.wishes))
        record.model = parse_qs(scope["query_string"].decode("latin-1")).get("model", [DEFAULT_MODEL])[0]
        record.status = 101
        await send({"type": "websocket.accept"})
        await _Conversation(record, wish, send).run(receive)
    except BadOrder as error:
        await send({"type": "websocket.close", "code": 4400, "reason": str(error)})
    finally:
        record.end()


class _Conversation:
    def __init__(self, record: Record, wish: Wish, send: Send) -> None:
        self._record = record
        self._wish = wish
        self._send = send
        self._items: list[Any] = []
        self._events = 0
        self._limit: Any = None

    async def run(self, receive: Receive) -> None:
        session = {"type": "realtime", "object": "realtime.session", "id": "sess_sim", "model": self._record.model}
        await self._tell("session.created", session=session)
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            try:
                event = json.decode(message.get("text") or message.get("bytes") or b"{}")
            except ValueError:
                event = {}
            if not await self._heard(event if isinstance(event, dict) else {}, session, receive):
                self._record.cut()
                return

    async def _heard(self, event: dict[str, Any], session: dict[str, Any], receive: Receive) -> bool:
        """Answer one event. False when the client went away in the middle of a response."""
        kind = event.get("type")
        if kind == "session.update":
            session |= {key: value for key, value in (event.get("session") or {}).items() if key != "model"}
            self._limit = session.get("max_output_tokens")
            await self._tell("session.updated", session=session)
        elif kind == "conversation.item.create" and len(self._items) < GREATEST_HISTORY:
            item = {"id": f"item_{len(self._items)}", "object": "realtime.item", **(event.get("item") or {})}
            self._items.append(item)
            await self._tell("conversation.item.added", item=item, previous_item_id=None)
            await self._tell("conversation.item.done", item=item, previous_item_id=None)
        elif kind == "response.create":
            return await self._respond(event.get("response") or {}, receive)
        else:
            error = {"type": "invalid_request_error", "code": "unknown_event", "message": f"unknown event {kind!r}"}
            await self._tell("error", error=error)
        return True

    async def _respond(self, asked: dict[str, Any], receive: Receive) -> bool:
        limit = asked.get("max_output_tokens", self._limit)
        order = self._order(asked, None if limit == "inf" else limit)
        self._record.input_tokens += order.input_tokens
        self._record.output_tokens += order.output_tokens
        watch = _SocketWatch(receive)
        try:
            for event, tokens in _events(order):
                if order.wish.interval_s and tokens:
                    await watch.pause(order.wish.interval_s)
                if watch.gone:
                    return False
                await self._tell(event.pop("type"), tokens, **event)
        finally:
            watch.close()
        return True

    def _order(self, asked: dict[str, Any], limit: Any) -> Order:
        payload = {"input": [*self._items, asked.get("input")], "instructions": asked.get("instructions")}
        body = json.encode([payload, self._record.output_tokens])
        return order_of(
            Asked(
                path=self._record.path,
                model=self._record.model,
                query="",
                content_type="",
                body=body,
                payload=payload if input_words(payload) else {"input": "."},
                wish=self._wish,
                seed=sha256(body).digest(),
            ),
            limits=(limit,),
            stream=True,
        )

    async def _tell(self, kind: str, tokens: int = 0, **members: Any) -> None:
        data = json.encode({"type": kind, "event_id": f"event_{self._events}", **members})
        self._events += 1
        await self._send({"type": "websocket.send", "text": data.decode()})
        self._record.sent(data, tokens)


class _SocketWatch(Watch):
    """While a response is spoken only the hang-up is listened for; what the client says meanwhile is dropped."""

    hang_up = "websocket.disconnect"


def _response(order: Order, status: str, output: list[Any]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "object": "realtime.response",
        "id": f"resp_{order.identity[:20]}",
        "status": status,
        "output": output,
        "output_modalities": ["text"],
    }
    if status == "incomplete":
        response["status_details"] = {"type": "incomplete", "reason": "max_output_tokens"}
    if status != "in_progress" and order.reports_usage:
        prompt, output_tokens = order.told(order.input_tokens), order.told(order.output_tokens)
        response["usage"] = {
            "total_tokens": prompt + output_tokens,
            "input_tokens": prompt,
            "output_tokens": output_tokens,
            "input_token_details": {
                "text_tokens": prompt,
                "audio_tokens": 0,
                "image_tokens": 0,
                "cached_tokens": order.told(order.cached_tokens),
            },
            "output_token_details": {"text_tokens": output_tokens, "audio_tokens": 0},
        }
    return response


def _events(order: Order) -> Iterator[tuple[dict[str, Any], int]]:
    status = "incomplete" if order.cut else "completed"
    said = text(order.seed, order.visible_tokens)
    item: dict[str, Any] = {
        "id": f"item_{order.identity[:20]}",
        "object": "realtime.item",
        "type": "message",
        "role": "assistant",
    }
    whole = item | {"status": status, "content": [{"type": "output_text", "text": said}]}
    where = {"response_id": f"resp_{order.identity[:20]}", "item_id": item["id"], "output_index": 0}
    yield {"type": "response.created", "response": _response(order, "in_progress", [])}, 0
    yield (
        {
            "type": "response.output_item.added",
            "response_id": where["response_id"],
            "output_index": 0,
            "item": item | {"status": "in_progress", "content": []},
        },
        0,
    )
    for word in words(order.seed, order.visible_tokens):
        yield {"type": "response.output_text.delta", **where, "content_index": 0, "delta": word}, 1
    yield {"type": "response.output_text.done", **where, "content_index": 0, "text": said}, 0
    done = {"response_id": where["response_id"], "output_index": 0, "item": whole}
    yield {"type": "response.output_item.done", **done}, 0
    yield {"type": "response.done", "response": _response(order, status, [whole])}, 0
