"""Values that a JSON Schema allows, and values that it does not, for Hypothesis."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Any

from described import Schema
from hypothesis import strategies as st

Resolve = Callable[[Schema], Schema]
Values = st.SearchStrategy[Any]

_PRINTED = st.characters(exclude_categories=["Cs", "Cc"])
_TEXTS = st.text(_PRINTED, max_size=20)
_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | _TEXTS
ANYTHING: Values = st.recursive(
    _SCALARS, lambda each: st.lists(each, max_size=3) | st.dictionaries(_TEXTS, each, max_size=3), max_leaves=6
)
_DEEP: Any = "x"
for _ in range(200):
    _DEEP = [_DEEP]
# What nobody expects where something else belongs: types, sizes, signs, words and ids.
JUNK: Values = st.sampled_from([
    None, True, False, 0, -1, 1, 7.5, 1e308, -0.0, 2**31, 2**53, 2**63, 2**64, -(2**64), 10**40, "", " ", "x", "null",
    "0", "-1", "1e3", "0x10", "nan", "x" * 300, "x" * 20_000, "\x00", "a\nb", "\u202e", "\ud7ff\ue000", "😀" * 100,
    "org_zz", "ak_zz", "bu_", "q_zz00", "req_" + "0" * 26, "*", "..", "../../x", "%00", "99999-12-31T00:00:00Z",
    "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00", [], {}, [None], [[]], [1, "a", {}], {"": None}, {"a": {"b": []}},
    {"amount": "-1", "currency": "USD"}, {"amount": 0.1, "currency": "USD"}, {"amount": "1e5", "currency": "USD"},
    {"amount": "9" * 40, "currency": "USD"}, {"amount": "1", "currency": "EUR"}, {"amount": "1.0000000001"},
    {"amount_msat": 1}, {"currency": "USD"}, -5, "999999999", "٣", _DEEP, ["x"] * 500, {str(n): n for n in range(300)},
])  # fmt: skip
# Bodies that are no JSON, or JSON that readers disagree about.
RAW: st.SearchStrategy[bytes] = st.sampled_from([
    b"", b" ", b"null", b"{", b"}", b"[]", b'"x"', b"7", b"NaN", b'{"a":1e999}', b'{"a":NaN}', b"\xff\xfe", b'{"a":"\xff"}',
    b'{"\xff":1}', b'{"a":"\\ud800"}', b'{"\\ud800":1}', b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b"[" * 100_000,
    b'{"a":' * 50_000, b"{}{}", b"{} x", b'{"a":' + b"9" * 5_000 + b"}", b"\x00", b'{"id":"\\u0000"}', b"x" * 300_000,
    json.dumps("x" * 200_000).encode(),
])  # fmt: skip


def allowed(schema: Schema, resolve: Resolve) -> Values:
    """Values that the schema allows."""
    schema = resolve(schema)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([allowed(each, resolve) for each in schema["anyOf"]])
    match schema.get("type"):
        case "object":
            return _objects(schema, resolve)
        case "array":
            most = min(schema.get("maxItems", 4), 4)
            return st.lists(allowed(schema["items"], resolve), min_size=schema.get("minItems", 0), max_size=most)
        case "string":
            return _strings(schema)
        case "integer":
            least, most = schema.get("minimum", -(2**53)), schema.get("maximum", 2**53)
            return st.integers(least, most) | st.sampled_from([least, most])
        case "number":
            return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return ANYTHING


def _objects(schema: Schema, resolve: Resolve) -> Values:
    members = {name: allowed(member, resolve) for name, member in schema.get("properties", {}).items()}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: members[name] for name in required},
        optional={name: member for name, member in members.items() if name not in required},
    )


def _strings(schema: Schema) -> Values:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 60)
    pattern = schema.get("pattern", "")
    if schema.get("format") == "date-time":
        return st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(year=2000 + at.year % 200).isoformat())
    if schema.get("format") == "date":
        return st.dates().map(lambda day: day.replace(year=2000 + day.year % 200, day=1).isoformat())
    if not pattern or "[^" in pattern:
        return st.text(_PRINTED, min_size=least, max_size=min(most, least + 40)) | st.just("x" * most)
    if not pattern.endswith("$"):
        pattern += ".*$"
    return st.from_regex(pattern.removeprefix("^").removesuffix("$"), fullmatch=True).filter(
        lambda text: least <= len(text) <= most
    )


@st.composite
def spoiled(draw: st.DrawFn, schema: Schema, resolve: Resolve) -> Any:
    """An allowed value in which one thing was replaced, left out, or added. It may be allowed still."""
    value = draw(allowed(schema, resolve))
    places = [(), *_places(value, ())]
    place = draw(st.sampled_from(places))
    if not place:
        return draw(JUNK | ANYTHING)
    value = copy.deepcopy(value)
    inside = value
    for step in place[:-1]:
        inside = inside[step]
    match draw(st.integers(0, 4)):
        case 0:
            del inside[place[-1]]
        case 1 if isinstance(inside, dict):
            inside[draw(st.sampled_from(["no_such", "Id", "", "x" * 500, "\u202e"]))] = draw(JUNK)
        case _:
            inside[place[-1]] = draw(JUNK)
    return value


def _places(value: Any, before: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inside in steps:
        yield (*before, step)
        yield from _places(inside, (*before, step))
