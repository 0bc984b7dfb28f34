"""`/openapi.json`: what operators look at: the audit log, revenue, disputes, and the policies in force."""

from __future__ import annotations

from gateway.core.price_table import TOKEN_KINDS
from gateway.flows.revenue import FIGURES, GROUPS, MONEY
from gateway.web.api_bodies import PAGE_MOST
from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_schemas import (
    ANYTHING,
    COUNT,
    DATE,
    FLAG,
    INSTANT,
    INSTANT_ASKED,
    MSAT,
    OBJECT,
    TEXT,
    Schema,
    asked,
    described,
    either,
    identifier,
    items,
    listing,
    nullable,
    record,
    ref,
    text,
    usd,
    whole,
    words,
)

_DECIMAL: Schema = {"type": "string", "pattern": r"^(0|[1-9][0-9]*)(\.[0-9]{1,12})?$"}
_CALL = record(usd_per_call=_DECIMAL)
_BY_NAME: Schema = {"type": "object", "additionalProperties": _CALL}
_BANDS = described(
    items(record(above_input_tokens=COUNT, **{f"{kind}_usd_per_mtok": _DECIMAL for kind in TOKEN_KINDS})),
    "by length of the input; the last one that begins below it counts for the whole request",
)
_AGENTS = record(accounts=COUNT, **dict.fromkeys(("credited", "posted", "held", "available"), MSAT))

SCHEMAS: dict[str, Schema] = {
    "AuditEntry": record(
        number=COUNT, at=INSTANT, actor=TEXT, authenticated=TEXT, action=TEXT, subject=TEXT, before=ANYTHING,
        after=ANYTHING, digest=described(TEXT, "covers the entry before"),
    ),
    "RevenueRow": record(
        {"day": DATE, "account": identifier("ac"), "model": TEXT},
        **dict.fromkeys(FIGURES, COUNT), **dict.fromkeys(MONEY, usd),
    ),
    "Plan": record(
        name=TEXT, included=usd, credit_limit=usd, window=words("day", "week", "month"),
        period=words("calendar", "anniversary"), app_may_give=FLAG,
    ),
    "Price": record(
        provider=TEXT, model=TEXT, tokens=_BANDS, tiers={"type": "object", "additionalProperties": _BANDS},
        usd_per_call=_DECIMAL, usd_per_second=nullable(_DECIMAL), usd_per_image=nullable(_DECIMAL),
        usd_per_mchar=nullable(_DECIMAL), tools=_BY_NAME, margin=described(_DECIMAL, "on top of these prices"),
        holds_until=nullable(INSTANT), source=nullable(TEXT),
    ),
}  # fmt: skip

_AUDIT_QUERY: dict[str, Schema] = {
    "account": described(identifier("org", "ac"), "left out: the gateway's own log, of policies that came into force"),
    "limit": whole(1, PAGE_MOST) | {"default": 100},
    "after": {"type": "string", "pattern": "^[0-9]{0,15}$"},
}
_GROUP = f"({'|'.join(GROUPS)})"
_REVENUE_QUERY: dict[str, Schema] = {
    "group_by": {"type": "string", "pattern": f"^{_GROUP}(,{_GROUP})*$", "default": "day"},
    "from": described(either(DATE, INSTANT_ASKED), "the first day, in each account's own time zone"),
    "to": described(either(DATE, INSTANT_ASKED), "the last day, which counts"),
}
_PAGED = ("Limit", "After")


def _listing(of: Schema, **more: Schema) -> Schema:
    return record(data=items(of), next=nullable(TEXT), **more)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path="/admin/api/audit", name="read_audit", summary="Who changed what", who=Who.OPERATOR,
        query=_AUDIT_QUERY, answer=listing(ref("AuditEntry")), refused=(404,),
    ),
    Endpoint(
        method="GET", path="/admin/api/revenue", name="read_revenue", who=Who.OPERATOR, parameters=_PAGED,
        summary="What accounts' requests were posted at; and agents' credits so far, their refunds among the posted",
        query=_REVENUE_QUERY,
        answer=_listing(
            ref("RevenueRow"), **{"from": DATE, "to": DATE},
            agents=described(nullable(_AGENTS), "since ever; with the first page only"),
        ),
    ),
    Endpoint(
        method="GET", path="/admin/api/disputes", name="list_disputes", who=Who.OPERATOR, parameters=_PAGED,
        answer=listing(OBJECT),
        summary="Always an empty list: this version has no tasks yet, and so nothing to dispute",
    ),
    Endpoint(
        method="GET", path="/admin/api/plans", name="list_plans", summary="The plans in force", who=Who.OPERATOR,
        parameters=_PAGED, answer=listing(ref("Plan")),
    ),
    Endpoint(
        method="GET", path="/admin/api/prices", name="list_prices", who=Who.OPERATOR, parameters=_PAGED,
        summary="The prices in force, of every model of the configured providers",
        query={"provider": text(200, least=0), "model": described(text(256, least=0), "a name, or a glob")},
        answer=_listing(
            ref("Price"), rules=described(_BY_NAME, "flat prices that routes name"),
            tools=described({"type": "object", "additionalProperties": _BY_NAME}, 'by provider; "" for all of them'),
        ),
    ),
    Endpoint(
        method="POST", path="/admin/api/reload", name="reload_policies", who=Who.OPERATOR, body=asked(), once=True,
        summary="Reads the policies again, all of them or none", answer=record(detail=TEXT),
    ),
)  # fmt: skip
