"""`POST /api/policies/explain`: which rule would decide about a request, and why. Nothing happens.

A request as it would be sent, `{"path": "/v1/chat/completions", "body": {...}}`, or its figures alone,
`{"model": "gpt-4o", "input_tokens": 2000, "max_output_tokens": 500}`; both with `user`, `session` and `key`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import Permission
from gateway.core.hypothetical import parse_hypothetical
from gateway.flows.explaining import Explaining
from gateway.web.api_bodies import json_answer, read_object
from gateway.web.principal import Api

_TAIL_BYTES = 13


def explain_routes(api: Api, explaining: Explaining) -> list[Route]:
    """The routes. Handlers raise `Problem`."""

    async def explain(request: Request) -> Response:
        principal = await api.principal(request, Permission.READ)
        members, _ = await read_object(request)
        tail = api.system.token_hex(_TAIL_BYTES)
        wanted = parse_hypothetical(members, tail=tail, now_s=api.system.now_s())
        return json_answer(await explaining.explained(principal, wanted))

    return [Route("/api/policies/explain", explain, methods=["POST"])]
