"""Scripts of challenges and refunds under hostile arguments: an error reply means that nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError

from gateway.adapters.redis.scripts import load

ARGUMENTS = {
    "challenge_reserve": ["0011", "192.0.2.1|192.0.2.0", "192.0.2.0", "600000", "3", "2", "3", "4"],
    "challenge_release": ["0011"],
    "refund_intend": ["ab" * 32, '{"amount": 1}', "run1", "2", "1"],
    "refund_advance": ["ab" * 32, "intended", "held", '{"amount": 1}', "run1", "1000000"],
    "compare_delete": ["holder"],
}
KEYS = {"challenge_reserve": 6, "challenge_release": 4, "refund_intend": 3, "refund_advance": 3, "compare_delete": 1}
HOSTILE = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "0x10",
        "1e3",
        " 5 ",
        "nan",
        "inf",
        "9007199254740993",
        "9" * 400,
        "1.5",
        "5",
        "100",
        "a b",
        "\x00",
        "paid",
    ]
)


def fill(store: Any, key: str, kind: int) -> None:
    match kind:
        case 1:
            store.set(key, "holder")
        case 2:
            store.hset(key, mapping={"level": "120000", "at": "5", "state": "intended", "body": "x"})
        case 3:
            store.zadd(key, {"0011": 9e12, "old": 1})
        case 4:
            store.lpush(key, "x")
        case 5:
            store.hset(key, mapping={"level": "nan", "at": "x", "state": "?"})


def contents(store: Any) -> dict[bytes, tuple[bytes, int]]:
    return {key: (store.dump(key), store.pexpiretime(key)) for key in store.keys("*")}


@pytest.fixture
def store(valkey_url: str) -> Any:
    return Redis.from_url(valkey_url)


@pytest.mark.parametrize("name", list(ARGUMENTS))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_error_reply_changed_nothing(store: Any, name: str, data: st.DataObject) -> None:
    store.flushdb()
    names = [f"{{p00}}k{place}" for place in range(KEYS[name])]
    for key in names:
        fill(store, key, data.draw(st.integers(0, 5)))
    arguments = list(ARGUMENTS[name])
    for place in data.draw(st.sets(st.integers(0, len(arguments) - 1), max_size=3)):
        arguments[place] = data.draw(HOSTILE)
    arguments = (
        arguments[: data.draw(st.integers(0, len(arguments)))] if data.draw(st.integers(0, 9)) == 0 else arguments
    )
    before = contents(store)
    try:
        reply = store.eval(load(name).text, len(names), *names, *arguments)
    except ResponseError:
        assert contents(store) == before
    else:
        assert reply is not None


def test_every_script_of_the_five_runs_with_the_arguments_it_was_made_for(store: Any) -> None:
    for name, arguments in ARGUMENTS.items():
        names = [f"{{p00}}{name}{place}" for place in range(KEYS[name])]
        assert store.eval(load(name).text, len(names), *names, *arguments) is not None
