"""One good call of every script that moves money or writes what is told, and a store in which all of them are good.

Why: whatever is done to such a call (an argument, the type of a key), an error reply must leave the store as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis

from gateway.adapters.redis.scripts import Script, load

TAG = "{p7f}"
ACCOUNT, PERSON, HOLD, LATE = "tok_7fa", "acct_7fb", "ho_7f1", "ho_7f2"
PERSONS_HOLD, PERSONS_LATE = "ho_7f5", "ho_7f6"
FAR_MS = "4102444800000"


@dataclass(frozen=True, slots=True)
class Call:
    """A good call of a script. `numbers` and `names` say which arguments are checked as such; `types` what each key
    is."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str, ...]
    numbers: tuple[int, ...]
    names: tuple[int, ...]
    types: tuple[str, ...]

    def with_argument(self, place: int, value: str) -> Call:
        return replace(self, args=(*self.args[:place], value, *self.args[place + 1 :]))


def key(name: str) -> str:
    return TAG + name


SCOPE_KEYS = (key("c:total|org"), key("c:day:1|user"), key("b:bu_1"), key("u:total|caveat"))
SCOPE_ARGS = ("m", "1000", "0", "m", "", FAR_MS, "u", "5", "0")
SCOPE_TYPES = ("hash", "hash", "hash", "hash")
HOLD_ARGS = ("10", "20", "50", "7", "w1", "", "30000", "600000", "c:pay1", "r:t1", "{}", "5", "1000")
OPEN_TYPES = ("hash", "string", "zset", "stream")
# What a request of a person claims: budgets that tell and pause, caps, the line of usage, a quote.
PERSONS_ARGS = (
    "m pause org_7f1 5 50", "900+", FAR_MS, "m refuse org_7f1 5", "90", "0", "o", "3", "0", "s", "900000", "0",
    "y small|alice|ak_7f1", "", "0", "q d1", "", "0", "g", "3", "0",
)  # fmt: skip
PERSONS_TYPES = ("hash", "hash", "stream", "hash", "stream", "hash", "hash", "hash", "hash")
MONEY_KEYS = (key(f"a:{ACCOUNT}"), key("accounts"), key("journal"))
MONEY_TYPES = ("hash", "set", "stream")
CREDIT_ARGS = ("pay9", "5", "msat", "7", "lightning", "payment", "paid", "", "agent", "house-msat_7f")
HOUSE_ARGS = ("pay9", "5", "msat", "7", "lightning", "promotion", "house", "", "agent", "house-msat_7f")
PERSON_ARGS = ("pay9", "5", "nanousd", "0", "stripe", "payment", "paid", "prepaid", "person", "house-nanousd_7f")
CREDIT_NAMES = (0, 1, 3, 5, 6, 7, 9)


def persons_keys(hold_id: str) -> tuple[str, ...]:
    """Of the scopes, as the hold records them; each hold has a budget that pauses and a quote of its own."""
    return (
        key(f"c:day:1|pausing{hold_id}"), key(f"b:{hold_id}"), key("outbox"), key("c:total|told"), key("outbox"),
        key("o:now|who"), key("s:now|who"), key(f"y:2026-01-05|{PERSON}"), key(f"q:{hold_id}"),
    )  # fmt: skip


def hold_keys(account: str, hold_id: str) -> tuple[str, ...]:
    return (key(f"a:{account}"), key(f"h:{hold_id}"), key("open"), key("journal"))


def calls() -> dict[str, Call]:
    return {**_calls_on_holds("", ACCOUNT, HOLD, LATE), **_calls_on_holds(" of a person", PERSON, PERSONS_HOLD, PERSONS_LATE),
            **_calls_on_accounts(), **_calls_of_the_directory()}  # fmt: skip


def _calls_on_holds(whose: str, account: str, hold_id: str, late_id: str) -> dict[str, Call]:
    def scopes(of_hold: str) -> tuple[str, ...]:
        return persons_keys(of_hold) if whose else SCOPE_KEYS

    types = PERSONS_TYPES if whose else SCOPE_TYPES
    ending = (*hold_keys(account, hold_id), *scopes(hold_id))
    late = (*hold_keys(account, late_id), *scopes(late_id))
    resizing = (*ending[:2], *ending[3:])
    resize_types = (*OPEN_TYPES[:2], *OPEN_TYPES[3:], *types)
    end_types = (*OPEN_TYPES, *types)
    tokens = ("7 2 3",) if whose else ()
    return {
        f"place{whose}": _placing(account, "ho_7f9", whose),
        f"extend_to{whose}": Call(load("extend_to"), resizing, (hold_id, "40"), (1,), (0,), resize_types),
        f"shrink_to{whose}": Call(load("shrink_to"), resizing, (hold_id, "15"), (1,), (0,), resize_types),
        f"checkpoint{whose}": Call(load("checkpoint"), ending[1:3], (hold_id, "13"), (1,), (0,), ("string", "zset")),
        f"post{whose}": Call(load("post"), ending, (hold_id, account, "35", "{}", "86400000", *tokens), (2, 4), (0, 1), end_types),
        f"post late{whose}": Call(load("post"), late, (late_id, account, "35", "{}", "86400000", *tokens), (2, 4), (0, 1), end_types),
        f"void{whose}": Call(load("void"), ending, (hold_id, account, "{}", "86400000"), (3,), (0, 1), end_types),
        f"expire{whose}": Call(load("expire"), ending, (hold_id, "86400000", "1"), (1, 2), (0,), end_types),
        f"raise_hold{whose}": Call(load("raise_hold"), ending[:2], (hold_id, "90", f"bu_1 {hold_id}"), (1,), (0,), OPEN_TYPES[:2]),
    }  # fmt: skip


def _placing(account: str, hold_id: str, whose: str) -> Call:
    args = (hold_id, account, *HOLD_ARGS)
    of_hold = hold_keys(account, hold_id)
    figures: tuple[int, ...] = (2, 3, 4, 5, 8, 9, 13, 14)
    if whose:
        keys, types = (*of_hold, *persons_keys(hold_id), key("v:org_7f1")), (*OPEN_TYPES, *PERSONS_TYPES, "string")
        figures = (*figures, 17, 19, 20, 22, 23, 25, 26, 29, 32, 35)
        return Call(load("place"), keys, (*args[:5], "0", *args[6:], *PERSONS_ARGS), figures, (0, 1), types)
    figures = (*figures, 16, 17, 20, 22, 23)
    return Call(load("place"), (*of_hold, *SCOPE_KEYS), args + SCOPE_ARGS, figures, (0, 1), (*OPEN_TYPES, *SCOPE_TYPES))


def _calls_on_accounts() -> dict[str, Call]:
    house = (*MONEY_KEYS, key("a:house-msat_7f"))
    person = (key(f"a:{PERSON}"), *MONEY_KEYS[1:])
    fresh = (key("a:acct_7fz"), *MONEY_KEYS[1:])
    renewal, limit = ("pro:may", "300", "pro", FAR_MS, "", "50"), ("limit1", "70")
    return {
        "credit": Call(load("credit"), MONEY_KEYS, (ACCOUNT, *CREDIT_ARGS), (2, 4), CREDIT_NAMES, MONEY_TYPES),
        "credit a person": Call(load("credit"), person, (PERSON, *PERSON_ARGS), (2, 4), CREDIT_NAMES, MONEY_TYPES),
        "credit from the house": Call(load("credit"), house, (ACCOUNT, *HOUSE_ARGS), (2, 4), (*CREDIT_NAMES, 10), (*MONEY_TYPES, "hash")),
        "debit": Call(load("debit"), (MONEY_KEYS[0], MONEY_KEYS[2]), (ACCOUNT, "back9", "900", "refund", "prepaid"), (2,), (0, 1, 3, 4),
                      ("hash", "stream")),
        "renew_allowance": Call(load("renew_allowance"), person, (PERSON, *renewal), (2, 4, 6), (0, 1), MONEY_TYPES),
        "renew_allowance of nobody yet": Call(load("renew_allowance"), fresh, ("acct_7fz", *renewal), (2, 4, 6), (0, 1), MONEY_TYPES),
        "credit_limit": Call(load("credit_limit"), person, (PERSON, *limit), (2,), (0, 1), MONEY_TYPES),
        "credit_limit of nobody yet": Call(load("credit_limit"), fresh, ("acct_7fz", *limit), (2,), (0, 1), MONEY_TYPES),
        "trim": Call(load("trim"), (key("journal"), key("opening")), ("2", "100"), (0, 1), (), ("stream", "hash")),
    }  # fmt: skip


def _calls_of_the_directory() -> dict[str, Call]:
    told = (key("c:total|told"), key("outbox"))
    person = key("person:org_7f1|alice")
    keys = (key("v:org_7f1"), key("audit"), key("journal"), key("outbox"), person, key("persons:org_7f1"), key("orgs"), told[0],
            told[0], key("key:1"), key("key:1"), key("waiting"))  # fmt: skip
    types = ("string", "stream", "stream", "stream", "hash", "zset", "set", "hash", "hash", "string", "string", "zset")
    writes = ("hset|record|{}|b:bu_1|{}", "zadd|0|alice", "sadd|org_7f1", "hsetnx|used|5", "hincrby|used|7", "set|{}",
              f"pexpireat|{FAR_MS}", "zrem|q_7f1")  # fmt: skip
    args = ("3", "org_7f1", '{"a":1}', "quote.waiting", '{"b":2}', *(each.replace("|", "\x1f") for each in writes))
    seen = (key("person:org_7f1|bob"), key("persons:org_7f1"), key("seen:ak_7f1|1"))
    return {
        "change": Call(load("change"), keys, args, (), (1,), types),
        "see_person": Call(load("see_person"), seen, ('{"id":"bob"}', "bob", "5", "120000"), (2, 3), (), ("hash", "zset", "string")),
        "forecast": Call(load("forecast"), told, ("org_7f1", '{"a":1}'), (), (0,), ("hash", "stream")),
        "alert": Call(load("alert"), (told[0], key("b:bu_1"), told[1]), ("refuse org_7f1 0 1",), (), (), ("hash", "hash", "stream")),
    }  # fmt: skip


CALLS = calls()


def fill(client: redis.Redis) -> None:
    """An agent and a person, each with one open hold and one expired, on their scopes; budgets, quotes, a version."""
    client.flushall()
    client.hset(key("b:bu_1"), mapping={"limit": 500, "state": "active"})
    client.set(key("v:org_7f1"), "3")
    run(client, CALLS["credit"].with_argument(1, "pay1").with_argument(2, "400"))
    run(client, CALLS["credit a person"].with_argument(1, "pay1").with_argument(2, "400"))
    for hold_id in (PERSONS_HOLD, PERSONS_LATE, "ho_7f9"):
        client.hset(
            key(f"q:{hold_id}"), mapping={"state": "approved", "approved_max": 45, "expires_at": FAR_MS, "digest": "d1"}
        )
    for hold_id in (HOLD, LATE):
        run(client, _placing(ACCOUNT, hold_id, ""))
    for hold_id in (PERSONS_HOLD, PERSONS_LATE):
        run(client, _placing(PERSON, hold_id, " of a person"))
        client.hset(key(f"b:{hold_id}"), mapping={"limit": 35})  # lowered: what is posted pauses it
    for whose, late_id in (("", LATE), (" of a person", PERSONS_LATE)):
        run(client, replace(CALLS[f"expire{whose}"].with_argument(0, late_id), keys=CALLS[f"post late{whose}"].keys))
    run(client, CALLS["checkpoint of a person"].with_argument(1, "12"))


def run(client: redis.Redis, call: Call) -> object:
    return client.eval(call.script.text, len(call.keys), *call.keys, *call.args)


def dump(client: Any) -> dict[bytes, object]:
    """Every key with its contents. Hashes and sets as such: their serialisation depends on the order of writes."""
    readers: dict[bytes, Callable[[Any, bytes], object]] = {
        b"hash": lambda to, name: to.hgetall(name), b"set": lambda to, name: to.smembers(name), b"string": lambda to, name: to.get(name),
        b"zset": lambda to, name: to.zrange(name, 0, -1, withscores=True), b"stream": lambda to, name: to.xinfo_stream(name),
        b"list": lambda to, name: to.lrange(name, 0, -1),
    }  # fmt: skip
    names = sorted(client.keys())
    with client.pipeline(transaction=False) as together:
        for name in names:
            together.type(name)
        for kind, name in zip(together.execute(), names, strict=True):
            readers[kind](together, name)
            together.pexpiretime(name)
        found = together.execute()
    return dict(zip(names, zip(found[::2], found[1::2], strict=True), strict=True))


def must_change_nothing(client: redis.Redis, call: Call) -> None:
    before = dump(client)
    with pytest.raises(redis.ResponseError):
        run(client, call)
    assert dump(client) == before


def must_balance(client: Any) -> None:
    """available + held + posted = credited + debt, pocket by pocket too, and nothing is below zero."""
    for name in client.smembers(key("accounts")):
        fields = client.hgetall(key("a:") + name.decode())
        values = {
            field: int(fields.get(field.encode(), 0)) for field in ("available", "held", "posted", "credited", "debt")
        }
        assert values["available"] + values["held"] + values["posted"] == values["credited"] + values["debt"]
        assert min(values["available"], values["held"], values["posted"], values["debt"]) >= 0
        pockets = [
            tuple(map(int, fields[pocket].split()))
            for pocket in (b"allowance", b"prepaid", b"postpaid")
            if pocket in fields
        ]
        assert not pockets or [sum(part) for part in zip(*pockets, strict=True)] == [
            values["available"], values["held"], values["posted"],
        ]  # fmt: skip
    for prefix in "cuos":
        for name in client.keys(key(f"{prefix}:*")):
            assert all(int(value or 0) >= 0 for value in client.hmget(name, "used", "held"))
