"""The answer to whoever has not paid: limits first, then rate, invoice, token.

Every request gets a challenge of its own (a shared invoice is known to strangers), counted before the node is asked
for anything, so that a flood costs a script call and no invoice. The challenge to a spent credential carries the same
token, so that what is left and what is bought add up; it is shown again while half of its life is left, however many
requests ask for it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from gateway.core.challenges import (
    NONCE_BYTES,
    TOKEN_BYTES,
    Challenge,
    ChallengePolicy,
    Memo,
    challenge_members,
    deposit_sats,
    write_memo,
    www_authenticate,
)
from gateway.core.crowds import ChallengeLimits, ChallengePlace, Crowd, place_of, place_of_top_up
from gateway.core.errors import PaymentRequired, RateLimited, Unavailable
from gateway.core.invoices import payment_hash_of
from gateway.core.money import MSAT_PER_SAT, Rate
from gateway.flows.together import Together
from gateway.ports import ChallengeBook, LightningNode, Rates, System, TokenMint

NOTHING_SOLD = "no credit is sold here: this gateway has no Lightning node; ask with a key of an account"
_CROWDED = {
    Crowd.ADDRESS: "This address has too many unpaid invoices; pay one or let them expire.",
    Crowd.RATE: "Too many invoices were asked for from this network.",
    Crowd.PREFIX: "This network has too many unpaid invoices.",
    Crowd.ALL: "Too many invoices are open.",
}


class Challenger:
    """Makes challenges. `policy` is read anew for each, so that a reload takes effect."""

    def __init__(
        self,
        *,
        policy: Callable[[], ChallengePolicy],
        node: LightningNode,
        rates: Rates,
        mint: TokenMint,
        book: ChallengeBook,
        system: System,
        made: Callable[[str], None] | None = None,
    ) -> None:
        """`made` is told of each challenge: `new` or `top_up`."""
        self._made = made
        self._policy = policy
        self._node = node
        self._rates = rates
        self._mint = mint
        self._book = book
        self._system = system
        self._top_ups: Together[Challenge] = Together()

    @property
    def usual_msat(self) -> int:
        """What is asked for where nobody says how much."""
        return self._policy().default_deposit_sats * MSAT_PER_SAT

    def rate(self) -> Rate | None:
        """The rate of a challenge made now; None: there can be none."""
        return self._rates.current()

    async def challenge(
        self,
        address: str,
        *,
        service: str | None = None,
        asked_sats: int | None = None,
        needed_msat: int = 0,
        top_up_of: bytes | None = None,
    ) -> Challenge:
        """A challenge to `address` (as the trusted hop sees it). `top_up_of`: the token id of a valid but spent,
        unattenuated credential; None for a new token.

        Errors: RateLimited (a flood limit), Unavailable (rate_unavailable, lightning_unavailable, store_unavailable),
        PaymentRequired without an invoice (no credit is sold here).
        """
        policy = self._policy()
        if not policy.payment_methods:
            raise PaymentRequired(NOTHING_SOLD, members={"payment_methods": []})
        sats = deposit_sats(policy, asked=asked_sats, needed_msat=needed_msat)
        service = service or policy.service
        if top_up_of is not None:
            return await self._top_ups.run((top_up_of, sats), partial(self._top_up, policy, service, sats, top_up_of))
        nonce = self._random(NONCE_BYTES)
        place = place_of(address, nonce=nonce, life_ms=policy.invoice_expiry_s * 1_000)
        return await self._make(policy, place, service, sats, self._random(TOKEN_BYTES))

    async def _top_up(self, policy: ChallengePolicy, service: str, sats: int, token_id: bytes) -> Challenge:
        kept = await self._book.kept_top_up(token_id)
        if kept is not None:
            challenge = msgspec.json.decode(kept, type=Challenge)
            if challenge.amount_sats == sats:
                return challenge
        nonce = self._random(NONCE_BYTES)
        life_ms = policy.invoice_expiry_s * 1_000
        place = place_of_top_up(token_id, nonce=nonce, life_ms=life_ms)
        challenge = await self._make(policy, place, service, sats, token_id)
        await self._book.keep_top_up(token_id, msgspec.json.encode(challenge), life_ms=life_ms // 2)
        return challenge

    async def _make(
        self, policy: ChallengePolicy, place: ChallengePlace, service: str, sats: int, token: bytes
    ) -> Challenge:
        """Limits, rate, invoice, token. The place is given back when anything after it fails."""
        rate = self._rates.current()
        if rate is None:
            raise Unavailable("There is no fresh exchange rate.", code="rate_unavailable", retry_after_s=10)
        crowded = await self._book.reserve(place, _limits(policy))
        if crowded is not None:
            raise RateLimited(_CROWDED[crowded.crowd], retry_after_s=-(-crowded.retry_after_ms // 1_000))
        try:
            challenge = await self._invoice(policy, Memo(service, token, place.nonce, rate), sats)
        except BaseException:
            await _even_if_cancelled(self._book.release(place.nonce))
            raise
        if self._made is not None:
            self._made("top_up" if place.prefix is None else "new")
        return challenge

    async def _invoice(self, policy: ChallengePolicy, memo: Memo, sats: int) -> Challenge:
        amount_msat = sats * MSAT_PER_SAT
        text = write_memo(memo, amount_msat=amount_msat, key=self._mint.memo_keys[0])
        invoice = await self._node.add_invoice(amount_msat=amount_msat, memo=text, expiry_s=policy.invoice_expiry_s)
        if payment_hash_of(invoice.payment_request) != invoice.payment_hash:
            raise Unavailable(
                "The node's invoice is for another payment.", code="lightning_unavailable", retry_after_s=10
            )
        macaroon = self._mint.mint(
            payment_hash=invoice.payment_hash,
            token_id=memo.token_id,
            service=memo.service,
            expires_at_s=int(self._system.now_s()) + policy.token_lifetime_s,
        )
        return Challenge(
            macaroon=macaroon,
            invoice=invoice.payment_request,
            payment_hash=invoice.payment_hash,
            token_id=memo.token_id,
            amount_sats=sats,
            rate=memo.rate,
            expires_at_s=invoice.expires_at_s,
        )

    def _random(self, n_bytes: int) -> bytes:
        return bytes.fromhex(self._system.token_hex(n_bytes))

    def refusal(
        self,
        challenge: Challenge,
        detail: str,
        *,
        cost_nanousd: int | None = None,
        members: dict[str, Any] | None = None,
    ) -> PaymentRequired:
        """The 402 that carries the challenge; `members` (a quote, the balance) go first."""
        methods = self._policy().payment_methods
        body = {
            **(members or {}),
            **challenge_members(challenge, payment_methods=methods, cost_nanousd=cost_nanousd),
        }
        return PaymentRequired(detail, members=body, headers={"www-authenticate": www_authenticate(challenge)})


def _limits(policy: ChallengePolicy) -> ChallengeLimits:
    return ChallengeLimits(
        challenges_per_minute=policy.challenges_per_minute,
        unpaid_per_address=policy.unpaid_per_address,
        open_per_prefix=policy.open_per_prefix,
        open_in_all=policy.open_in_all,
    )


async def _even_if_cancelled(cleanup: Coroutine[Any, Any, None]) -> None:
    """Give back in any case; where the store is away, the place frees itself when the invoice would have expired."""
    with suppress(Unavailable):
        await asyncio.shield(asyncio.create_task(cleanup))
