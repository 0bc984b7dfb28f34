"""The scripts of what is told, with hostile arguments and keys of the wrong type: an error means that nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from gateway.adapters.redis.scripts import load

TAG = "{p7f}"
ORG, TEXT = "org_7f01", '{"event_id":"evt_7f1-1"}'
OUTBOX, DUE, COUNTER, BUDGET = f"{TAG}outbox", f"{TAG}due", f"{TAG}c:total|{ORG}", f"{TAG}b:bu_7f01"
QUEUE, EVENTS, DEAD = (f"{TAG}{kind}:{ORG}" for kind in ("tell", "events", "dead"))
# Script -> keys with their types, good arguments, which of them are numbers, which are names.
CALLS: dict[str, tuple[dict[str, str], list[str], list[int], list[int]]] = {
    "outbox_look": ({OUTBOX: "stream", DUE: "zset"}, ["10", "5"], [0, 1], []),
    "outbox_share": (
        {OUTBOX: "stream", DUE: "zset", QUEUE: "list", EVENTS: "list", DEAD: "list"},
        [ORG, "2", "2", "2", "1-1", "1", TEXT, "2-1", "1", TEXT], [1, 2, 3, 4, 5, 7, 8], [0],
    ),
    "outbox_end": ({QUEUE: "list", DUE: "zset", DEAD: "list"}, [ORG, TEXT, "2"], [2], [0]),
    "outbox_retry": ({DEAD: "list", QUEUE: "list", DUE: "zset"}, [ORG, TEXT], [], [0]),
    "alert": ({COUNTER: "hash", BUDGET: "hash", OUTBOX: "stream"}, [f"refuse {ORG} 50 80"], [], []),
}  # fmt: skip
WRONG = {"string": ("SET", "x"), "list": ("RPUSH", "x"), "hash": ("HSET", "f", "v"), "zset": ("ZADD", "1", "x"),
         "stream": ("XADD", "*", "f", "v")}  # fmt: skip


@pytest.fixture
def store(valkey_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def fill(client: Any) -> None:
    client.flushall()
    for number in (1, 2):
        client.xadd(OUTBOX, {"kind": "k", "at": 1, "org": ORG, "data": "{}"}, id=f"{number}-1")
    client.rpush(QUEUE, TEXT)
    client.rpush(DEAD, TEXT)
    client.rpush(EVENTS, TEXT)
    client.zadd(DUE, {ORG: 7})
    client.hset(COUNTER, mapping={"used": 70, "held": 0})
    client.hset(BUDGET, mapping={"limit": 100, "state": "active"})


def run(client: Any, name: str, args: list[str]) -> Any:
    keys = CALLS[name][0]
    return client.eval(load(name).text, len(keys), *keys, *args)


def dump(client: Any) -> dict[bytes, bytes]:
    return {name: client.dump(name) for name in sorted(client.keys())}


def must_change_nothing(client: Any, name: str, args: list[str]) -> None:
    before = dump(client)
    with pytest.raises(redis.ResponseError):
        run(client, name, args)
    assert dump(client) == before


@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_argument_changes_nothing(store: Any, name: str) -> None:
    fill(store)
    _, args, numbers, names = CALLS[name]
    for place in numbers:
        for value in ("-1", "1e3", "0x1", "", "nan", " 5", "9" * 40, "9" * 20 + "-1", "1-", "-", "1-1-1"):
            must_change_nothing(store, name, [*args[:place], value, *args[place + 1 :]])
    for place in names:
        for value in ("", "a b", "a\nb", "a" * 201, "é"):
            must_change_nothing(store, name, [*args[:place], value, *args[place + 1 :]])
    must_change_nothing(store, name, [])


@pytest.mark.parametrize("name", CALLS)
def test_a_key_of_the_wrong_type_changes_nothing(store: Any, name: str) -> None:
    for key, right in CALLS[name][0].items():
        for wrong, (command, *fields) in WRONG.items():
            if wrong != right:
                fill(store)
                store.delete(key)
                store.execute_command(command, key, *fields)
                must_change_nothing(store, name, CALLS[name][1])


def test_what_is_too_much_to_wait_becomes_dead_letters_and_those_are_bounded(store: Any) -> None:
    fill(store)
    assert run(store, "outbox_share", CALLS["outbox_share"][1]) == 1
    assert (store.llen(QUEUE), store.llen(DEAD), store.llen(EVENTS), store.xlen(OUTBOX)) == (2, 2, 2, 0)
    assert store.zscore(DUE, ORG) == 7, "a pause is kept"


@pytest.mark.parametrize("detail", ["", "refuse", "refuse a%b 50", "50 80"])
def test_an_alert_for_nobody_changes_nothing(store: Any, detail: str) -> None:
    fill(store)
    must_change_nothing(store, "alert", [detail])


def test_an_alert_tells_what_is_used_once(store: Any) -> None:
    fill(store)
    store.delete(OUTBOX)
    for _ in range(2):
        assert run(store, "alert", CALLS["alert"][1]) == b"50"
        assert store.xlen(OUTBOX) == 1


def test_an_alert_of_a_window_that_has_not_begun_tells_nothing(store: Any) -> None:
    fill(store)
    store.delete(COUNTER, OUTBOX)
    assert run(store, "alert", CALLS["alert"][1]) == b""
    assert store.keys(f"{TAG}[oc]*") == []
