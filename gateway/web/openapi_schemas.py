"""The vocabulary of `/openapi.json`: what a text, an id, an instant and money look like, and how they are put together.

Every area describes its objects in these words, so that money is one thing everywhere. Objects of requests are closed,
because unknown members are refused; objects of answers are open, because an answer may grow, and its reader must not
break over that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from gateway.core.accounts import GREATEST_ARGUMENT
from gateway.core.directory import PERSON_ID_CHARACTERS, SESSION_ID_CHARACTERS
from gateway.core.money import GREATEST_AMOUNT, NANOUSD_PER_USD

Schema = dict[str, Any]
NOTHING: Mapping[str, Schema] = MappingProxyType({})

# No control characters, so that what is printed in a log or a table stays one line.
_PRINTABLE = r"^[^\u0000-\u001f\u007f]*$"
_USD_DIGITS = len(str(GREATEST_ARGUMENT // NANOUSD_PER_USD)) - 1


def ref(name: str) -> Schema:
    """A component schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: Mapping[str, Schema] = NOTHING, /, **members: Schema) -> Schema:
    """An object of an answer: all of `members`, and perhaps some of `optional`."""
    return {"type": "object", "required": list(members), "properties": {**members, **optional}}


def asked(optional: Mapping[str, Schema] = NOTHING, /, **members: Schema) -> Schema:
    """An object of a request: all of `members`, perhaps some of `optional`, and nothing else."""
    return record(optional, **members) | {"additionalProperties": False}


def listing(of: Schema) -> Schema:
    """A page. `next` goes into `after`; null where there is no more."""
    return record(data=items(of), next=nullable(TEXT))


def items(of: Schema, *, most: int | None = None, least: int = 0) -> Schema:
    """A list."""
    bounds = ({"minItems": least} if least else {}) | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": of, **bounds}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def either(*schemas: Schema) -> Schema:
    """One of several."""
    return {"anyOf": list(schemas)}


def text(most: int, *, least: int = 1) -> Schema:
    """Printable text of a request."""
    return {"type": "string", "minLength": least, "maxLength": most, "pattern": _PRINTABLE}


def words(*of: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(of)}


def whole(least: int, most: int = GREATEST_AMOUNT) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": least, "maximum": most}


def identifier(*prefixes: str) -> Schema:
    """An id as we make them: what it is of, and hexadecimal digits."""
    return {"type": "string", "pattern": f"^({'|'.join(prefixes)})_[0-9a-f]{{4,64}}$"}


def described(schema: Schema, description: str) -> Schema:
    """The same, with a word for its reader."""
    return {**schema, "description": description}


def without(schema: Schema, names: Iterable[str]) -> Mapping[str, Schema]:
    """The members of an object but for some."""
    return {name: member for name, member in schema["properties"].items() if name not in set(names)}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
TRUE: Schema = {"const": True}
COUNT = whole(0)
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
ANYTHING: Schema = {}
OBJECT: Schema = {"type": "object"}
INSTANT: Schema = {"type": "string", "format": "date-time", "pattern": "Z$"}
DATE: Schema = {"type": "string", "format": "date"}
INSTANT_ASKED = described(
    {"type": "string", "format": "date-time", "pattern": "^2[01][0-9]{2}-"}, "an RFC 3339 instant with an offset or Z"
)

ORG_ID, ACCOUNT_ID, KEY_ID = identifier("org"), identifier("ac"), identifier("ak")
REQUEST_ID = {"type": "string", "pattern": "^req_[0-9a-f]{26,40}$"}
PERSON_ID = text(PERSON_ID_CHARACTERS)
SESSION_ID = text(SESSION_ID_CHARACTERS)

# "50", "50.00", "0.000000001": at most nine decimals, and at most what the ledger takes in one step.
USD_TEXT: Schema = {"type": "string", "pattern": rf"^(0|[1-9][0-9]{{0,{_USD_DIGITS}}})(\.[0-9]{{1,9}})?$"}
MONEY_ASKED = either(asked(amount=USD_TEXT, currency={"const": "USD"}), USD_TEXT)
_USD_SHOWN = r"(0|[1-9][0-9]*)\.[0-9]{2,9}$"
USD = record(amount={"type": "string", "pattern": f"^{_USD_SHOWN}"}, currency={"const": "USD"})
SIGNED_USD = record(amount={"type": "string", "pattern": f"^-?{_USD_SHOWN}"}, currency={"const": "USD"})
MSAT = record(amount_msat=COUNT)

# Named, so that a generated client has one type for each; `usd` and `money_asked` refer to them.
MONEY_SCHEMAS: Mapping[str, Schema] = MappingProxyType({
    "Usd": described(USD, "US dollars, as a decimal string"),
    "SignedUsd": described(SIGNED_USD, "US dollars that may be owed: what came in less what was taken back"),
    "Msat": described(MSAT, "millisatoshi"),
    "Money": either(ref("Usd"), ref("Msat")),
    "MoneyAsked": described(MONEY_ASKED, "US dollars: an object, or the decimal string alone; never a float"),
})  # fmt: skip
usd, signed_usd, money, money_asked = ref("Usd"), ref("SignedUsd"), ref("Money"), ref("MoneyAsked")
