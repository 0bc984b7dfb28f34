"""`/openapi.json`: what limits spending and who lets it pass: budgets, allowances, quotes, and the explanation."""

from __future__ import annotations

from gateway.core.budget_input import ALERTS_MOST, BUDGETS_MOST
from gateway.core.budgets import EXCEED
from gateway.core.directory import PERSON_ID_CHARACTERS
from gateway.core.proofs import METHODS
from gateway.core.quotes import QuoteState, Tier
from gateway.core.windows import PERIODS, WINDOWS
from gateway.web.openapi_endpoints import Endpoint, Who
from gateway.web.openapi_schemas import (
    ANYTHING,
    COUNT,
    FLAG,
    INSTANT,
    INSTANT_ASKED,
    OBJECT,
    ORG_ID,
    PERSON_ID,
    REQUEST_ID,
    SESSION_ID,
    SHARE,
    TEXT,
    TRUE,
    USD_TEXT,
    Schema,
    asked,
    described,
    either,
    identifier,
    items,
    listing,
    money_asked,
    nullable,
    record,
    ref,
    text,
    usd,
    whole,
    words,
)

BUDGET_ID, ALLOWANCE_ID, QUOTE_ID = identifier("bu"), identifier("al"), identifier("q")
PROOF_MEMBERS: dict[str, Schema] = {"password": nullable(TEXT), "otp": nullable(TEXT), "passkey": nullable(OBJECT)}
assert tuple(PROOF_MEMBERS) == METHODS
_GLOBS = nullable(items(text(200), most=100))
_SCOPE_TEXT = text(PERSON_ID_CHARACTERS)
_SCOPE_NAMES = ("key", "user", "session", "task", "model")
_TIERS = words(*Tier)

_BUDGET: dict[str, Schema] = {
    "id": BUDGET_ID,
    "scope": record(dict.fromkeys(_SCOPE_NAMES, TEXT), org=ORG_ID),
    "window": words(*WINDOWS),
    "period": words(*PERIODS),
    "limit": usd,
    "alerts_pct": items(whole(1, 1_000)),
    "forecast_alert": FLAG,
    "on_exceed": words(*EXCEED),
    "used": usd,
    "held": usd,
    "resets_at": described(nullable(INSTANT), "null: never"),
    "state": words("active", "paused"),
    "alerted_pct": items(whole(1, 1_000)),
    "forecast": described(nullable(usd), "of the window's end, on a straight line; null where it is too early"),
}
_BUDGET_MAYBE: dict[str, Schema] = {
    "until": described(INSTANT, "the raise, or the budget, ends by itself"),
    "limit_after": described(usd, "the limit after `until`"),
    "next": record({"from": INSTANT}, window=words(*WINDOWS), period=words(*PERIODS)),
}
_TOLD = ("used", "held", "resets_at", "state", "alerted_pct", "forecast", "limit_after", "next")
_BUDGET_ASKED = asked({
    "id": text(64, least=0),
    "scope": nullable(asked({**dict.fromkeys(_SCOPE_NAMES, _SCOPE_TEXT), "org": either(TRUE, _SCOPE_TEXT)})),
    "window": nullable(words(*WINDOWS)),
    "period": nullable(words(*PERIODS)),
    "limit": described(nullable(money_asked), "a new budget has one"),
    "alerts_pct": nullable(items(whole(1, 1_000), most=ALERTS_MOST)),
    "forecast_alert": nullable(FLAG),
    "on_exceed": nullable(words(*EXCEED)),
    "until": nullable(INSTANT_ASKED),
    **dict.fromkeys(_TOLD, described(ANYTHING, "as it was read; changes nothing")),
})  # fmt: skip
BUDGETS_ASKED = items(ref("BudgetAsked"), least=1, most=BUDGETS_MOST)
# What a budget's own object lacks where the definition went while the request was under way.
_LIMIT_HIT: dict[str, Schema] = {"limit": usd, "used": usd, "held": usd, "resets_at": nullable(INSTANT)}
_LIMIT_MAYBE = {name: schema for name, schema in (_BUDGET | _BUDGET_MAYBE).items() if name not in {*_LIMIT_HIT, "id"}}

_ALLOWANCE = record(
    id=ALLOWANCE_ID, user=PERSON_ID, session=described(nullable(SESSION_ID), "null: any of the person"),
    routes=items(TEXT), models=items(TEXT), cap=usd, per_call_cap=usd, count=nullable(whole(1)),
    expires_at=nullable(INSTANT), used=usd, held=usd, left=usd, calls=COUNT,
    state=words("active", "expired", "revoked"),
)  # fmt: skip
_ALLOWANCE_ASKED = asked(
    {
        "user": described(text(PERSON_ID_CHARACTERS, least=0), "the person; whoever is named by `Farebox-User`"),
        "session": text(PERSON_ID_CHARACTERS, least=0),
        "routes": _GLOBS,
        "models": _GLOBS,
        "per_call_cap": nullable(money_asked),
        "expires_at": nullable(INSTANT_ASKED),
        "count": described(nullable(whole(1, 10**9)), "calls"),
        **PROOF_MEMBERS,
    },
    cap=money_asked,
)

_QUOTE: dict[str, Schema] = {
    "id": QUOTE_ID,
    "min": usd,
    "expected": usd,
    "max": usd,
    "confidence": SHARE,
    "expires_at": INSTANT,
    "quote_id": QUOTE_ID,
    "state": words(*QuoteState),
    "tier": _TIERS,
    "reason": words("tier", "cumulative", "budget"),
    "two_persons": FLAG,
    "user": nullable(PERSON_ID),
    "session": nullable(SESSION_ID),
    "model": TEXT,
    "route": TEXT,
    "approved_max": nullable(usd),
    "approved_by": items(TEXT),
    "lifts": described(items(TEXT), "budgets that ask, which an approval lets the request pass"),
}

_COST = record(min=usd, expected=usd, max=usd, confidence=SHARE)
_EXPLAINED = record(
    decision=words("allow", "refuse", "ask"),
    rule=words("key", "suspended", "open_requests", "share", "budget", "balance", "allowance", "tier", "cumulative",
               "free"),
    why=TEXT, tier=_TIERS, model=TEXT, route=TEXT, cost=_COST,
    limits=items(either(
        record(_LIMIT_MAYBE, id=nullable(TEXT), left=usd, refuses=FLAG, **_LIMIT_HIT), ref("BudgetOfOthers")
    )),
    allowance=nullable(ref("Allowance")),
    approvals=record(
        {"app_may_approve": FLAG, "automatic_left": nullable(usd)},
        needed=whole(0, 2), two_persons=FLAG, methods=items(words(*METHODS)),
    ),
)  # fmt: skip
_TOKENS = nullable(whole(0, 10_000_000))
_OF_WHOM: dict[str, Schema] = {
    "method": nullable(text(16, least=0)),
    "user": nullable(text(PERSON_ID_CHARACTERS, least=0)),
    "session": nullable(text(PERSON_ID_CHARACTERS, least=0)),
    "key": nullable(text(256, least=0)),
}
_EXPLAIN_ASKED = either(
    asked({"body": described(ANYTHING, "of the request"), **_OF_WHOM}, path=text(2_048)),
    asked({"input_tokens": _TOKENS, "max_output_tokens": _TOKENS, "stream": FLAG, **_OF_WHOM}, model=text(256)),
)

_ASKED_AMOUNTS = {"original_max": usd, "current_cost": usd, "additional_needed": usd}
_QUESTION = record(
    **_ASKED_AMOUNTS, request_id=REQUEST_ID, execution_id=REQUEST_ID, overage_id=identifier("ov"),
    amounts=record(**_ASKED_AMOUNTS), reason=words("cap", "budget"), tier=words(*Tier), user=nullable(PERSON_ID),
    options=items(record(action=words("stop", "approve_overage"), additional_cost=usd, includes=TEXT)),
    expires_at=INSTANT, waits_for=described(TEXT, "whose answer"),
)  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    "Budget": record(_BUDGET_MAYBE, **_BUDGET),
    "BudgetAsked": _BUDGET_ASKED,
    "LimitHit": either(record(_LIMIT_MAYBE, id=nullable(TEXT), **_LIMIT_HIT), ref("BudgetOfOthers")),
    "BudgetOfOthers": described(
        record(id=TEXT, state=words("active", "paused")),
        "a budget that counts others too, as a person by a token of their own is told of it",
    ),
    "Allowance": _ALLOWANCE,
    "Quote": record({"passkey_options": described(OBJECT, "for `navigator.credentials.get`")}, **_QUOTE),
    "QuoteAnswered": record(**_QUOTE, status=words("approved", "needs_second_person", "refused")),
    "Waiting": either(ref("QuoteWaiting"), ref("QuestionWaiting")),
    "QuoteWaiting": record(**_QUOTE, waits_for=described(TEXT, "whose answer")),
    "QuestionWaiting": _QUESTION,
    "Explained": _EXPLAINED,
}

_GONE = record(id=BUDGET_ID, deleted=TRUE)
_MAX_QUERY = {"approved_max": described(USD_TEXT, "what `passkey_options` are to sign; else the quote's maximum")}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET", path="/api/budgets", name="list_budgets", summary="The budgets and how they stand", who=Who.APP,
        parameters=("Person", "Limit", "After"), answer=listing(ref("Budget")),
    ),
    Endpoint(
        method="PUT", path="/api/budgets", name="put_budgets", who=Who.APP, once=True, refused=(404,),
        summary="Makes or replaces those named by id, or by scope and window; removes none",
        body=either(ref("BudgetAsked"), BUDGETS_ASKED, asked(budgets=BUDGETS_ASKED)),
        answer=either(ref("Budget"), listing(ref("Budget"))),
    ),
    Endpoint(
        method="DELETE", path="/api/budgets/{id}", name="delete_budget", summary="Takes a budget out", who=Who.APP,
        ids={"id": BUDGET_ID}, answer=_GONE, refused=(409,),
    ),
    Endpoint(
        method="POST", path="/api/budgets/{id}/resume", name="resume_budget", summary="Lets a paused budget count on",
        who=Who.APP, ids={"id": BUDGET_ID}, parameters=("Person",), body=asked(), once=True, answer=ref("Budget"),
    ),
    Endpoint(
        method="GET", path="/api/allowances", name="list_allowances", summary="What sessions may spend unasked",
        who=Who.APP, parameters=("Person", "Limit", "After"), answer=listing(ref("Allowance")),
    ),
    Endpoint(
        method="POST", path="/api/allowances", name="make_allowance", summary="Lets a session spend unasked",
        who=Who.APP, body=_ALLOWANCE_ASKED, once=True, status=201, answer=ref("Allowance"), refused=(404, 429),
    ),
    Endpoint(
        method="DELETE", path="/api/allowances/{id}", name="revoke_allowance", summary="Withdraws it at once",
        who=Who.APP, ids={"id": ALLOWANCE_ID}, answer=ref("Allowance"), refused=(409,),
    ),
    Endpoint(
        method="GET", path="/api/approvals", name="list_approvals", summary="What waits for an answer, and whose",
        who=Who.APP, parameters=("Limit", "After"), answer=listing(ref("Waiting")),
    ),
    Endpoint(
        method="GET", path="/api/quotes/{id}", name="read_quote", summary="A quote as it stands", who=Who.APP,
        ids={"id": QUOTE_ID}, query=_MAX_QUERY, answer=ref("Quote"),
    ),
    Endpoint(
        method="POST", path="/api/quotes/{id}/approve", name="approve_quote", summary="A yes, up to `approved_max`",
        who=Who.APP, ids={"id": QUOTE_ID}, once=True, answer=ref("QuoteAnswered"), refused=(429,),
        body=asked({"approved_max": described(nullable(money_asked), "else the quote's maximum"), **PROOF_MEMBERS}),
    ),
    Endpoint(
        method="POST", path="/api/quotes/{id}/refuse", name="refuse_quote", summary="A no", who=Who.APP,
        ids={"id": QUOTE_ID}, body=asked(), once=True, answer=ref("QuoteAnswered"),
    ),
    Endpoint(
        method="POST", path="/api/policies/explain", name="explain", who=Who.APP, body=_EXPLAIN_ASKED,
        summary="Which rule would decide about a request, and why; nothing happens", answer=ref("Explained"),
        refused=(404, 405),
    ),
)  # fmt: skip
