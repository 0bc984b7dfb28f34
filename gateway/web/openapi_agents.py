"""`/openapi.json`: what agents ask about their credit, and what is open to everybody: discovery, health, counters."""

from __future__ import annotations

from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_schemas import (
    COUNT,
    INSTANT,
    OBJECT,
    TEXT,
    TRUE,
    Schema,
    asked,
    described,
    items,
    record,
    ref,
    whole,
    words,
)

_SATS = whole(1)
SCHEMAS: dict[str, Schema] = {
    "Balance": record(
        **dict.fromkeys(("credited_msat", "posted_msat", "held_msat", "available_msat"), COUNT),
        expires_at=described(INSTANT, "of the token"),
    ),
    "Refund": record(
        refunded_msat=COUNT, fee_msat=COUNT, payment_hash={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        state=words("paid", "in_flight", "failed"),
    ),
    "Revoked": record(token_id=TEXT, revoked=TRUE),
    "Discovery": record(
        version={"const": "0"}, schemes=items(TEXT), service=TEXT, payment_methods=items(TEXT),
        deposit=record(default_sats=_SATS, min_sats=_SATS, max_sats=_SATS, headers=items(TEXT)),
        invoice_expiry_s=_SATS, token_lifetime_s=_SATS,
        caveats=record(enforced=items(TEXT), ignored=items(TEXT)),
        balance=TEXT, refund=TEXT, revoke=TEXT,
    ),
    "Health": record({"failed": items(TEXT)}, status=words("live", "ready", "not_ready")),
}  # fmt: skip

_NOT_READY: dict[str, Schema] = {
    "503": {"description": "It cannot; `failed` names the parts",
            "content": {"application/json": {"schema": ref("Health")}}}
}  # fmt: skip

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path="/l402/balance", name="balance", summary="What is left of an agent's credit", who=Who.AGENT,
        answer=ref("Balance"), refused=(404,),
    ),
    Endpoint(
        method="POST", path="/l402/refund", name="refund", summary="Pays what is left back over Lightning",
        who=Who.AGENT, once=True, answer=ref("Refund"), refused=(404,),
        body=asked(payment_request=described(TEXT, "a BOLT11 invoice without an amount, or of at most what is left")),
    ),
    Endpoint(
        method="POST", path="/l402/revoke", name="revoke", summary="Makes a token, and all made from it, worthless",
        who=Who.AGENT, once=True, answer=ref("Revoked"), refused=(413,),
    ),
    Endpoint(
        method="GET", path="/.well-known/l402.json", name="l402_discovery", summary="How to pay here", who=Who.NOBODY,
        answer=ref("Discovery"),
    ),
    Endpoint(
        method="GET", path="/openapi.json", name="openapi", summary="This description", who=Who.NOBODY, answer=OBJECT,
    ),
    Endpoint(
        method="GET", path="/health/live", name="live", summary="Whether the process runs", who=Who.NOBODY,
        answer=ref("Health"),
    ),
    Endpoint(
        method="GET", path="/health/ready", name="ready", summary="Whether it can serve", who=Who.NOBODY,
        answer=ref("Health"), answers=_NOT_READY,
    ),
    Endpoint(
        method="GET", path="/metrics", name="metrics", summary="Counters of all workers, as Prometheus reads them",
        who=Who.NOBODY, media="text/plain", answer=TEXT,
    ),
)  # fmt: skip
