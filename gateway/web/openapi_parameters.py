"""The headers, queries and credentials that several paths share, each described once."""

from __future__ import annotations

from gateway.core.challenges import DEPOSIT_HEADERS
from gateway.core.person_headers import QUOTE_ID_CHARACTERS
from gateway.web.api_bodies import PAGE_MOST
from gateway.web.idempotency import GREATEST_KEY_CHARACTERS
from gateway.web.openapi_schemas import PERSON_ID, SESSION_ID, TEXT, Schema, identifier, text, whole

_DEPOSIT = whole(1, 10**12 - 1)
_MORE_CHARACTERS = 400  # of `after`: a person's id, percent-encoded


def _header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_DEPOSIT_NAMES = ["-".join(part.capitalize() for part in name.decode().split("-")) for name in DEPOSIT_HEADERS]

PARAMETERS: dict[str, Schema] = {
    "Deposit": _header(_DEPOSIT_NAMES[0], "How many sats a challenge asks for, within the policy's limits", _DEPOSIT),
    "BolthubCredit": _header(_DEPOSIT_NAMES[1], f"The same as {_DEPOSIT_NAMES[0]}; where both are sent they agree",
                             _DEPOSIT),
    "IdempotencyKey": _header(
        "Idempotency-Key",
        "The same key and body answer the same, and nothing happens twice; with another body it is 409",
        text(GREATEST_KEY_CHARACTERS),
    ),
    "User": _header("Farebox-User", "The person behind the app, by the app's own id", PERSON_ID),
    "Session": _header("Farebox-Session", "The person's session, for budgets and allowances of one", SESSION_ID),
    "Quote": _header("Farebox-Quote", "An approved quote, made for this very request", text(QUOTE_ID_CHARACTERS)),
    "Account": _query(
        "account", "With an operator key: whose it is, `org_...` or `ac_...`", identifier("org", "ac")
    ),
    "Limit": _query("limit", "How many at most", whole(1, PAGE_MOST) | {"default": 100}),
    "After": _query("after", "What `next` of the page before says", {**TEXT, "maxLength": _MORE_CHARACTERS}),
    "Person": _query("user", "Only what is of this person", PERSON_ID),
    "ContentDigest": _header(
        "Content-Digest",
        "Of an upload: `sha-256=:<base64>:` (RFC 9530). An approval is for these bytes under the same `Content-Type`, "
        "boundary included, and what comes is held to it",
        {"type": "string", "pattern": "sha-256=:[A-Za-z0-9+/]{43}=:"},
    ),
    "LastEventId": _header("Last-Event-ID", "The last event that was seen; what came after it is told", TEXT),
}  # fmt: skip

ANSWER_HEADERS: dict[str, Schema] = {
    "RequestId": {"schema": {"type": "string", "pattern": "^req_[0-9a-f]+$"},
                  "description": "names the request in GET /api/requests/{id}"},
    "Cost": {"schema": TEXT, "description": 'amount="0.001234", currency=USD or amount_msat=12 (RFC 9651); on JSON '
             "answers up to 1 MiB, which are settled before their headers go out"},
    "Balance": {"schema": TEXT, "description": "what is left, in the same form; where Farebox-Cost stands"},
    "Quote": {"schema": TEXT, "description": 'id="q_...", min="0.001234", expected="0.002", max="0.01", currency=USD, '
              "confidence=0.83 (RFC 9651): what the request was estimated to cost"},
}  # fmt: skip

_L402 = "an L402 credential, `<macaroon>:<preimage>`"
_KEY = f"an app key `fb_live_...`, an operator key `fb_op_...`, or {_L402}"
SECURITY_SCHEMES: dict[str, Schema] = {
    "l402": {"type": "http", "scheme": "L402",
             "description": f'{_L402}; or the parameters macaroon="...", preimage="..."; the scheme may be LSAT'},
    "macaroon": {"type": "apiKey", "in": "header", "name": "Macaroon",
                 "description": "hexadecimal, with a `preimage=` caveat"},
    "grpc_macaroon": {"type": "apiKey", "in": "header", "name": "Grpc-Metadata-Macaroon",
                      "description": "as Macaroon"},
    "bearer": {"type": "http", "scheme": "bearer",
               "description": f"{_KEY}; or a token (JWT) of an identity provider, which names the person"},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": _KEY},
    "google_key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key", "description": _KEY},
    "azure_key": {"type": "apiKey", "in": "header", "name": "api-key", "description": _KEY},
    "query_key": {"type": "apiKey", "in": "query", "name": "key",
                  "description": f"{_KEY}; never forwarded, but addresses are logged on the way here"},
}  # fmt: skip
