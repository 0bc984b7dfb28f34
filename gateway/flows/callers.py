"""Who calls with an app key: key, organization, person. What this worker has seen costs no round trip; the versions of
what it remembers are checked in the very step that reserves the money.

A key that is unknown, expired or revoked is 401; one that is known but not for this is 403. A person whom nobody knows
is made on first sight, so many a minute for each key.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from gateway.core.call import Call
from gateway.core.credentials import AppKey, IdentityToken
from gateway.core.directory import Key, OrgView, PersonView, account_of_org
from gateway.core.errors import Forbidden, InvalidKey, InvalidRequest
from gateway.core.key_scopes import refusal_of
from gateway.core.person_headers import PersonHeaders, person_headers
from gateway.core.routing import ACCOUNT, Match
from gateway.flows.directory import Directory
from gateway.ports import System


class Caller(Struct):
    """Who pays for a request with an app key. `person` None: the key speaks for itself."""

    text: str
    key: Key
    org: OrgView
    said: PersonHeaders
    person_id: str = ""
    person: PersonView | None = None
    by_token: bool = False  # a person's own token names them: what is the organization's is not told

    @property
    def sees_balance(self) -> bool:
        """Whether what is left is theirs to see."""
        return not self.by_token or self.account != account_of_org(self.key.org_id)

    @property
    def account(self) -> str:
        """Whose money it is: the person's own account, where there is one, else the organization's."""
        if self.person is not None and self.person.person.account:
            return self.person.person.account
        return account_of_org(self.key.org_id)

    @property
    def actor(self) -> str:
        """For counters of one payer: the person, or the key where it speaks for itself."""
        return self.person_id or self.key.key_id


class Identity(Protocol):
    """Who an identity provider's token names."""

    def seen(self, token: str) -> Named | None: ...
    async def verify(self, token: str) -> Named: ...


class Named(Protocol):
    """What a good token says. `key_id`: under whose limits a request with the token alone runs; "" for none."""

    @property
    def person_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def org_id(self) -> str: ...


class Callers:
    """Identifies callers."""

    def __init__(self, *, directory: Directory, identity: Identity | None, system: System) -> None:
        self._directory = directory
        self._identity = identity
        self._system = system

    @property
    def knows_identity(self) -> bool:
        """Whether an identity provider is configured."""
        return self._identity is not None

    async def known(self, call: Call, credential: AppKey | IdentityToken) -> Caller:
        """The key behind a credential, with what the request says of the person; the person is not looked up yet.
        Errors: InvalidKey, InvalidRequest, Unavailable."""
        said = person_headers(call.headers)
        text = credential.key if isinstance(credential, AppKey) else ""
        token = credential.identity if isinstance(credential, AppKey) else credential.token
        named = None
        if token and self._identity is not None:
            named = self._identity.seen(token) or await self._identity.verify(token)
        if text:
            found = self._directory.seen_key(text) or await self._directory.find_key(text)
        else:
            found = await self._directory.key_by_id(named.key_id) if named is not None and named.key_id else None
        if found is None:
            raise InvalidKey("this key is not known here", param="authorization")
        key, org = found
        self._must_be_good(key, org)
        person_id = said.user
        if named is not None:
            if named.org_id and named.org_id != key.org_id:
                raise Forbidden("the identity token and the key belong to different organizations")
            if person_id and person_id != named.person_id:
                raise InvalidRequest("it names another person than the identity token", param="farebox-user")
            person_id = named.person_id
        call.belong_to(org.org.partition)
        return Caller(text, key, org, said, person_id, by_token=named is not None)

    def admit(self, call: Call, caller: Caller, match: Match, model: str) -> None:
        """Whether the key is for this request. Errors: Forbidden."""
        if ACCOUNT not in match.route.payers:
            raise Forbidden("this route does not admit accounts")
        names = (call.path, match.route.path, match.operation.value, match.upstream_name)
        reason = refusal_of(caller.key, address=call.address, names=names, model=model)
        if reason is not None:
            raise Forbidden(reason)

    async def with_person(self, caller: Caller) -> None:
        """Look the person up, or make them. Errors: RateLimited (too many new ones), Forbidden, Unavailable."""
        if not caller.person_id:
            return
        caller.person = self._directory.seen_person(
            caller.key.org_id, caller.person_id
        ) or await self._directory.see_person(caller.key, caller.org.org, caller.person_id)
        if caller.person.person.suspended:
            raise Forbidden("this person is suspended")

    async def refresh(self, caller: Caller) -> None:
        """Read again what was remembered: it has changed. Errors: InvalidKey, Forbidden, Unavailable."""
        self._directory.forget(caller.key.org_id, caller.person_id)
        found = await (
            self._directory.find_key(caller.text) if caller.text else self._directory.key_by_id(caller.key.key_id)
        )
        if found is None:
            raise InvalidKey("this key is no longer good", param="authorization")
        caller.key, caller.org = found
        self._must_be_good(caller.key, caller.org)
        await self.with_person(caller)

    async def check_fresh(self, caller: Caller) -> None:
        """For what costs nothing, and so is checked by no hold: read again what has changed."""
        if not await self.is_fresh(caller):
            await self.refresh(caller)

    async def is_fresh(self, caller: Caller) -> bool:
        """Whether what is remembered of the caller still stands. Errors: Unavailable."""
        return await self._directory.is_fresh(caller.org, caller.person)

    def _must_be_good(self, key: Key, org: OrgView) -> None:
        now_ms = int(self._system.now_s() * 1_000)
        if key.revoked or (key.expires_at_ms is not None and now_ms >= key.expires_at_ms):
            raise InvalidKey("this key was revoked or has expired", param="authorization")
        if key.operator:
            raise Forbidden("an operator key is for /admin; make an app key for this")
        if org.org.suspended:
            raise Forbidden("this account is suspended")
