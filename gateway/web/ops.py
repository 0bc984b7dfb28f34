"""What operators and their machines ask of a running gateway: is it alive, can it serve, what has it counted.

`/health/live` touches nothing, so that a slow store never gets a healthy process killed. `/health/ready` asks every
part, each within its time, and names those that failed without saying why: the log does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[object]]

CHECK_TIMEOUT_S = 2.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NO_STORE = {"Cache-Control": "no-store"}


def ops_routes(
    *, checks: Mapping[str, Check], exposition: Callable[[], bytes], draining: Callable[[], bool]
) -> list[Route]:
    """The routes. A check raises when its part cannot serve; `exposition` gives Prometheus' text."""

    async def live(_request: Request) -> Response:
        return JSONResponse({"status": "live"}, headers=_NO_STORE)

    async def ready(_request: Request) -> Response:
        if draining():
            return _not_ready(["draining"])
        passed = await asyncio.gather(*(_passes(check) for check in checks.values()))
        failed = [name for name, ok in zip(checks, passed, strict=True) if not ok]
        return _not_ready(failed) if failed else JSONResponse({"status": "ready"}, headers=_NO_STORE)

    async def metrics(_request: Request) -> Response:
        return Response(exposition(), headers={**_NO_STORE, "Content-Type": METRICS_TYPE})

    return [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]


def _not_ready(failed: list[str]) -> Response:
    return JSONResponse(
        {"status": "not_ready", "failed": failed}, status_code=503, headers={**_NO_STORE, "Retry-After": "1"}
    )


async def _passes(check: Check) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except Exception:  # noqa: BLE001 - whatever a part raises, it is not ready
        return False
    return True
