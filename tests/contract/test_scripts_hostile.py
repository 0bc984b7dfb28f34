"""Every script with hostile arguments and keys of the wrong type: an error reply means that nothing changed.

Redis does not roll back, so a script must have checked everything before its first write. Each case dumps every key
before and after. What a script takes without an error must leave the books balanced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from script_calls import (
    ACCOUNT,
    CALLS,
    HOLD_ARGS,
    PERSON,
    PERSONS_HOLD,
    SCOPE_KEYS,
    TAG,
    dump,
    fill,
    key,
    must_balance,
    must_change_nothing,
    persons_keys,
    run,
)

HOSTILE_NUMBERS = (
    "-1000", "-1", "-0", "+5", "0x10", "1e3", " 5 ", "5 ", "\t5", "nan", "inf", "-inf", "", "00", "007", "1.0", "1,0",
    "9007199254740993", "1000000000000000", "99999999999999999999", "5\n", "5\x00", "١٢", "true", "{}", "NaN",
)  # fmt: skip
HOSTILE_NAMES = ("", " ", "a b", "a\nb", "{p00}", "a" * 201, "é", "\x00", "a\x00b")
WRONG_TYPES: dict[str, tuple[str, ...]] = {
    "string": ("SET", "hello"), "list": ("RPUSH", "x"), "set": ("SADD", "x"), "hash": ("HSET", "f", "v"),
    "zset": ("ZADD", "1", "x"), "stream": ("XADD", "*", "f", "v"),
}  # fmt: skip
ON_HOLDS = ("extend_to", "shrink_to", "checkpoint", "post", "void", "expire", "raise_hold")


@pytest.fixture
def store(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        fill(client)
        yield client


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


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith(ON_HOLDS)])
def test_a_hold_that_is_no_hold_changes_nothing(store: redis.Redis, name: str) -> None:
    (hold_key,) = [each for each in CALLS[name].keys if each.startswith(key("h:"))]
    for garbage in (b"", b"\x90", b"\xc0", b"\x92\x01\x02", b"hello", b"\xdd\xff\xff\xff\xff", b"\x80"):
        store.set(hold_key, garbage)
        must_change_nothing(store, CALLS[name])


@pytest.mark.parametrize("name", [name for name in CALLS if key(f"a:{ACCOUNT}") in CALLS[name].keys])
def test_a_balance_that_is_no_number_changes_nothing(store: redis.Redis, name: str) -> None:
    store.hset(key(f"a:{ACCOUNT}"), "available", "many")
    must_change_nothing(store, CALLS[name])


@pytest.mark.parametrize("pocket", ["allowance", "postpaid"])
@pytest.mark.parametrize("name", [name for name in CALLS if key(f"a:{PERSON}") in CALLS[name].keys])
def test_a_pocket_that_is_no_number_changes_nothing(store: redis.Redis, name: str, pocket: str) -> None:
    store.hset(key(f"a:{PERSON}"), pocket, "5 many 0")
    must_change_nothing(store, CALLS[name])


@pytest.mark.parametrize(("name", "scope", "field", "value"), [
    ("post of a person", 7, "small|alice|ak_7f1", "1 2 3"), ("post late of a person", 7, "small|alice|ak_7f1", "x"),
    ("expire of a person", 7, "small|alice|ak_7f1", "1 2 3 4 5 6 7"), ("post of a person", 1, "limit", "much"),
    ("post of a person", 0, "used", "much"), ("post late of a person", 0, "held", "much"),
    ("place of a person", 8, "approved_max", "much"), ("place of a person", 8, "expires_at", "never"),
    ("place of a person", 1, "limit", "much"), ("place of a person", 6, "held", "much"),
])  # fmt: skip
def test_a_figure_of_a_scope_that_is_none_changes_nothing(
    store: redis.Redis, name: str, scope: int, field: str, value: str
) -> None:
    store.hset(CALLS[name].keys[4 + scope], field, value)
    must_change_nothing(store, CALLS[name])


@pytest.mark.parametrize("name", ["post of a person", "post late of a person"])
@pytest.mark.parametrize(
    "tokens", ["7", "7 2", "7 2 3 4", "-7 2 3", "7 2 x", "1e3 2 3", " 7 2 3", f"{10**15} 2 3", "07 2 3"]
)
def test_tokens_that_are_none_change_nothing(store: redis.Redis, name: str, tokens: str) -> None:
    must_change_nothing(store, CALLS[name].with_argument(5, tokens))


@pytest.mark.parametrize("words", [
    "", "hset", "hset|f", "hset|f|1|g", "hset|f" + "|x" * 8_001, "hsetnx|f", "hsetnx|f|1|g|2", "hincrby|f", "hincrby|f|x", "hincrby|f|1e3",
    "hincrby|f|1000000000000000", "hincrby|text|1", "hincrby|great|1", "hdel", "flushall", "HSET|f|1", "set|x", "sadd|x", "zadd|0|x",
    "pexpireat|x", "pexpireat|", "pexpireat|-1", "pexpireat|1|XX", "del|x", "hset|f|x", "del",
])  # fmt: skip
def test_a_write_of_the_directory_that_would_fail_changes_nothing(store: redis.Redis, words: str) -> None:
    """The second of two writes on one key, after a good one that it may depend on."""
    change, name = CALLS["change"], key("new" if words in ("set|x", "sadd|x") else "record")
    store.hset(key("record"), mapping={"f": "1", "text": "x", "great": "9" * 17})
    first = {"hset|f|x": ("hset|f|x", "hincrby|f|1"), "del": ("del", "hincrby|f|x")}.get(words, ("hset|g|1", words))
    args = (*change.args[:5], *(each.replace("|", "\x1f") for each in first))
    must_change_nothing(store, replace(change, keys=(*change.keys[:4], name, name), args=args))


def test_writes_of_the_directory_may_build_on_each_other(store: redis.Redis) -> None:
    change, name = CALLS["change"], key("record")
    store.set(name, "text")
    writes = ("del", "hsetnx|used|5", "hsetnx|used|6", "hincrby|used|-2", "hset|a|1|b|2", "hdel|a|c")
    args = (*change.args[:5], *(each.replace("|", "\x1f") for each in writes))
    assert run(store, replace(change, keys=(*change.keys[:4], *[name] * len(writes)), args=args)) == 4
    assert store.hgetall(name) == {b"used": b"3", b"b": b"2"}


@pytest.mark.parametrize("place", [1, 2])
def test_a_log_whose_last_entry_is_none_of_ours_changes_nothing(store: redis.Redis, place: int) -> None:
    log = CALLS["change"].keys[place]
    store.delete(log)
    store.xadd(log, {"e": "hello"})
    must_change_nothing(store, CALLS["change"])
    store.delete(log)
    store.xadd(log, {"e": "hello"}, id="0-7")
    if place == 1:
        must_change_nothing(store, CALLS["change"])


def test_a_log_that_has_lost_its_end_takes_no_entry_under_a_number_of_before(store: redis.Redis) -> None:
    run(store, CALLS["change"])
    store.xtrim(key("audit"), maxlen=0)
    must_change_nothing(store, CALLS["change"].with_argument(0, "4"))


@pytest.mark.parametrize("scopes", [
    ("m",), ("m", "10"), ("x", "10", "0"), ("m", "", "0"), ("m", "-5", "0"), ("m", "10", "0", "m"), ("", "", ""),
])  # fmt: skip
def test_scopes_that_do_not_fit_their_keys_change_nothing(store: redis.Redis, scopes: Sequence[str]) -> None:
    place = CALLS["place"]
    args = place.args[: 2 + len(HOLD_ARGS)] + tuple(scopes)  # two ids before them
    must_change_nothing(store, replace(place, keys=place.keys[:5], args=args))


def test_floor_first_and_ceiling_out_of_order_change_nothing(store: redis.Redis) -> None:
    must_change_nothing(store, CALLS["place"].with_argument(2, "21"))
    must_change_nothing(store, CALLS["place"].with_argument(3, "51"))


def test_keys_that_the_hold_did_not_record_are_told_and_nothing_changes(store: redis.Redis) -> None:
    before = dump(store)
    for whose, scope_keys in (("", SCOPE_KEYS), (" of a person", persons_keys(PERSONS_HOLD))):
        for step in ("extend_to", "shrink_to", "post", "void", "expire"):
            call = CALLS[f"{step}{whose}"]
            reply = run(store, replace(call, keys=call.keys[: -len(scope_keys)]))
            assert reply == [b"keys", *(each.encode() for each in scope_keys)]
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


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(CALLS)), changes=st.lists(st.tuples(st.integers(0, 35), arguments), max_size=3))
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
