"""Our own paths, observed: each request is told once, by its pattern and by how it ended."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from gateway.core.errors import PaymentRequired
from gateway.core.finished import Finished
from gateway.web.site import ObservedSite, own_site
from gateway.web.site_trace import trace_of


async def thing(request: Request) -> Response:
    trace = trace_of(request.scope)
    trace.account, trace.org, trace.key_id, trace.user = "acct_1", "org_1", "ak_1", "ann"
    return PlainTextResponse("ok")


async def costs(_request: Request) -> Response:
    raise PaymentRequired("pay")


async def fails(_request: Request) -> Response:
    raise RuntimeError("broken")


async def socket(socket: WebSocket) -> None:
    if socket.path_params["id"] == "ours":
        await socket.accept()
    await socket.close()


ROUTES: list[Any] = [
    Route("/api/things/{id}", thing), Route("/api/costs", costs), Route("/admin/api/fails", fails),
    Route("/health/live", thing), WebSocketRoute("/api/sockets/{id}", socket),
]  # fmt: skip


class World:
    """A site, and what was told of it."""

    def __init__(self) -> None:
        self.told: list[Finished] = []
        self.app = ObservedSite(own_site(ROUTES), self.told.append)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(cast(Any, self.app), raise_app_exceptions=False), base_url="http://gateway"
        )

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Finished:
        async with self.http as http:
            await http.request(method, path, headers=headers)
        (told,) = self.told
        return told


async def test_a_request_is_told_by_its_pattern_and_whose_it_was() -> None:
    told = await World().ask("/api/things/of-ann?token=secret")
    assert (told.method, told.route, told.operation, told.status, told.reason) == (
        "GET", "/api/things/{id}", "api", 200, "",
    )  # fmt: skip
    assert (told.account, told.org, told.key_id, told.user) == ("acct_1", "org_1", "ak_1", "ann")
    assert told.duration_s > 0


@pytest.mark.parametrize(
    ("path", "method", "status", "reason", "route"),
    [
        ("/api/costs", "GET", 402, "payment_required", "/api/costs"),
        ("/api/costs", "POST", 405, "method_not_allowed", "/api/costs"),
        ("/api/costs/", "GET", 404, "not_found", ""),
        ("/api/nowhere", "GET", 404, "not_found", ""),
        ("/admin/api/fails", "GET", 500, "internal", "/admin/api/fails"),
    ],
)
async def test_a_refusal_is_told_by_its_code(path: str, method: str, status: int, reason: str, route: str) -> None:
    told = await World().ask(path, method)
    assert (told.status, told.reason, told.route) == (status, reason, route)
    assert told.operation == path[1:].partition("/")[0]


async def test_a_grpc_callers_refusal_is_told_by_its_own_status() -> None:
    told = await World().ask("/api/costs", **{"content-type": "application/grpc"})
    assert (told.status, told.reason) == (402, "payment_required")


async def test_health_is_not_told() -> None:
    world = World()
    async with world.http as http:
        await http.get("/health/live")
    assert not world.told


@pytest.mark.parametrize(("which", "status"), [("ours", 101), ("theirs", 403)])
async def test_a_socket_is_told_by_whether_it_was_accepted(which: str, status: int) -> None:
    world = World()
    scope = {
        "type": "websocket", "path": f"/api/sockets/{which}", "headers": [], "query_string": b"", "subprotocols": [],
    }  # fmt: skip
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await world.app(scope, receive, send)
    (told,) = world.told
    assert (told.route, told.status) == ("/api/sockets/{id}", status)
    assert said[-1]["type"] == "websocket.close"


async def test_what_runs_on_is_told_when_it_is_over() -> None:
    told: list[Finished] = []
    going = asyncio.Event()

    async def site(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await going.wait()
        raise asyncio.CancelledError

    async def nothing(*_: Any) -> None:
        return

    app = ObservedSite(site, told.append)
    running = asyncio.ensure_future(app({"type": "http", "method": "GET", "path": "/api/x"}, nothing, nothing))
    await asyncio.sleep(0)
    assert not told
    going.set()
    await asyncio.gather(running, return_exceptions=True)
    assert [each.status for each in told] == [200]
