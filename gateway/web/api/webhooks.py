"""`/api/webhooks`: where an organization is told what happens, and what could not be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.directory import AuditEntry, Event, Permission, Principal
from gateway.core.errors import InvalidRequest, NotFound
from gateway.core.request_record import rfc3339
from gateway.core.webhooks import EVENTS, Delivery, Hook, hook_members
from gateway.people_ports import AuditLog
from gateway.web.api_bodies import json_answer, text_of, texts_of
from gateway.web.principal import Api

# Receivers change their configuration within a day.
ROTATION_MS = 86_400_000


class Outbox(Protocol):
    """Where endpoints and events are kept."""

    async def add(self, event: Event) -> None: ...
    async def hook(self, org_id: str) -> Hook | None: ...
    async def put_hook(self, hook: Hook) -> None: ...
    async def delete_hook(self, org_id: str) -> None: ...
    async def delivery(self, org_id: str) -> Delivery: ...
    async def waiting_of(self, org_id: str) -> int: ...
    async def dead(self, org_id: str) -> Any: ...
    async def told(self, org_id: str) -> Any: ...
    async def exhume(self, event: Event) -> bool: ...


class Webhooks:
    """What the handlers need. `seal` seals a secret for an organization; `check` refuses bad addresses."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        audit: AuditLog,
        make_secret: Callable[[], str],
        seal: Callable[[str, str], str],
        check: Callable[[str], None],
    ) -> None:
        self.outbox, self.audit = outbox, audit
        self.make_secret, self.seal, self.check = make_secret, seal, check


def webhook_routes(api: Api, webhooks: Webhooks) -> list[Route]:
    """The routes. Handlers raise `Problem`."""
    outbox = webhooks.outbox

    async def read(request: Request) -> Response:
        principal = await api.organization(request, Permission.READ)
        return json_answer(await _shown(outbox, await _hook(outbox, principal)))

    async def put(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(body: dict[str, Any]) -> Any:
            url = text_of(body, "url", most=2_000)
            webhooks.check(url)
            events = texts_of(body, "events")
            for index, event in enumerate(events):
                if event not in EVENTS:
                    raise InvalidRequest(f"must be one of {', '.join(EVENTS)}", param=f"events[{index}]")
            secret = webhooks.make_secret()
            hook = Hook(principal.org_id, url, webhooks.seal(secret, principal.org_id), events)
            await outbox.put_hook(hook)
            await _audit(api, webhooks, principal, "webhook.put", url)
            return {**await _shown(outbox, hook), "secret": secret}

        return await api.changed(request, principal, act, allowed=("url", "events"), required=("url",))

    async def rotate(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(_: dict[str, Any]) -> Any:
            hook = await _hook(outbox, principal)
            secret = webhooks.make_secret()
            until_ms = int(api.system.now_s() * 1_000) + ROTATION_MS
            after = replace(
                hook, secret=webhooks.seal(secret, hook.org_id), previous_secret=hook.secret, previous_until_ms=until_ms
            )
            await outbox.put_hook(after)
            await _audit(api, webhooks, principal, "webhook.rotate", hook.url)
            return {**await _shown(outbox, after), "secret": secret}

        return await api.changed(request, principal, act, allowed=())

    async def delete(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        hook = await _hook(outbox, principal)
        await outbox.delete_hook(principal.org_id)
        await _audit(api, webhooks, principal, "webhook.delete", hook.url)
        return json_answer({"url": hook.url, "deleted": True})

    async def test(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        await _hook(outbox, principal)
        now_ms = int(api.system.now_s() * 1_000)
        await outbox.add(Event("", principal.org_id, "webhook.test", now_ms, b'{"test":true}'))
        return json_answer({"sent": True}, 202)

    return [
        Route("/api/webhooks", read, methods=["GET"]),
        Route("/api/webhooks", put, methods=["PUT"]),
        Route("/api/webhooks", delete, methods=["DELETE"]),
        Route("/api/webhooks/rotate", rotate, methods=["POST"]),
        Route("/api/webhooks/test", test, methods=["POST"]),
        *_event_routes(api, outbox),
    ]


def _event_routes(api: Api, outbox: Outbox) -> list[Route]:
    async def told(request: Request) -> Response:
        principal = await api.organization(request, Permission.READ)
        return json_answer({"data": [_event(each) for each in await outbox.told(principal.org_id)], "next": None})

    async def dead(request: Request) -> Response:
        principal = await api.organization(request, Permission.READ)
        return json_answer({"data": [_event(each) for each in await outbox.dead(principal.org_id)], "next": None})

    async def again(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        await _hook(outbox, principal)
        for event in await outbox.dead(principal.org_id):
            if event.event_id == request.path_params["id"] and await outbox.exhume(event):
                return json_answer(_event(event), 202)
        raise NotFound("there is no such dead letter", param="id")

    return [
        Route("/api/events", told, methods=["GET"]),
        Route("/api/webhooks/dead", dead, methods=["GET"]),
        Route("/api/webhooks/dead/{id}/retry", again, methods=["POST"]),
    ]


async def _hook(outbox: Outbox, principal: Principal) -> Hook:
    hook = await outbox.hook(principal.org_id)
    if hook is None:
        raise NotFound("there is no webhook; PUT /api/webhooks makes one")
    return hook


async def _shown(outbox: Outbox, hook: Hook) -> dict[str, Any]:
    return hook_members(hook, await outbox.delivery(hook.org_id), await outbox.waiting_of(hook.org_id))


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.event_id, "type": event.kind, "timestamp": rfc3339(event.at_ms), "data": msgspec.Raw(event.data),
    }  # fmt: skip


async def _audit(api: Api, webhooks: Webhooks, principal: Principal, action: str, url: str) -> None:
    shown = msgspec.json.encode({"url": url})
    await webhooks.audit.append(
        AuditEntry(
            int(api.system.now_s() * 1_000),
            principal.org_id,
            principal.actor,
            principal.vouched,
            action,
            principal.org_id,
            b"null",
            shown,
        )
    )
