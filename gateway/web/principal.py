"""Who asks one of our own paths: an app key, for itself or for a person; an identity provider's token; an operator key.

A key says which organization; what it may do there are its permissions. Whoever names a person acts for that person. A
person's own token lends them nothing of the key that it runs under: they read and approve what is theirs. The failure
this prevents: a person who makes themselves a key, a plan, or a listener to what others do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from gateway.core.credentials import AppKey, IdentityToken, L402Credential, parse_credential
from gateway.core.directory import Key, Permission, Principal
from gateway.core.errors import Forbidden, InvalidKey, InvalidRequest
from gateway.core.ids import account_id, org_of_account
from gateway.core.key_scopes import admits_address
from gateway.core.person_headers import person_headers
from gateway.flows.callers import Identity
from gateway.flows.directory import Directory
from gateway.ports import IdempotencyRecords, System
from gateway.web.addresses import Addresses
from gateway.web.api_bodies import members, read_object
from gateway.web.idempotency import once
from gateway.web.site_trace import trace_of


@dataclass(frozen=True, slots=True)
class Api:
    """The common ground of our own paths. `identity` None: no provider is configured."""

    directory: Directory
    identity: Identity | None
    records: IdempotencyRecords
    addresses: Addresses
    system: System

    async def principal(self, request: HTTPConnection, permission: Permission) -> Principal:
        """Who asks, allowed to. Errors: InvalidKey, Forbidden, AmbiguousCredential, InvalidRequest."""
        headers = request.scope["headers"]
        said = person_headers(headers)
        key, named = await self._key(request)
        org_id, person_id = key.org_id, said.user
        if key.operator:
            org_id = await self._named_org(request)
        if named is not None:
            if named.org_id not in ("", org_id):
                raise Forbidden("the identity token and the key belong to different organizations")
            if person_id and person_id != named.person_id:
                raise InvalidRequest("it names another person than the identity token", param="farebox-user")
            person_id = named.person_id
        if person_id and not key.operator:
            await self._must_not_be_suspended(org_id, person_id)
        trace = trace_of(request.scope)
        trace.org, trace.user = org_id, person_id
        permissions = tuple(Permission) if key.operator else key.permissions
        if named is not None:
            permissions = tuple(each for each in permissions if each is not Permission.MANAGE)
        if permission not in permissions:
            raise Forbidden(f"this key has not the permission {permission.value!r}")
        return Principal(
            org_id,
            key.key_id,
            person_id,
            permissions,
            key.operator,
            "jwt" if named is not None else "app",
            said.session,
        )

    async def _named_org(self, request: HTTPConnection) -> str:
        """The organization that an operator names. Errors: InvalidRequest."""
        account = account_id(request.query_params.get("account", ""))
        org = None if account is None else await self.directory.org(org_of_account(account))
        if org is None:
            raise InvalidRequest("an operator names the account: ?account=org_...", param="account")
        return org.org.org_id

    async def _must_not_be_suspended(self, org_id: str, person_id: str) -> None:
        """Looked up each time, because no hold checks it. Errors: Forbidden."""
        person = await self.directory.store.person(org_id, person_id)
        if person is not None and person.person.suspended:
            raise Forbidden("this person is suspended")

    async def organization(self, request: HTTPConnection, permission: Permission) -> Principal:
        """Who asks for what is the organization's, not one person's. Errors: as `principal`."""
        principal = await self.principal(request, permission)
        if principal.vouched == "jwt":
            raise Forbidden("this is the organization's: it takes an app key, not a person's token")
        return principal

    async def operator(self, request: HTTPConnection) -> Principal:
        """An operator. Errors: InvalidKey, Forbidden."""
        key, _ = await self._key(request)
        if not key.operator:
            raise Forbidden("this path is for operator keys")
        return Principal(key.org_id, key.key_id, "", tuple(Permission), operator=True, vouched="operator")

    async def _key(self, request: HTTPConnection) -> tuple[Key, Any]:
        headers, query = request.scope["headers"], request.scope["query_string"]
        credential = parse_credential(headers, query)
        if isinstance(credential, L402Credential):
            raise Forbidden("this path is for app keys, not for L402 credentials")
        named = None
        token = credential.identity if isinstance(credential, AppKey) else getattr(credential, "token", "")
        if token and self.identity is not None:
            named = self.identity.seen(token) or await self.identity.verify(token)
        found = None
        if isinstance(credential, AppKey):
            found = await self.directory.current_key(text=credential.key)
        elif isinstance(credential, IdentityToken) and named is not None and named.key_id:
            found = await self.directory.current_key(key_id=named.key_id)
        else:
            raise InvalidKey("this path needs a key: Authorization: Bearer fb_...", param="authorization")
        if found is None:
            raise InvalidKey("this key is not known here", param="authorization")
        key, org = found
        trace_of(request.scope).key_id = key.key_id
        now_ms = int(self.system.now_s() * 1_000)
        if key.revoked or (key.expires_at_ms is not None and now_ms >= key.expires_at_ms):
            raise InvalidKey("this key was revoked or has expired", param="authorization")
        if not admits_address(key, self.addresses.of(dict(request.scope), headers)):
            raise Forbidden("this key is not for this address")
        if org.org.suspended:
            raise Forbidden("this account is suspended")
        return key, named

    async def changed(
        self,
        request: Request,
        principal: Principal,
        act: Callable[[dict[str, Any]], Awaitable[Any]],
        *,
        allowed: Collection[str],
        required: Collection[str] = (),
        status: int = 200,
    ) -> Response:
        """Carry out a change that a JSON object asks for, once under its `Idempotency-Key`."""
        body, raw = await read_object(request)
        members(body, allowed, required=required)

        async def acted() -> tuple[Any, bool]:
            return await act(body), True

        return await once(self.records, request, payer_of(principal), raw, acted, status=status)


def payer_of(principal: Principal) -> str:
    """Whose idempotency records these are: of one key and person, for an answer may hold what another key must not
    see."""
    org_id = principal.org_id or f"org_{principal.key_id.removeprefix('ak_')}"
    return f"{principal.key_id}:{principal.person_id}:{org_id}"
