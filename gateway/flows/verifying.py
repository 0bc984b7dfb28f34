"""From a credential to the account that pays.

What is remembered of a credential is only "the signature is good": time is looked at on every request; revocation,
credit and counters are looked at inside `ledger.place`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from gateway.core.challenges import ChallengePolicy, token_of_top_up
from gateway.core.credentials import L402Credential
from gateway.core.holds import ScopeClaim
from gateway.core.restrictions import Denied, RequestContext, Restrictions, judge, restrictions_of
from gateway.core.tokens import Unverified, Verified, account_of
from gateway.ports import TokenMint

# 2 KiB each: a worker that serves more tokens than this verifies some of them again, at 100 us each.
REMEMBERED_CREDENTIALS = 8_192


@dataclass(frozen=True, slots=True)
class VerifiedPayer:
    """A credential whose signature, preimage and caveats hold. Whether it is credited, spent or revoked, `place`
    says."""

    account: str
    token_id: bytes
    payment_hash: bytes
    token: str  # hexadecimal, as the ledger's `token_id` wants it
    credit_id: str  # hexadecimal payment hash
    claims: tuple[ScopeClaim, ...]
    attenuated: bool
    expires_at_s: int

    @property
    def top_up_of(self) -> bytes | None:
        """What the challenge to this payer carries once it has spent its credit."""
        return token_of_top_up(self.token_id, attenuated=self.attenuated)


@dataclass(frozen=True, slots=True)
class NeedsChallenge:
    """The proof is missing, wrong, expired or unpaid: a fresh challenge (or one for `top_up_of`)."""

    reason: str
    top_up_of: bytes | None = None


@dataclass(frozen=True, slots=True)
class Forbids:
    """The proof is good, a caveat forbids this request: 403, no challenge."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Known:
    payer: VerifiedPayer
    restrictions: tuple[Restrictions | Denied, ...]


class Verifier:
    """Looks at credentials. No I/O: a microsecond or two for one that was seen before."""

    def __init__(self, *, mint: TokenMint, policy: Callable[[], ChallengePolicy]) -> None:
        self._mint = mint
        self._policy = policy
        self._known: dict[bytes, _Known] = {}
        self._ignorable: frozenset[str] = frozenset()

    def verify(self, credential: L402Credential, context: RequestContext) -> VerifiedPayer | NeedsChallenge | Forbids:
        """Whether this credential may pay for this request now, as far as it can be said without the ledger."""
        known = self._known.get(credential.digest)
        if known is None or self._policy().ignorable_caveats != self._ignorable:
            checked = self._check(credential)
            if isinstance(checked, NeedsChallenge):
                return checked
            known = checked
        for restrictions in known.restrictions:
            judged = judge(restrictions, context)
            if isinstance(judged, Denied):
                return NeedsChallenge(judged.reason) if judged.expired else Forbids(judged.reason)
        return known.payer

    def proved(self, credential: L402Credential) -> VerifiedPayer | None:
        """What a credential proves, the same for every spelling of one token; None where the proof is not good."""
        known = self._known.get(credential.digest)
        checked = known if known is not None else self._check(credential)
        return checked.payer if isinstance(checked, _Known) else None

    def owner(self, credential: L402Credential, context: RequestContext) -> VerifiedPayer | NeedsChallenge | Forbids:
        """The same for what concerns the credit itself (balance, refund, revocation): the expiry of an unattenuated
        token ends what it may buy, not whose money is left."""
        timeless = self.verify(credential, replace(context, now_s=0))
        if isinstance(timeless, VerifiedPayer) and not timeless.attenuated:
            return timeless
        return self.verify(credential, context)

    def _check(self, credential: L402Credential) -> _Known | NeedsChallenge:
        """Signature, preimage, caveats; remembered when the proof is good."""
        ignorable = self._policy().ignorable_caveats
        if ignorable != self._ignorable:
            self._known.clear()
            self._ignorable = ignorable
        verified: list[Verified] = []
        for raw in credential.macaroons:
            outcome = self._mint.verify(raw)
            if isinstance(outcome, Unverified):
                return NeedsChallenge(outcome.reason)
            verified.append(outcome)
        first = verified[0]
        if any((other.token_id, other.payment_hash) != (first.token_id, first.payment_hash) for other in verified):
            return NeedsChallenge("the macaroons are of different tokens")
        restrictions = tuple(
            restrictions_of(one.links, payment_hash=one.payment_hash, own=one.own_caveats, ignorable=ignorable)
            for one in verified
        )
        if not _proves(credential.preimage, first.payment_hash, restrictions):
            return NeedsChallenge("the preimage is not the payment's")
        known = _Known(_payer(first, restrictions), restrictions)
        if len(self._known) >= REMEMBERED_CREDENTIALS:
            del self._known[next(iter(self._known))]
        self._known[credential.digest] = known
        return known


def _proves(preimage: bytes | None, payment_hash: bytes, restrictions: tuple[Restrictions | Denied, ...]) -> bool:
    """The preimage as shown, or one that a caveat carries (which was compared when it was read)."""
    if preimage is not None:
        return sha256(preimage).digest() == payment_hash
    return any(isinstance(one, Restrictions) and one.preimage is not None for one in restrictions)


def _payer(verified: Verified, restrictions: tuple[Restrictions | Denied, ...]) -> VerifiedPayer:
    """The payer under all restrictions of all its macaroons."""
    readable = [one for one in restrictions if isinstance(one, Restrictions)]
    return VerifiedPayer(
        account=account_of(verified.token_id),
        token_id=verified.token_id,
        payment_hash=verified.payment_hash,
        token=verified.token_id.hex(),
        credit_id=verified.payment_hash.hex(),
        claims=tuple(claim for one in readable for claim in one.claims),
        attenuated=len(readable) < len(restrictions) or any(one.attenuated for one in readable),
        expires_at_s=min((one.expires_at_s for one in readable), default=0),
    )
