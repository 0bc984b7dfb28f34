"""Server-sent events in bytes: where they end, and what they carry (WHATWG HTML, "Server-sent events").

Events are cut, never rebuilt: what goes out is what came in. Line ends may be LF, CRLF or CR and may be mixed; an
event may be split anywhere by the network. A buffer that ends in CR is not yet decided, because an LF may follow
and belongs to it: without that rule the same bytes would be cut differently by different reads.
"""

from __future__ import annotations

import re

# Two line ends in a row. Atomic, so that the CR and the LF of one CRLF are never taken for two.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
# What a read that ends between two events ends with. A bare CR pair is left to `last_boundary`.
WHOLE_ENDS = (b"\n\n", b"\n\r\n")
# Bytes of a separator that can lie in an earlier read than its last byte.
SEPARATOR_OVERLAP = 3
_BOM = b"\xef\xbb\xbf"


def last_boundary(data: bytes) -> int:
    """Where the last whole event of `data` ends; 0 when there is none."""
    if b"\r" not in data:
        return data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
    found = data.rfind(b"\r\n\r\n")
    end = found + 4 if found >= 0 else 0
    for match in _BLANK_LINE.finditer(data, end):
        if match.end() == len(data) and data.endswith(b"\r"):
            break
        end = match.end()
    return end


def first_boundary(data: bytes) -> int:
    """Where the first event of `data` ends; 0 when it is not whole."""
    match = _BLANK_LINE.search(data)
    if match is None or (match.end() == len(data) and data.endswith(b"\r")):
        return 0
    return match.end()


def split(data: bytes) -> list[bytes]:
    """`data` cut behind every event. Joined again, the parts are `data`; a last part may be unfinished."""
    if b"\r" not in data:
        parts = data.split(b"\n\n")
        last = parts.pop()
        events = [part + b"\n\n" for part in parts]
    else:
        events, start = [], 0
        for match in _BLANK_LINE.finditer(data):
            events.append(data[start : match.end()])
            start = match.end()
        last = data[start:]
    if last:
        events.append(last)
    return events


def blank_prefix(event: bytes) -> int:
    """How many bytes of line ends stand before the event's first line."""
    return len(event) - len(event.lstrip(b"\r\n"))


def data_of(event: bytes) -> bytes | None:
    """The event's data, its lines joined by LF; None when it has none (a comment, a bare name)."""
    lines: list[bytes] = []
    for line in event.removeprefix(_BOM).splitlines():
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None
