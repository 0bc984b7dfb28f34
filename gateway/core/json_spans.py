"""Where the members of a JSON object lie in its bytes, without parsing what they hold.

The relay may change two small things in a body and nothing else, so it edits bytes; for that it must know where a
member begins and ends, and must not be fooled by text that looks like one. Input is known to be valid JSON in UTF-8
(the reader of the request has decoded it); runs of text are passed over by the regex engine, one step a bracket, never
one a byte.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

# Everything up to the next bracket, whole strings included. Possessive, so that no input makes it try again.
_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACES = rb"[ \t\r\n]*+"
_SPACE = re.compile(_SPACES)
# A name, and its value where that is a string, a number or a word; of an object or array only the place.
_MEMBER = re.compile(
    _SPACES + b"(" + _STRING + b")" + _SPACES + b":" + _SPACES + b"(" + _STRING + rb'|[^",\]\[{}\s]++|(?=[\[{]))',
    re.DOTALL,
)
_OPENING = frozenset(b"{[")


class Member(NamedTuple):
    """One member of an object: its decoded name, where the name's quote begins, and the span of its value."""

    name: str
    name_start: int
    value_start: int
    value_end: int


class NotAnObject(ValueError):
    """There is no JSON object at this place."""


def skip_space(body: bytes, at: int) -> int:
    """The first place from `at` on that is not white space."""
    match = _SPACE.match(body, at)
    return match.end() if match else at


def _nested_end(body: bytes, at: int) -> int:
    depth = 0
    step = _TO_BRACKET.match
    while True:
        match = step(body, at)
        if match is None:
            raise NotAnObject("an object or array that does not end")
        at = match.end()
        if body[at - 1] in _OPENING:
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return at


def members(body: bytes, at: int = 0) -> list[Member]:
    """The members of the object that begins at `at` (white space before it is passed over), in order, duplicates
    included."""
    at = skip_space(body, at)
    if body[at : at + 1] != b"{":
        raise NotAnObject(f"no JSON object at byte {at}")
    found: list[Member] = []
    at += 1
    while True:
        match = _MEMBER.match(body, at)
        if match is None:
            at = skip_space(body, at)
            if body[at : at + 1] == b"}":
                return found
            raise NotAnObject(f"no member at byte {at}")
        start, end = match.span(2)
        if start == end:
            end = _nested_end(body, start)
        found.append(Member(_name(match.group(1)), match.start(1), start, end))
        at = skip_space(body, end)
        if body[at : at + 1] == b",":
            at += 1


def _name(quoted: bytes) -> str:
    if b"\\" in quoted:
        return str(json.loads(quoted))
    return quoted[1:-1].decode("utf-8", "replace")
