"""Operator keys: made and revoked straight in the store, because they stand above everybody who could be asked."""

from __future__ import annotations

import secrets
import time

import msgspec
from msgspec.structs import replace

from gateway.adapters.redis.directory import RedisDirectory
from gateway.cli.store import open_for_command
from gateway.config import Config
from gateway.core.directory import AuditEntry, Key
from gateway.core.key_texts import key_id_of, make_key_text

_RANDOM_BYTES = 31


async def make_operator_key(config: Config, name: str = "") -> str:
    """Make an operator key and give its text, which is kept nowhere. Errors: Unavailable, OSError."""
    made = make_key_text(partition=secrets.token_hex(1), random_hex=secrets.token_hex(_RANDOM_BYTES), operator=True)
    now_ms = int(time.time() * 1_000)
    # An operator belongs to no organization; the key is kept under one of its own name.
    org_id = f"org_{made.key_id.removeprefix('ak_')}"
    key = Key(made.key_id, org_id, made.digest, name=name, operator=True, created_at_ms=now_ms)
    shown = msgspec.json.encode({"id": key.key_id, "name": name, "operator": True})
    audit = AuditEntry(now_ms, org_id, "command line", "command", "key.create", key.key_id, b"null", shown)
    async with open_for_command(config) as store:
        await RedisDirectory(store.link).put_key(key, audit, expected=None)
    return made.text


async def revoke_operator_key(config: Config, id_or_text: str) -> str | None:
    """From now on the key is good for nothing; its id, None where there is no such operator key. Errors: Unavailable,
    OSError."""
    key_id = key_id_of(id_or_text) or id_or_text
    async with open_for_command(config) as store:
        directory = RedisDirectory(store.link)
        try:
            key = await directory.key(key_id)
        except ValueError:
            return None
        if key is None or not key.operator:
            return None
        now_ms = int(time.time() * 1_000)
        before, after = (msgspec.json.encode({"id": key_id, "state": state}) for state in ("active", "revoked"))
        audit = AuditEntry(now_ms, key.org_id, "command line", "command", "key.revoke", key_id, before, after)
        await directory.put_key(replace(key, revoked=True, previous_until_ms=0), audit, expected=None)
    return key_id
