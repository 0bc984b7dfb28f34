"""`/openapi.json`: what operators do with accounts and with persons."""

from __future__ import annotations

from gateway.core.accounts import CreditCause, DebitCause
from gateway.web.api.admin_money import CREDITS
from gateway.web.openapi_accounts import KEY_ASKED
from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_schemas import (
    ACCOUNT_ID,
    COUNT,
    FLAG,
    INSTANT,
    ORG_ID,
    PERSON_ID,
    TEXT,
    TRUE,
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
_PLAN = described(nullable(text(200, least=0)), 'a plan of the policies; "" or null takes it off')
_SETTINGS = asked({
    "name": text(200, least=0),
    "time_zone": described(text(200), "an IANA name; a change applies from the next window"),
    "plan": _PLAN,
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
_SOURCE: Schema = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._:@-]+$"}

SCHEMAS: dict[str, Schema] = {
    "OperatedAccount": record(
        {"org": ORG_ID, "user": described(nullable(TEXT), "the person whose own it is")},
        id=described(identifier("org", "ac"), "of the organization; of a person's own account that account"),
        account=ACCOUNT_ID, org=ORG_ID, user=described(nullable(TEXT), "whose own account it is"), name=TEXT,
        time_zone=TEXT, plan=nullable(TEXT), persons_per_minute=COUNT, most_open_holds=COUNT, share_ppm=_PER_MILLION,
        state=words("active", "suspended"), created_at=INSTANT, **_BALANCE,
    ),
    "Credited": record(
        id=TEXT, account=ACCOUNT_ID, outcome=words("applied", "replayed", "foreign"), amount=usd, available=usd,
        debt_paid=usd,
    ),
    "Debited": record(id=TEXT, account=ACCOUNT_ID, taken=usd, owed=usd, available=usd),
    "CreditLimit": record(account=ACCOUNT_ID, limit=nullable(usd), available=usd),
}  # fmt: skip

_BASE = "/admin/api/accounts"
_ID = {"id": described(identifier("org", "ac"), "of the organization, of its account, or a person's own account")}
_PERSON = _BASE + "/{id}/persons/{person}"
_PERSON_IDS = {"id": described(identifier("org", "ac"), "of the organization or of its account"), "person": PERSON_ID}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path=_BASE, name="list_accounts", summary="Every account", who=Who.OPERATOR,
        parameters=("Limit", "After"), answer=listing(ref("OperatedAccount")),
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
            {"cause": words(*CREDITS) | {"default": CreditCause.PAYMENT.value}, "source": _SOURCE,
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
        who=Who.OPERATOR, ids=_ID, once=True, answer=ref("CreditLimit"),
        body=asked(limit=described(nullable(money_asked), "no plan touches it; null: what the plan says, again")),
    ),
    Endpoint(
        method="PATCH", path=_PERSON, name="change_person", summary="Gives or takes a plan; suspends, or lets go on",
        who=Who.OPERATOR, ids=_PERSON_IDS, body=asked({"plan": _PLAN, "suspended": FLAG}), once=True,
        answer=ref("Person"),
    ),
    Endpoint(
        method="DELETE", path=_PERSON + "/credentials", name="reset_credentials", ids=_PERSON_IDS, who=Who.OPERATOR,
        summary="Takes password, one-time codes and passkeys away: the next one is set without a proof",
        answer=record(id=TEXT, deleted=TRUE),
    ),
)  # fmt: skip
