"""Every script with hostile arguments and keys of the wrong type: an error reply means that nothing changed.

Redis does not roll back, so a script must have checked everything before its first write. Each case dumps every key
before and after. What a script takes without an error must leave the books balanced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.adapters.redis.scripts import Script, load

TAG = "{p7f}"
ACCOUNT, PERSON, HOLD, LATE = "tok_7fa", "acct_7fb", "ho_7f1", "ho_7f2"
HOSTILE_NUMBERS = (
    "-1000", "-1", "-0", "+5", "0x10", "1e3", " 5 ", "5 ", "\t5", "nan", "inf", "-inf", "", "00", "007", "1.0", "1,0",
    "9007199254740993", "1000000000000000", "99999999999999999999", "5\n", "5\x00", "١٢", "true", "{}", "NaN",
)  # fmt: skip
HOSTILE_NAMES = ("", " ", "a b", "a\nb", "{p00}", "a" * 201, "é", "\x00", "a\x00b")
WRONG_TYPES: dict[str, tuple[str, ...]] = {
    "string": ("SET", "hello"), "list": ("RPUSH", "x"), "set": ("SADD", "x"), "hash": ("HSET", "f", "v"),
    "zset": ("ZADD", "1", "x"), "stream": ("XADD", "*", "f", "v"),
}  # fmt: skip


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
SCOPE_ARGS = ("m", "1000", "0", "m", "", "4102444800000", "u", "5", "0")
PLACE_KEYS = (key(f"a:{ACCOUNT}"), key("h:ho_7f9"), key("open"), key("journal"), *SCOPE_KEYS)
PLACE_ARGS = (
    "ho_7f9",
    ACCOUNT,
    "10",
    "20",
    "50",
    "7",
    "w1",
    "",
    "30000",
    "600000",
    "c:pay1",
    "r:t1",
    "{}",
    "5",
    "1000",
)
OPEN_KEYS = (key(f"a:{ACCOUNT}"), key(f"h:{HOLD}"), key("open"), key("journal"), *SCOPE_KEYS)
OPEN_TYPES = ("hash", "string", "zset", "stream", "hash", "hash", "hash", "hash")
RESIZE_KEYS = (OPEN_KEYS[0], OPEN_KEYS[1], *OPEN_KEYS[3:])
RESIZE_TYPES = (OPEN_TYPES[0], OPEN_TYPES[1], *OPEN_TYPES[3:])
CREDIT_KEYS = (key(f"a:{ACCOUNT}"), key("accounts"), key("journal"))
CREDIT_ARGS = (ACCOUNT, "pay9", "5", "msat", "7", "lightning", "payment", "paid", "", "agent", "house-msat_7f")
HOUSE_ARGS = (ACCOUNT, "pay9", "5", "msat", "7", "lightning", "promotion", "house", "", "agent", "house-msat_7f")
PERSON_ARGS = (
    PERSON,
    "pay9",
    "5",
    "nanousd",
    "0",
    "stripe",
    "payment",
    "paid",
    "prepaid",
    "person",
    "house-nanousd_7f",
)


def calls() -> dict[str, Call]:
    """One good call of every script, or more."""
    ending = {"keys": OPEN_KEYS, "types": OPEN_TYPES}
    late = (OPEN_KEYS[0], key(f"h:{LATE}"), *OPEN_KEYS[2:])
    return {
        "place": Call(load("place"), PLACE_KEYS, PLACE_ARGS + SCOPE_ARGS, (2, 3, 4, 5, 8, 9, 13, 14, 16, 17, 20, 22, 23),
                      (0, 1), OPEN_TYPES),
        "extend_to": Call(load("extend_to"), RESIZE_KEYS, (HOLD, "40"), (1,), (0,), RESIZE_TYPES),
        "shrink_to": Call(load("shrink_to"), RESIZE_KEYS, (HOLD, "15"), (1,), (0,), RESIZE_TYPES),
        "checkpoint": Call(load("checkpoint"), OPEN_KEYS[1:3], (HOLD, "12"), (1,), (0,), ("string", "zset")),
        "post": Call(load("post"), **ending, args=(HOLD, ACCOUNT, "35", "{}", "86400000"), numbers=(2, 4), names=(0, 1)),
        "post late": Call(load("post"), late, (LATE, ACCOUNT, "35", "{}", "86400000"), (2, 4), (0, 1), OPEN_TYPES),
        "void": Call(load("void"), **ending, args=(HOLD, ACCOUNT, "{}", "86400000"), numbers=(3,), names=(0, 1)),
        "expire": Call(load("expire"), **ending, args=(HOLD, "86400000", "1"), numbers=(1, 2), names=(0,)),
        "credit": Call(load("credit"), CREDIT_KEYS, CREDIT_ARGS, (2, 4), (0, 1, 3, 5, 6, 7, 9), ("hash", "set", "stream")),
        "credit a person": Call(load("credit"), (key(f"a:{PERSON}"), *CREDIT_KEYS[1:]), PERSON_ARGS, (2, 4),
                                (0, 1, 3, 5, 6, 7, 9), ("hash", "set", "stream")),
        "credit from the house": Call(load("credit"), (*CREDIT_KEYS, key("a:house-msat_7f")), HOUSE_ARGS, (2, 4),
                                      (0, 1, 3, 5, 6, 7, 9, 10), ("hash", "set", "stream", "hash")),
        "debit": Call(load("debit"), (CREDIT_KEYS[0], CREDIT_KEYS[2]), (ACCOUNT, "back9", "900", "refund", "prepaid"), (2,),
                      (0, 1, 3, 4), ("hash", "stream")),
        "idempotency_begin": Call(load("idempotency_begin"), (key("idem:1"),), ("w1", "30000", "86400000", "f1", "f0"),
                                  (1, 2), (0, 3, 4), ("hash",)),
        "idempotency_end": Call(load("idempotency_end"), (key("idem:0"),), ("w1", "keep", "answer"), (), (0, 1),
                                ("hash",)),
        "trim": Call(load("trim"), (key("journal"), key("opening")), ("2", "100"), (0, 1), (), ("stream", "hash")),
    }  # fmt: skip


CALLS = calls()


@pytest.fixture
def store(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        fill(client)
        yield client


def fill(client: redis.Redis) -> None:
    """An account with one open hold and one expired, both on three scopes, a person, a budget."""
    client.flushall()
    client.hset(key("b:bu_1"), mapping={"limit": 500, "state": "active"})
    run(client, CALLS["credit"].with_argument(1, "pay1").with_argument(2, "400"))
    run(client, CALLS["credit a person"].with_argument(1, "pay1"))
    for hold_id in (HOLD, LATE):
        place = CALLS["place"].with_argument(0, hold_id)
        run(client, replace(place, keys=(place.keys[0], key(f"h:{hold_id}"), *place.keys[2:])))
    run(client, replace(CALLS["expire"].with_argument(0, LATE), keys=CALLS["post late"].keys))
    run(client, replace(CALLS["idempotency_begin"], keys=CALLS["idempotency_end"].keys))


def run(client: redis.Redis, call: Call) -> object:
    return client.eval(call.script.text, len(call.keys), *call.keys, *call.args)


def dump(client: Any) -> dict[bytes, object]:
    """Every key with its contents. Hashes and sets as such: their serialisation depends on the order of writes."""
    readers: dict[bytes, Callable[[bytes], object]] = {
        b"hash": client.hgetall, b"set": client.smembers, b"string": client.get,
        b"zset": lambda name: client.zrange(name, 0, -1, withscores=True), b"stream": client.xinfo_stream,
        b"list": lambda name: client.lrange(name, 0, -1),
    }  # fmt: skip
    return {name: (readers[client.type(name)](name), client.pexpiretime(name)) for name in sorted(client.keys())}


def must_change_nothing(client: redis.Redis, call: Call) -> None:
    before = dump(client)
    with pytest.raises(redis.ResponseError):
        run(client, call)
    assert dump(client) == before


def must_balance(client: Any) -> None:
    """available + held + posted = credited + debt, and nothing is below zero."""
    for name in client.smembers(key("accounts")):
        fields = client.hgetall(key("a:") + name.decode())
        values = {
            field: int(fields.get(field.encode(), 0)) for field in ("available", "held", "posted", "credited", "debt")
        }
        assert values["available"] + values["held"] + values["posted"] == values["credited"] + values["debt"]
        assert min(values["available"], values["held"], values["posted"], values["debt"]) >= 0
    for name in SCOPE_KEYS[:2] + SCOPE_KEYS[3:]:
        assert all(int(value) >= 0 for value in client.hgetall(name).values())


@pytest.mark.parametrize("name", CALLS)
def test_the_good_call_is_taken(store: redis.Redis, name: str) -> None:
    before = dump(store)
    run(store, CALLS[name])
    assert dump(store) != before
    must_balance(store)


@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_number_changes_nothing(store: redis.Redis, name: str) -> None:
    for place in CALLS[name].numbers:
        for value in HOSTILE_NUMBERS:
            must_change_nothing(store, CALLS[name].with_argument(place, value))


@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_name_changes_nothing(store: redis.Redis, name: str) -> None:
    for place in CALLS[name].names:
        for value in HOSTILE_NAMES:
            must_change_nothing(store, CALLS[name].with_argument(place, value))


@pytest.mark.parametrize("name", CALLS)
def test_a_missing_argument_changes_nothing(store: redis.Redis, name: str) -> None:
    for count in range(len(CALLS[name].args)):
        call = replace(CALLS[name], args=CALLS[name].args[:count])
        before = dump(store)
        try:
            run(store, call)
        except redis.ResponseError:
            assert dump(store) == before
        else:
            must_balance(store)


@pytest.mark.parametrize("name", CALLS)
def test_a_key_of_the_wrong_type_changes_nothing(store: redis.Redis, name: str) -> None:
    call = CALLS[name]
    for wrong_key, right_type in zip(call.keys, call.types, strict=True):
        for wrong_type, (command, *fields) in WRONG_TYPES.items():
            if wrong_type == right_type:
                continue
            fill(store)
            store.delete(wrong_key)
            store.execute_command(command, wrong_key, *fields)
            before = dump(store)
            try:
                run(store, call)
            except redis.ResponseError:
                assert dump(store) == before


@pytest.mark.parametrize("name", ["extend_to", "shrink_to", "checkpoint", "post", "void", "expire"])
def test_a_hold_that_is_no_hold_changes_nothing(store: redis.Redis, name: str) -> None:
    hold_key = key(f"h:{HOLD}")
    for garbage in (b"", b"\x90", b"\xc0", b"\x92\x01\x02", b"hello", b"\xdd\xff\xff\xff\xff", b"\x80"):
        store.set(hold_key, garbage)
        must_change_nothing(store, CALLS[name])


@pytest.mark.parametrize("name", ["place", "extend_to", "shrink_to", "post", "void", "expire", "credit", "debit"])
def test_a_balance_that_is_no_number_changes_nothing(store: redis.Redis, name: str) -> None:
    store.hset(key(f"a:{ACCOUNT}"), "available", "many")
    must_change_nothing(store, CALLS[name])


@pytest.mark.parametrize("scopes", [
    ("m",), ("m", "10"), ("x", "10", "0"), ("m", "", "0"), ("m", "-5", "0"), ("m", "10", "0", "m"), ("", "", ""),
])  # fmt: skip
def test_scopes_that_do_not_fit_their_keys_change_nothing(store: redis.Redis, scopes: Sequence[str]) -> None:
    must_change_nothing(store, replace(CALLS["place"], keys=PLACE_KEYS[:5], args=PLACE_ARGS + tuple(scopes)))


def test_floor_first_and_ceiling_out_of_order_change_nothing(store: redis.Redis) -> None:
    must_change_nothing(store, CALLS["place"].with_argument(2, "21"))
    must_change_nothing(store, CALLS["place"].with_argument(3, "51"))


def test_keys_that_the_hold_did_not_record_are_told_and_nothing_changes(store: redis.Redis) -> None:
    before = dump(store)
    for name in ("extend_to", "shrink_to", "post", "void", "expire"):
        own = len(CALLS[name].keys) - len(SCOPE_KEYS)
        reply = run(store, replace(CALLS[name], keys=CALLS[name].keys[:own]))
        assert reply == [b"keys", *(each.encode() for each in SCOPE_KEYS)]
    assert dump(store) == before


def test_the_house_does_not_pay_itself(store: redis.Redis) -> None:
    house = CALLS["credit from the house"]
    must_change_nothing(store, replace(house, keys=(*house.keys[:3], house.keys[0])))
    must_change_nothing(store, replace(house, keys=house.keys[:3]))


def test_trim_refuses_a_number_that_the_journal_has_not_reached_and_a_gap(store: redis.Redis) -> None:
    must_change_nothing(store, CALLS["trim"].with_argument(0, "99"))
    store.xdel(key("journal"), "0-1")
    must_change_nothing(store, CALLS["trim"])


def test_no_key_outside_the_declared_partition_is_reached(store: redis.Redis) -> None:
    for call in CALLS.values():
        assert all(name.startswith(TAG) for name in call.keys)
        assert "redis.call(KEYS" not in call.script.text and "'{p" not in call.script.text


arguments = st.one_of(
    st.sampled_from(HOSTILE_NUMBERS + HOSTILE_NAMES), st.integers(-(10**17), 10**17).map(str), st.integers(0, 60).map(str),
    st.text(max_size=12),
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(CALLS)), changes=st.lists(st.tuples(st.integers(0, 23), arguments), max_size=3))
def test_whatever_comes_an_error_changes_nothing_and_the_books_balance(
    store: redis.Redis, name: str, changes: list[tuple[int, str]]
) -> None:
    fill(store)
    call = CALLS[name]
    for place, value in changes:
        call = call.with_argument(place % len(call.args), value)
    before = dump(store)
    try:
        run(store, call)
    except redis.ResponseError:
        assert dump(store) == before
    must_balance(store)
