"""A stream that is one JSON array (Gemini without `alt=sse`): `[{...}`, `,{...}`, ..., `]`.

An element with what stands before it is an event; so is the closing bracket. Elements have no separator that a
search could find, so the bytes are scanned for brackets outside strings, each byte once.
"""

from __future__ import annotations

import re
from itertools import pairwise

import msgspec

from gateway.core.answers.figures import Members, decoded
from gateway.core.answers.gemini import ChunkTally
from gateway.core.answers.grammar import Grammar
from gateway.core.answers.reading import EventReader
from gateway.core.metering import TextCounter

_STRUCTURE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\]')
_ELEMENT_DEPTH = 1


class ArrayScanner:
    """Finds where elements end. Holds its place between reads."""

    def __init__(self, *, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def next_end(self, data: bytes, start: int) -> int:
        """Behind the element (or the closing bracket) that ends next at or after `start`; -1 where none does."""
        at = start
        while at < len(data):
            if self._in_string:
                at = self._string_end(data, at)
                continue
            match = _STRUCTURE.search(data, at)
            if match is None:
                return -1
            at = match.end()
            match data[at - 1 : at]:
                case b'"':
                    self._in_string = True
                case b"{" | b"[":
                    self._depth += 1
                case _:
                    self._depth = max(self._depth - 1, 0)
                    if self._depth <= _ELEMENT_DEPTH:
                        return at
        return -1

    def _string_end(self, data: bytes, at: int) -> int:
        """Go on inside a string: behind its end, or the end of what there is."""
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _IN_STRING.search(data, at)
        if match is None:
            return len(data)
        if match.group() == b'"':
            self._in_string = False
        else:
            self._escaped = True
        return match.end()


class ArrayFraming:
    """An array's elements as events. The reader finds their ends itself, byte by byte as they come."""

    whole_ends: tuple[bytes, ...] = ()
    overlap_bytes = 0

    def last_boundary(self, data: bytes) -> int:
        """Behind the last element in `data`, which begins between two elements inside the array or at its start."""
        ends = _ends(data)
        return ends[-1] if ends else 0

    def first_boundary(self, data: bytes) -> int:
        """Behind the first element."""
        ends = _ends(data)
        return ends[0] if ends else 0

    def split(self, data: bytes) -> list[bytes]:
        """Elements, each with what stands before it."""
        if not data:
            return []
        bounds = [0, *_ends(data)]
        if bounds[-1] < len(data):
            bounds.append(len(data))
        return [data[start:end] for start, end in pairwise(bounds)]

    def payload(self, event: bytes) -> Members | None:
        """The element."""
        return decoded(event.lstrip(b"[, \t\r\n"))


def _ends(data: bytes) -> list[int]:
    """Ends of the elements in `data`, which may begin inside the array."""
    scanner = ArrayScanner(depth=0 if data.lstrip().startswith(b"[") else _ELEMENT_DEPTH)
    ends: list[int] = []
    end = scanner.next_end(data, 0)
    while end >= 0:
        ends.append(end)
        end = scanner.next_end(data, end)
    return ends


class ArrayReader(EventReader):
    """Reads a JSON array stream."""

    def __init__(self, grammar: Grammar, *, counter: TextCounter, strip_usage: bool, client_asked_usage: bool) -> None:
        super().__init__(
            grammar, ArrayFraming(), counter=counter, strip_usage=strip_usage, client_asked_usage=client_asked_usage
        )
        self._scanner = ArrayScanner()

    def _boundary(self, chunk: bytes, *, first: bool) -> int:
        found = end = self._scanner.next_end(chunk, 0)
        while end >= 0 and not first:
            found, end = end, self._scanner.next_end(chunk, end)
        return found

    def closing(self) -> bytes:
        """One more element, and the closing bracket."""
        tally = self._gauge.fold()
        assert isinstance(tally, ChunkTally)
        element = msgspec.json.encode(tally.closing_chunk(self._closing_usage()))
        return (b",\r\n" if tally.events else b"[") + element + b"\n]"
