"""What an agent can ask about its credit, and of it: balance, refund, revocation, and how this gateway speaks L402.

These paths show credentials like any other: whoever shows none gets the same challenge as on the relay, so that a
client's one way of paying works everywhere on the host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, assert_never

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.challenges import ChallengePolicy, asked_deposit
from gateway.core.credentials import AppKey, IdentityToken, L402Credential, Malformed, NoCredential, parse_credential
from gateway.core.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound, PaymentRequired
from gateway.core.headers import content_type_of
from gateway.core.refunds import RefundState, refund_members
from gateway.core.restrictions import RequestContext
from gateway.flows.challenging import Challenger
from gateway.flows.crediting import Crediting
from gateway.flows.refunding import Refunder
from gateway.flows.verifying import Forbids, NeedsChallenge, VerifiedPayer, Verifier
from gateway.ports import IdempotencyRecords, Ledger, System
from gateway.web.addresses import Addresses
from gateway.web.api_bodies import read_json
from gateway.web.bodies import read_body
from gateway.web.idempotency import once
from gateway.web.site_trace import trace_of

# A refund's body is one invoice.
GREATEST_BODY_BYTES = 16_384
_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class L402Desk:
    """What the handlers need."""

    policy: Callable[[], ChallengePolicy]
    challenger: Challenger
    verifier: Verifier
    crediting: Crediting
    refunder: Refunder | None  # None where the node's macaroon does not let us pay
    ledger: Ledger
    records: IdempotencyRecords
    addresses: Addresses
    system: System


def l402_routes(desk: L402Desk) -> list[Route]:
    """The routes, for the application's table. Handlers raise `Problem`."""

    async def balance(request: Request) -> Response:
        return await _balance(desk, request)

    async def refund(request: Request) -> Response:
        return await _once(desk, request, _refund)

    async def revoke(request: Request) -> Response:
        return await _once(desk, request, _revoke)

    async def well_known(_request: Request) -> Response:
        return _json(_description(desk.policy()), {"cache-control": "public, max-age=300"})

    return [
        Route("/l402/balance", balance, methods=["GET"]),
        Route("/l402/refund", refund, methods=["POST"]),
        Route("/l402/revoke", revoke, methods=["POST"]),
        Route("/.well-known/l402.json", well_known, methods=["GET"]),
    ]


async def _balance(desk: L402Desk, request: Request) -> Response:
    payer = await _payer(desk, request)
    rate = await desk.crediting.rate_after_credit(payer)
    if isinstance(rate, NeedsChallenge):
        raise await _challenge(desk, request, rate)
    balance = await desk.ledger.balance(payer.account)
    if balance is None:
        raise NotFound("There is no credit under this token.")
    return _json(
        {
            "credited_msat": balance.credited,
            "posted_msat": balance.posted,
            "held_msat": balance.held,
            "available_msat": balance.available,
            "expires_at": datetime.fromtimestamp(payer.expires_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )


async def _refund(desk: L402Desk, request: Request, payer: VerifiedPayer, body: bytes) -> tuple[dict[str, Any], bool]:
    """The answer, and whether it is final."""
    if desk.refunder is None:
        raise Forbidden("This gateway does not pay refunds.")
    refund = await desk.refunder.refund(payer, _payment_request(body))
    if isinstance(refund, NeedsChallenge):
        raise await _challenge(desk, request, refund)
    return refund_members(refund), refund.state in (RefundState.PAID, RefundState.FAILED)


async def _revoke(desk: L402Desk, request: Request, payer: VerifiedPayer, _body: bytes) -> tuple[dict[str, Any], bool]:
    """Every token of this id, also those that others made from it, buys nothing any more."""
    if payer.attenuated:
        raise Forbidden("Revocation needs the token as it was issued, without caveats of your own.")
    rate = await desk.crediting.rate_of(payer)
    if isinstance(rate, NeedsChallenge):
        raise await _challenge(desk, request, rate)
    await desk.ledger.revoke(payer.token, payer.account)
    return {"token_id": payer.token, "revoked": True}, True


Act = Callable[[L402Desk, Request, VerifiedPayer, bytes], Awaitable[tuple[dict[str, Any], bool]]]


async def _once(desk: L402Desk, request: Request, act: Act) -> Response:
    """Act for whoever shows a credential, once under an `Idempotency-Key`."""
    payer = await _payer(desk, request)
    content_type_of(request.scope["headers"])
    body = await read_body(request.receive, GREATEST_BODY_BYTES)  # type: ignore[arg-type]
    return await once(desk.records, request, payer.account, body, partial(act, desk, request, payer, body))


async def _payer(desk: L402Desk, request: Request) -> VerifiedPayer:
    """Whose credit it is. Errors: PaymentRequired with a challenge, Forbidden, AmbiguousCredential."""
    credential = parse_credential(request.scope["headers"], request.scope["query_string"], desk.verifier.proved)
    match credential:
        case NoCredential() | IdentityToken():
            raise await _challenge(desk, request, NeedsChallenge("an L402 credential is needed here"))
        case Malformed(reason):
            raise await _challenge(desk, request, NeedsChallenge(reason))
        case AppKey():
            raise Forbidden("This path is for L402 credentials, not for app keys.")
        case L402Credential():
            context = RequestContext(
                now_s=int(desk.system.now_s()),
                service=None,
                method=request.method,
                path=request.scope["path"],
                route="l402",
                names=("l402",),
            )
            outcome = desk.verifier.owner(credential, context)
        case _:
            assert_never(credential)
    if isinstance(outcome, Forbids):
        raise Forbidden(f"A caveat of the token forbids this: {outcome.reason}.")
    if isinstance(outcome, NeedsChallenge):
        raise await _challenge(desk, request, outcome)
    trace_of(request.scope).account = outcome.account
    return outcome


async def account_of(desk: L402Desk, request: Request) -> str:
    """The account behind a request's credential. Errors: as for every path here."""
    return (await _payer(desk, request)).account


async def _challenge(desk: L402Desk, request: Request, needs: NeedsChallenge) -> PaymentRequired:
    """The 402 to raise. A HEAD gets no body, so nobody could pay what it would be answered with."""
    if request.method == "HEAD":
        raise MethodNotAllowed("ask with GET", headers={"allow": "GET"})
    headers = request.scope["headers"]
    challenge = await desk.challenger.challenge(
        desk.addresses.of(dict(request.scope), headers),
        asked_sats=asked_deposit(headers),
        top_up_of=needs.top_up_of,
    )
    return desk.challenger.refusal(challenge, f"Payment is required: {needs.reason}.")


def _payment_request(body: bytes) -> str:
    members = read_json(body)
    if not isinstance(members, dict):
        raise InvalidRequest("The body is a JSON object with `payment_request`.", param="body")
    for name in members:
        if name != "payment_request":
            raise InvalidRequest("There is no such member; only `payment_request` is.", param=str(name)[:64])
    payment_request = members.get("payment_request")
    if not isinstance(payment_request, str):
        raise InvalidRequest("payment_request is a BOLT11 invoice.", param="payment_request")
    return payment_request


def _description(policy: ChallengePolicy) -> dict[str, Any]:
    """What a client can know before its first request. Where `payment_methods` is empty, no credit is sold."""
    return {
        "version": "0",
        "schemes": ["L402", "LSAT"],
        "service": policy.service,
        "payment_methods": list(policy.payment_methods),
        "deposit": {
            "default_sats": policy.default_deposit_sats,
            "min_sats": policy.least_deposit_sats,
            "max_sats": policy.greatest_deposit_sats,
            "headers": ["Farebox-Deposit", "X-Bolthub-Credit"],
        },
        "invoice_expiry_s": policy.invoice_expiry_s,
        "token_lifetime_s": policy.token_lifetime_s,
        "caveats": {
            "enforced": [
                "services",
                f"{policy.service}_capabilities",
                f"{policy.service}_valid_until",
                "valid_until",
                "method",
                "path_prefix",
                "n_uses",
                "max_sats",
                "preimage",
            ],
            "ignored": sorted(policy.ignorable_caveats),
        },
        "balance": "/l402/balance",
        "refund": "/l402/refund",
        "revoke": "/l402/revoke",
    }


def _json(members: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(members), media_type="application/json", headers=headers or _NO_STORE)
