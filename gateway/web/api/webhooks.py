"""`/api/webhooks`: where an organization is told what happens, and what could not be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from gateway.web.api_bodies import given, json_answer, page, paged, text_of, texts_of
from gateway.web.principal import Api

# Receivers change their configuration within a day.
ROTATION_MS = 86_400_000


class Outbox(Protocol):
    """Where endpoints and events are kept."""

    async def add(self, event: Event) -> None: ...
    async def hook(self, org_id: str) -> Hook | None: ...
    async def put_hook(self, hook: Hook, audit: AuditEntry) -> None: ...
    async def delete_hook(self, org_id: str, audit: AuditEntry) -> None: ...
    async def delivery(self, org_id: str) -> Delivery: ...
    async def waiting_of(self, org_id: str) -> int: ...
    async def dead(self, org_id: str) -> Sequence[Event]: ...
    async def told(self, org_id: str) -> Sequence[Event]: ...
    async def exhume(self, event: Event) -> bool: ...


class Feed(Protocol):
    """Who is told each of their charges."""

    async def start(self, org_id: str) -> None: ...
    async def stop(self, org_id: str) -> None: ...


class Webhooks:
    """What the handlers need. `seal` seals a secret for an organization; `check` refuses bad addresses."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        feed: Feed,
        make_secret: Callable[[], str],
        seal: Callable[[str, str], str],
        check: Callable[[str], None],
    ) -> None:
        self.outbox, self.feed = outbox, feed
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
            usage = body["usage"] if given(body, "usage") else False
            if not isinstance(usage, bool):
                raise InvalidRequest("must be true or false", param="usage")
            secret = webhooks.make_secret()
            hook = Hook(principal.org_id, url, webhooks.seal(secret, principal.org_id), events, usage=usage)
            before = await outbox.hook(principal.org_id)
            await outbox.put_hook(hook, _audit(api, principal, "webhook.put", before, hook))
            await (webhooks.feed.start if usage else webhooks.feed.stop)(principal.org_id)
            return {**await _shown(outbox, hook), "secret": secret}

        return await api.changed(request, principal, act, allowed=("url", "events", "usage"), required=("url",))

    async def rotate(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(_: dict[str, Any]) -> Any:
            hook = await _hook(outbox, principal)
            secret = webhooks.make_secret()
            until_ms = int(api.system.now_s() * 1_000) + ROTATION_MS
            after = replace(
                hook, secret=webhooks.seal(secret, hook.org_id), previous_secret=hook.secret, previous_until_ms=until_ms
            )
            await outbox.put_hook(after, _audit(api, principal, "webhook.rotate", hook, after))
            return {**await _shown(outbox, after), "secret": secret}

        return await api.changed(request, principal, act, allowed=())

    async def delete(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)
        hook = await _hook(outbox, principal)
        await outbox.delete_hook(principal.org_id, _audit(api, principal, "webhook.delete", hook, None))
        await webhooks.feed.stop(principal.org_id)
        return json_answer({"url": hook.url, "deleted": True})

    return [
        Route("/api/webhooks", read, methods=["GET"]),
        Route("/api/webhooks", put, methods=["PUT"]),
        Route("/api/webhooks", delete, methods=["DELETE"]),
        Route("/api/webhooks/rotate", rotate, methods=["POST"]),
        *_event_routes(api, outbox),
    ]


def _event_routes(api: Api, outbox: Outbox) -> list[Route]:
    async def test(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(_: dict[str, Any]) -> Any:
            await _hook(outbox, principal)
            now_ms = int(api.system.now_s() * 1_000)
            await outbox.add(Event("", principal.org_id, "webhook.test", now_ms, b'{"test":true}'))
            return {"sent": True}

        return await api.changed(request, principal, act, allowed=(), status=202)

    async def told(request: Request) -> Response:
        principal = await api.organization(request, Permission.READ)
        return _events(request, await outbox.told(principal.org_id))

    async def dead(request: Request) -> Response:
        principal = await api.organization(request, Permission.READ)
        return _events(request, await outbox.dead(principal.org_id))

    async def again(request: Request) -> Response:
        principal = await api.principal(request, Permission.MANAGE)

        async def act(_: dict[str, Any]) -> Any:
            await _hook(outbox, principal)
            for event in await outbox.dead(principal.org_id):
                if event.event_id == request.path_params["id"] and await outbox.exhume(event):
                    return _event(event)
            raise NotFound("there is no such dead letter", param="id")

        return await api.changed(request, principal, act, allowed=(), status=202)

    return [
        Route("/api/webhooks/test", test, methods=["POST"]),
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


def _events(request: Request, found: Sequence[Event]) -> Response:
    """The newest first."""
    limit, after = page(request)
    data, beyond = paged(found, limit, after, _place, newest_first=True)
    return json_answer({"data": [_event(each) for each in data], "next": beyond})


def _place(event: Event) -> str:
    """Ids have the time and a number, which are not all of one length."""
    time_ms, _, number = event.event_id.rpartition("_")[2][2:].partition("-")
    return f"{int(time_ms):015d}-{int(number):09d}"


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.event_id, "type": event.kind, "timestamp": rfc3339(event.at_ms), "data": msgspec.Raw(event.data),
    }  # fmt: skip


def _audit(api: Api, principal: Principal, action: str, before: Hook | None, after: Hook | None) -> AuditEntry:
    now_ms = int(api.system.now_s() * 1_000)
    return AuditEntry(
        now_ms, principal.org_id, principal.actor, principal.authenticated, action, principal.org_id,
        _audited(before), _audited(after),
    )  # fmt: skip


def _audited(hook: Hook | None) -> bytes:
    """Nothing of the secrets."""
    shown = None if hook is None else {"url": hook.url, "events": hook.events, "usage": hook.usage}
    return msgspec.json.encode(shown)
