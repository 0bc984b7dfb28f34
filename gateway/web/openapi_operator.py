"""`/openapi.json`: what operators do with accounts, and what they look at."""

from __future__ import annotations

from gateway.core.accounts import CreditCause, DebitCause
from gateway.web.openapi_accounts import KEY_ASKED
from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_schemas import (
    ACCOUNT_ID,
    ANYTHING,
    COUNT,
    FLAG,
    INSTANT,
    ORG_ID,
    TEXT,
    Schema,
    asked,
    described,
    identifier,
    listing,
    money_asked,
    nullable,
    record,
    ref,
    signed_usd,
    text,
    usd,
    whole,
    words,
)

_BALANCE = dict.fromkeys(("available", "held", "posted", "debt"), usd) | {"credited": signed_usd}
_PER_MILLION = described(whole(1, 1_000_000), "of the account, that one person or key may hold at once, in millionths")
_SETTINGS = asked({
    "name": text(200, least=0),
    "time_zone": described(text(200), "an IANA name; a change applies from the next window"),
    "plan": described(text(200, least=0), "a plan of the policies"),
    "persons_per_minute": described(whole(0, 1_000_000), "that one key may make by naming them"),
    "most_open_holds": whole(1, 1_000_000),
    "share_ppm": _PER_MILLION,
    "suspended": FLAG,
})  # fmt: skip
_MOVEMENT_ID: Schema = {
    **described({"type": "string"}, "chosen by the caller, so that a repeat moves nothing"),
    "maxLength": 100,
    "pattern": "^[A-Za-z0-9._:@-]*$",
}
_CREDIT_CAUSES = (CreditCause.PAYMENT, CreditCause.PROMOTION, CreditCause.GOODWILL)

SCHEMAS: dict[str, Schema] = {
    "OperatedAccount": record(
        {"org": ORG_ID, "user": described(nullable(TEXT), "the person whose own it is")},
        id=ORG_ID, account=ACCOUNT_ID, name=TEXT, time_zone=TEXT, plan=nullable(TEXT), persons_per_minute=COUNT,
        most_open_holds=COUNT, share_ppm=_PER_MILLION, state=words("active", "suspended"), created_at=INSTANT,
        **_BALANCE,
    ),
    "Credited": record(
        id=TEXT, account=ACCOUNT_ID, outcome=words("applied", "replayed", "foreign"), amount=usd, available=usd,
        debt_paid=usd,
    ),
    "Debited": record(id=TEXT, account=ACCOUNT_ID, taken=usd, owed=usd, available=usd),
    "CreditLimit": record(account=ACCOUNT_ID, limit=usd, available=usd),
    "AuditEntry": record(
        number=COUNT, at=INSTANT, actor=TEXT, authenticated=TEXT, action=TEXT, subject=TEXT, before=ANYTHING,
        after=ANYTHING, digest=described(TEXT, "covers the entry before"),
    ),
}  # fmt: skip

_BASE = "/admin/api/accounts"
_ID = {"id": described(identifier("org", "ac"), "of the organization or of its account")}
_AUDIT_QUERY: dict[str, Schema] = {
    "account": identifier("org", "ac"),
    "limit": whole(1, 1_000) | {"default": 100},
    "after": {"type": "string", "pattern": "^[0-9]{0,15}$"},
}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path=_BASE, name="list_accounts", summary="Every account", who=Who.OPERATOR,
        answer=listing(ref("OperatedAccount")),
    ),
    Endpoint(
        method="POST", path=_BASE, name="make_account", summary="Makes an account", who=Who.OPERATOR, body=_SETTINGS,
        once=True, status=201, answer=ref("OperatedAccount"),
    ),
    Endpoint(
        method="GET", path=_BASE + "/{id}", name="read_operated_account", summary="An account", who=Who.OPERATOR,
        ids=_ID, answer=ref("OperatedAccount"),
    ),
    Endpoint(
        method="PATCH", path=_BASE + "/{id}", name="change_account", summary="Changes what is named", ids=_ID,
        who=Who.OPERATOR, body=_SETTINGS, once=True, answer=ref("OperatedAccount"),
    ),
    Endpoint(
        method="POST", path=_BASE + "/{id}/keys", name="make_key_of_account", summary="Makes an app key of the account",
        who=Who.OPERATOR, ids=_ID, body=KEY_ASKED, once=True, status=201, answer=ref("KeyMade"),
    ),
    Endpoint(
        method="POST", path=_BASE + "/{id}/credits", name="credit_account", summary="Adds money, once per id",
        who=Who.OPERATOR, ids=_ID, once=True, status=201, answer=ref("Credited"),
        body=asked(
            {"cause": words(*_CREDIT_CAUSES) | {"default": CreditCause.PAYMENT.value}, "source": text(64),
             "id": _MOVEMENT_ID},
            amount=described(money_asked, "above zero"),
        ),
    ),
    Endpoint(
        method="POST", path=_BASE + "/{id}/debits", name="debit_account", who=Who.OPERATOR, ids=_ID, once=True,
        summary="Takes what is available, and makes the rest debt", status=201, answer=ref("Debited"),
        body=asked({"id": _MOVEMENT_ID}, amount=described(money_asked, "above zero"), cause=words(*DebitCause)),
    ),
    Endpoint(
        method="PUT", path=_BASE + "/{id}/credit-limit", name="put_credit_limit", summary="How much may be owed",
        who=Who.OPERATOR, ids=_ID, body=asked(limit=money_asked), once=True, answer=ref("CreditLimit"),
    ),
    Endpoint(
        method="GET", path="/admin/api/audit", name="read_audit", summary="Who changed what", who=Who.OPERATOR,
        query=_AUDIT_QUERY, answer=listing(ref("AuditEntry")), refused=(404,),
    ),
    Endpoint(
        method="POST", path="/admin/api/reload", name="reload_policies", who=Who.OPERATOR,
        summary="Reads the policies again, all of them or none", answer=record(detail=TEXT),
    ),
)  # fmt: skip
