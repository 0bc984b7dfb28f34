"""Tokens of identity providers (JWT): which person a token names, once its signature, issuer, audience and times hold.

Keys come from the provider's JWKS, fetched off the hot path: at the first token, when a token names a key that is not
known (at most once a minute), and every hour. A provider that is away does not shut out tokens of keys that are known.
A token that was verified is remembered until it ends, so that it costs a request nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import jwt
from jwt import PyJWK, PyJWKSet

from gateway.core.budgets import EVERYBODY
from gateway.core.directory import PERSON_ID_CHARACTERS
from gateway.core.errors import InvalidKey, Unavailable

REFRESH_S, UNKNOWN_KEY_S = 3_600.0, 60.0
REMEMBERED_MOST = 32_768
JWKS_MOST_BYTES = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An identity provider. `org_id`: whose persons its tokens name ("" whoever's key comes along); `key_id`: under
    whose limits a request with the token alone runs ("" none may)."""

    issuer: str
    audience: str
    jwks: str
    person_claim: str = "sub"
    org_id: str = ""
    key_id: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    leeway_s: int = 30


@dataclass(frozen=True, slots=True)
class NamedPerson:
    """What a good token says."""

    person_id: str
    org_id: str
    key_id: str
    expires_at_s: float


class _Keys:
    """The keys of one provider."""

    def __init__(self, provider: Provider, http: httpx.AsyncClient) -> None:
        self._provider = provider
        self._http = http
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, key_id: str) -> PyJWK | None:
        """The key that a token names. Errors: Unavailable where no keys were ever had."""
        found = self._keys.get(key_id)
        now = time.monotonic()
        wait_s = UNKNOWN_KEY_S if self._keys else 0.0
        if now - self._fetched_at > REFRESH_S or (found is None and now - self._tried_at > wait_s):
            async with self._lock:
                if self._tried_at < now:
                    await self._fetch()
            found = self._keys.get(key_id)
        if not self._keys:
            raise Unavailable("the identity provider's keys cannot be had", code="identity_unavailable")
        if found is None and not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return found

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        try:
            raw = await self._read()
            keys = {key.key_id or "": key for key in PyJWKSet.from_json(raw).keys}
        except (httpx.HTTPError, OSError, ValueError, jwt.PyJWTError):
            return  # what is known goes on; with nothing known, `find` says so
        self._keys, self._fetched_at = keys, time.monotonic()

    async def _read(self) -> str:
        if not self._provider.jwks.startswith(("https://", "http://")):
            return await asyncio.to_thread(Path(self._provider.jwks).read_text, encoding="utf-8")
        answer = await self._http.get(self._provider.jwks)
        answer.raise_for_status()
        if len(answer.content) > JWKS_MOST_BYTES:
            message = "the key set is too large"
            raise ValueError(message)
        return answer.text


class Identity:
    """Verifies tokens of the configured providers."""

    def __init__(self, providers: Sequence[Provider], now_s: Callable[[], float]) -> None:
        self._http = httpx.AsyncClient(timeout=5.0, follow_redirects=False)
        self._providers = {provider.issuer: (provider, _Keys(provider, self._http)) for provider in providers}
        self._now_s = now_s
        self._known: OrderedDict[bytes, NamedPerson] = OrderedDict()

    def seen(self, token: str) -> NamedPerson | None:
        """What this worker has verified before, while it is good. Never waits."""
        known = self._known.get(sha256(token.encode()).digest())
        return known if known is not None and self._now_s() < known.expires_at_s else None

    async def verify(self, token: str) -> NamedPerson:
        """Whom a token names. Errors: InvalidKey, Unavailable."""
        try:
            unverified: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise InvalidKey("the identity token cannot be read", param="authorization") from None
        found = self._providers.get(str(unverified.get("iss")))
        if found is None:
            raise InvalidKey("no identity provider of this issuer is known here", param="authorization")
        provider, keys = found
        key = await keys.find(str(header.get("kid") or ""))
        if key is None or header.get("alg") not in provider.algorithms or not _fits(key, str(header["alg"])):
            raise InvalidKey("the identity token is signed by a key that is not known", param="authorization")
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key.key, algorithms=list(provider.algorithms), audience=provider.audience,
                issuer=provider.issuer, leeway=provider.leeway_s, options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise InvalidKey(f"the identity token is not good: {error}", param="authorization") from None
        return self._remember(token, provider, claims)

    def _remember(self, token: str, provider: Provider, claims: dict[str, Any]) -> NamedPerson:
        person_id = claims.get(provider.person_claim)
        if not isinstance(person_id, str) or not 0 < len(person_id) <= PERSON_ID_CHARACTERS or person_id == EVERYBODY:
            raise InvalidKey(f"the identity token names no person in {provider.person_claim!r}", param="authorization")
        named = NamedPerson(person_id, provider.org_id, provider.key_id, float(claims["exp"]))
        if len(self._known) >= REMEMBERED_MOST:
            self._known.popitem(last=False)
        self._known[sha256(token.encode()).digest()] = named
        return named

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()


# The key types that an algorithm signs with (RFC 7518, section 6.1): another type would be an error of the library.
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


def _fits(key: PyJWK, algorithm: str) -> bool:
    return key.key_type == _KEY_TYPES.get(algorithm[:2])
