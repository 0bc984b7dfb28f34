"""`/openapi.json`: how an organization is told what happens, and what a running request tells and asks."""

from __future__ import annotations

from gateway.core.questions import ACTIONS
from gateway.core.usage import Basis
from gateway.core.webhooks import EVENTS
from gateway.web.api.events import EVENT_ID
from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_limits import PROOF_MEMBERS
from gateway.web.openapi_schemas import (
    COUNT,
    FLAG,
    INSTANT,
    OBJECT,
    REQUEST_ID,
    TEXT,
    TRUE,
    Schema,
    asked,
    described,
    identifier,
    items,
    listing,
    money,
    money_asked,
    nullable,
    record,
    ref,
    text,
    usd,
    words,
)

_OVERAGE_ID = identifier("ov")
_EVENT_ID: Schema = {"type": "string", "pattern": "^evt_"}

_HOOK: dict[str, Schema] = {
    "url": TEXT,
    "events": described(items(TEXT), "an empty list is all"),
    "usage": described(FLAG, "each charge as a CloudEvent, in batches"),
    "state": words("active", "failing", "disabled"),
    "last_delivery": nullable(INSTANT),
    "failing_since": nullable(INSTANT),
    "last_error": nullable(TEXT),
    "next_attempt": nullable(INSTANT),
    "waiting": COUNT,
}
_EVENT = record(id=described(_EVENT_ID, "the same however often it is told"), type=TEXT, timestamp=INSTANT, data=OBJECT)
_USAGE = described(
    {
        **record(**dict.fromkeys(
            ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"), COUNT
        )),
        "additionalProperties": True,
    },
    "other figures stand beside these where they are not zero",
)  # fmt: skip
_REQUEST = record(
    request_id=REQUEST_ID,
    state=words("open", "posted", "voided", "expired"),
    model=TEXT,
    dialect=TEXT,
    route=TEXT,
    usage=_USAGE,
    basis=words(*Basis),
    cost=described(money, "while it runs: what was earned so far"),
    held=money,
    shortfall=described(money, "what the house paid"),
    cut={"enum": ["credit", "budget", "cap", None]},
    started_at=INSTANT,
    ended_at=nullable(INSTANT),
)

SCHEMAS: dict[str, Schema] = {
    "Webhook": record(**_HOOK),
    "WebhookMade": record(**_HOOK, secret=described(TEXT, "of Standard Webhooks; it is shown this once")),
    "Event": _EVENT,
    "RequestRecord": _REQUEST,
    "OverageAnswered": record(
        request_id=REQUEST_ID, overage_id=_OVERAGE_ID, state=words("open", "approved", "stopped", "expired"),
        additional_max=usd, answered_by=nullable(TEXT),
    ),
}  # fmt: skip

_OVERAGE = asked(
    {
        "overage_id": described(text(200, least=0), "the question that is answered, where it may have changed"),
        "additional_max": described(nullable(money_asked), "else what was asked for"),
        **PROOF_MEMBERS,
    },
    action=words(*ACTIONS),
)
_EVENTS_QUERY = {"last_event_id": {"type": "string", "pattern": f"^({EVENT_ID.pattern})?$"}}
_STREAM = described(TEXT, "events `state`, `overage_approval_needed`, `overage_answered`, until the request has ended")
_UPGRADED: dict[str, Schema] = {
    "101": {"description": 'as a WebSocket: frames {"event", "id", "data"}; answers {"action", "overage_id", ...}'}
}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path="/api/webhooks", name="read_webhook", who=Who.APP,
        summary="Where the organization is told, and how it fares", answer=ref("Webhook"), refused=(404,),
    ),
    Endpoint(
        method="PUT", path="/api/webhooks", name="put_webhook", summary="Where the organization wants to be told",
        who=Who.APP, once=True, answer=ref("WebhookMade"),
        body=asked({"events": nullable(items(words(*EVENTS), most=100)), "usage": nullable(FLAG)},
                   url=described(text(2_000), "https, without user or password")),
    ),
    Endpoint(
        method="DELETE", path="/api/webhooks", name="delete_webhook", summary="Ends it", who=Who.APP,
        answer=record(url=TEXT, deleted=TRUE), refused=(404,),
    ),
    Endpoint(
        method="POST", path="/api/webhooks/rotate", name="rotate_webhook", who=Who.APP, body=asked(), once=True,
        summary="A new secret; for a day the old one signs too", answer=ref("WebhookMade"), refused=(404,),
    ),
    Endpoint(
        method="POST", path="/api/webhooks/test", name="test_webhook", summary="Sends an event", who=Who.APP,
        body=asked(), once=True, status=202, answer=record(sent=TRUE), refused=(404,),
    ),
    Endpoint(
        method="GET", path="/api/webhooks/dead", name="list_dead_events", summary="What could not be told",
        who=Who.APP, parameters=("Limit", "After"), answer=listing(ref("Event")),
    ),
    Endpoint(
        method="POST", path="/api/webhooks/dead/{id}/retry", name="retry_dead_event", summary="Tells it again",
        who=Who.APP, ids={"id": _EVENT_ID}, body=asked(), once=True, status=202, answer=ref("Event"),
    ),
    Endpoint(
        method="GET", path="/api/events", name="list_events", summary="The newest events", who=Who.APP,
        parameters=("Limit", "After"), answer=listing(ref("Event")),
    ),
    Endpoint(
        method="GET", path="/api/requests/{id}", name="read_request", ids={"id": REQUEST_ID}, who=Who.PAYER,
        summary="What a paid request used and cost, during and after it", answer=ref("RequestRecord"),
    ),
    Endpoint(
        method="GET", path="/api/requests/{id}/events", name="watch_request", ids={"id": REQUEST_ID}, who=Who.APP,
        summary="What a running request tells", media="text/event-stream", answer=_STREAM, answers=_UPGRADED,
        query=_EVENTS_QUERY, parameters=("LastEventId",), refused=(429,),
    ),
    Endpoint(
        method="POST", path="/api/requests/{id}/overage", name="answer_overage", ids={"id": REQUEST_ID}, who=Who.APP,
        summary="Answers the question of a running request", body=_OVERAGE, once=True, answer=ref("OverageAnswered"),
        refused=(429,),
    ),
)  # fmt: skip
