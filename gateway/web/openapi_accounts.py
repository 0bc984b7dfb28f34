"""`/openapi.json`: keys, persons with their credentials, the account, and what was used."""

from __future__ import annotations

from gateway.core.directory import Permission
from gateway.flows.step_up import PASSWORD_LEAST, PASSWORD_MOST
from gateway.flows.using import GROUPS, MONEY
from gateway.web.api.keys import GRACE_MOST_S, GRACE_S
from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_limits import BUDGETS_ASKED, PROOF_MEMBERS
from gateway.web.openapi_schemas import (
    ACCOUNT_ID,
    COUNT,
    DATE,
    FLAG,
    INSTANT,
    INSTANT_ASKED,
    KEY_ID,
    OBJECT,
    PERSON_ID,
    TEXT,
    TRUE,
    Schema,
    asked,
    described,
    either,
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

_PERMISSIONS = words(*Permission)
_GLOBS = nullable(items(text(200), most=100))
_NETWORK = described(text(200), "a network, e.g. 10.0.0.0/8")
_STATE = words("active", "revoked")

_KEY: dict[str, Schema] = {
    "id": KEY_ID,
    "name": TEXT,
    "permissions": items(_PERMISSIONS),
    "routes": described(items(TEXT), "globs; an empty list admits everything"),
    "models": described(items(TEXT), "globs; an empty list admits everything"),
    "addresses": items(TEXT),
    "expires_at": nullable(INSTANT),
    "hide_prices": FLAG,
    "state": _STATE,
    "rotating_until": described(nullable(INSTANT), "until then the secret before the last rotation serves too"),
    "created_at": INSTANT,
}
KEY_ASKED = asked({
    "name": text(200, least=0),
    "permissions": described(nullable(items(_PERMISSIONS, most=100)), "none named is all"),
    "routes": _GLOBS,
    "models": _GLOBS,
    "addresses": nullable(items(_NETWORK, most=100)),
    "expires_at": nullable(INSTANT_ASKED),
    "hide_prices": FLAG,
})  # fmt: skip

_PERSON: dict[str, Schema] = {
    "id": PERSON_ID,
    "account": described(ACCOUNT_ID, "their own, else the organization's"),
    "plan": nullable(TEXT),
    "made": words("api", "first_sight"),
    "state": words("active", "suspended"),
    "created_at": INSTANT,
}
_PROOF = described(nullable(asked(PROOF_MEMBERS)), "of a credential that the person has already; one of the three")
_CREDENTIALS_ASKED = either(
    asked({"proof": _PROOF}, password=text(PASSWORD_MOST, least=PASSWORD_LEAST)),
    asked({"proof": _PROOF}, totp=described(record({"code": TEXT}), "empty to begin; then the first code")),
    asked({"proof": _PROOF}, passkey=described(record({"credential": OBJECT}), "empty to begin; then the browser's")),
)
_CREDENTIALS = either(
    record(password=TRUE),
    record(totp=record({"secret": TEXT, "otpauth_url": TEXT}, confirmed=FLAG)),
    record(passkey=either(record(options=OBJECT), record(id=TEXT))),
)

_ALLOWANCE_POCKET = record(included=usd, used=usd, held=usd, left=usd, resets_at=nullable(INSTANT))
_GRANT = record(id=TEXT, source=TEXT, left=usd, held=usd, used=usd, expires_at=nullable(INSTANT))
_POSTPAID_POCKET = record(limit=usd, used=usd, held=usd, left=usd)
_ACCOUNT = record(
    account=described(nullable(ACCOUNT_ID), "null where a person's token draws on the organization's"),
    shared=described(FLAG, "a person draws on the organization's account"),
    pockets=record(
        allowance=nullable(_ALLOWANCE_POCKET), prepaid=items(_GRANT), postpaid=nullable(_POSTPAID_POCKET)
    ),
    plan=nullable(TEXT),
    **dict.fromkeys(("available", "held", "posted", "debt", "carry", "overage"), nullable(usd)),
)  # fmt: skip

_USAGE_ROW = record(
    {"day": DATE, "model": TEXT, "user": described(TEXT, "empty: the key for itself"), "key": TEXT},
    **dict.fromkeys(("requests", "input_tokens", "cached_input_tokens", "output_tokens"), COUNT),
    **dict.fromkeys(sorted(MONEY), usd),
)

SCHEMAS: dict[str, Schema] = {
    "Key": record(**_KEY),
    "KeyMade": record(**_KEY, key=described(TEXT, "the text of the key; it is shown this once")),
    "Person": record(**_PERSON),
    "PersonWithBudgets": record(**_PERSON, budgets=items(ref("Budget"))),
    "PersonMade": record({"budgets": items(ref("Budget"))}, **_PERSON),
    "Account": _ACCOUNT,
    "UsageRow": _USAGE_ROW,
}

_GROUP = f"({'|'.join(GROUPS)})"
_USAGE_QUERY: dict[str, Schema] = {
    "group_by": {"type": "string", "pattern": f"^{_GROUP}(,{_GROUP})*$", "default": "day,model,user"},
    "format": words("json", "csv", "focus") | {"default": "json"},
    "from": described(either(DATE, INSTANT_ASKED), "the first day"),
    "to": described(either(DATE, INSTANT_ASKED), "the last day, which counts"),
}
_CSV = described(TEXT, "with `format=csv`; with `format=focus` the columns of FOCUS 1.1")
_ROTATION = asked({"grace_s": described(whole(0, GRACE_MOST_S) | {"default": GRACE_S}, "how long the old one serves")})

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path="/api/keys", name="list_keys", summary="The keys of the organization", who=Who.APP,
        parameters=("Limit", "After"), answer=listing(ref("Key")),
    ),
    Endpoint(
        method="POST", path="/api/keys", name="make_key", summary="Makes a key that may do no more than the one asking",
        who=Who.APP, body=KEY_ASKED, once=True, status=201, answer=ref("KeyMade"),
    ),
    Endpoint(
        method="POST", path="/api/keys/{id}/rotate", name="rotate_key", summary="A new secret under the same id",
        who=Who.APP, ids={"id": KEY_ID}, body=_ROTATION, once=True, answer=ref("KeyMade"),
    ),
    Endpoint(
        method="DELETE", path="/api/keys/{id}", name="revoke_key", summary="From the next request on it is no good",
        who=Who.APP, ids={"id": KEY_ID}, answer=ref("Key"),
    ),
    Endpoint(
        method="GET", path="/api/persons", name="list_persons", summary="The persons behind the app", who=Who.APP,
        parameters=("Limit", "After"), answer=listing(ref("Person")),
    ),
    Endpoint(
        method="POST", path="/api/persons", name="make_person", summary="Makes a person, or gives one a plan",
        who=Who.APP, once=True, status=201, answer=ref("PersonMade"), refused=(404,),
        body=asked({"plan": described(text(200, least=0), "a plan of the policies"), "budgets": BUDGETS_ASKED},
                   id=PERSON_ID),
    ),
    Endpoint(
        method="GET", path="/api/persons/{id}", name="read_person", summary="A person and what limits them",
        who=Who.APP, ids={"id": PERSON_ID}, answer=ref("PersonWithBudgets"),
    ),
    Endpoint(
        method="POST", path="/api/persons/{id}/credentials", name="set_credential", who=Who.APP, once=True,
        summary="Sets a password, begins or confirms a one-time code or a passkey", ids={"id": PERSON_ID},
        body=_CREDENTIALS_ASKED, answer=_CREDENTIALS, refused=(429,),
    ),
    Endpoint(
        method="GET", path="/api/account", name="read_account", who=Who.APP, answer=ref("Account"), refused=(404,),
        summary="Balances by pocket, the plan, what it includes and what went beyond",
    ),
    Endpoint(
        method="GET", path="/api/usage", name="read_usage", summary="What was used, by whom, and which pocket paid",
        who=Who.APP, parameters=("Person",), query=_USAGE_QUERY, answer=listing(ref("UsageRow")),
        others={"text/csv": _CSV},
    ),
)  # fmt: skip
