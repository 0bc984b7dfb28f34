"""Reads the small fields of a multipart upload while it streams past, without keeping a byte of its files.

An upload is admitted on the fields that came before its first file. What comes after is still read: a field that bears
cost and comes late, twice, or in a form that parsers disagree on would make the upstream do another job than the one
that was priced, so it is refused and the upload is given up.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NoReturn

from gateway.core.dialects.openai_media import upload_facts
from gateway.core.dialects.reading import refuse
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.operations import Operation

GREATEST_PART_HEADERS_BYTES = 8_192  # a part has two or three short header lines
GREATEST_FIELDS_BYTES = 1_048_576  # all fields that are not files: prompts are the longest
GREATEST_PARTS = 256
_BOUNDARY = re.compile(rb"""boundary=(?:"([^"\\\r\n]{1,70})"|([0-9A-Za-z'()+_,\-./:=?]{1,70}))""", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z]+)(\*?)=(?:"([^"\\\r\n]*)"|([^;" \t\r\n]+))')
_FORMS = frozenset({Operation.IMAGES_EDITS, Operation.TRANSCRIPTIONS})
BEARING_FIELDS = frozenset({"model", "n", "stream", "partial_images", "size", "quality", "background", "service_tier"})


class _At(Enum):
    BOUNDARY = auto()  # what follows a delimiter: its line's end, or the mark of the end
    HEADERS = auto()
    FIELD = auto()
    FILE = auto()
    START = auto()  # before the first delimiter
    END = auto()


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that a Content-Type names; InvalidRequest where it is missing or given twice."""
    found = _BOUNDARY.findall(content_type)
    if len(found) != 1 or b"*" in content_type:
        refuse("content-type: multipart/form-data needs one boundary", "content-type")
    quoted, plain = found[0]
    return bytes(quoted or plain)


class MultipartFields:
    """Feed it every chunk of the body, in order. `fields` holds what was read of the small fields so far; `complete`
    says that admission can go on with them. After `freeze`, a field that bears cost is refused."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.ended = False
        self.in_file = False
        self._mark = b"--" + boundary
        self._buffer = b""
        self._at = _At.START
        self._name = ""
        self._value: list[bytes] = []
        self._size = 0
        self._parts = 0
        self._frozen = False
        self._doubtful = ""
        self._before = b"\r\n"  # the two bytes before the buffer; the body's start counts as a line's start

    @property
    def complete(self) -> bool:
        """Whether nothing more is needed: the form has ended, or the model is known and a file has begun."""
        return self.ended or (self.in_file and "model" in self.fields)

    def freeze(self) -> None:
        """The price is to be settled on these fields: one that bears cost and was in doubt is refused, and from now on
        any."""
        if self._doubtful:
            self._refuse_field(self._doubtful)
        self._frozen = True

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes; gives `complete`. InvalidRequest names the field or says what is wrong with the form."""
        self._buffer += chunk
        while self._step():
            pass
        return self.complete

    def close(self) -> None:
        """The body is over: refuses a form that was not finished."""
        if not self.ended:
            refuse("body: the form does not end with its boundary", "body")

    def _step(self) -> bool:
        """One move of the machine; false when more bytes are needed."""
        match self._at:
            case _At.BOUNDARY:
                return self._after_mark()
            case _At.HEADERS:
                return self._headers()
            case _At.END:
                self._buffer = b""
                return False
            case _:
                return self._content()

    def _content(self) -> bool:
        """Everything up to the next mark belongs to the part (or comes before the first); only fields keep it."""
        at = self._buffer.find(self._mark)
        if at < 0:
            kept = len(self._mark) + 2
            if len(self._buffer) > kept:
                self._take(self._buffer[:-kept])
                self._drop(len(self._buffer) - kept)
            return False
        if (self._before + self._buffer[:at])[-2:] != b"\r\n":
            refuse("body: the boundary stands inside of a part", "body")
        self._take(self._buffer[: max(0, at - 2)])
        self._drop(at + len(self._mark))
        self._finish_part()
        self._at = _At.BOUNDARY
        return True

    def _drop(self, count: int) -> None:
        self._before = (self._before + self._buffer[:count])[-2:]
        self._buffer = self._buffer[count:]

    def _take(self, content: bytes) -> None:
        if self._at is not _At.FIELD or not content:
            return
        self._size += len(content)
        if self._size > GREATEST_FIELDS_BYTES:
            refuse(f"body: the fields that are not files take more than {GREATEST_FIELDS_BYTES} bytes", self._name)
        self._value.append(content)

    def _finish_part(self) -> None:
        self.in_file = False
        if self._at is not _At.FIELD:
            return
        try:
            self.fields[self._name] = b"".join(self._value).decode()
        except UnicodeDecodeError:
            refuse(f"{self._name}: not UTF-8", self._name)
        self._value = []

    def _after_mark(self) -> bool:
        end = self._buffer.find(b"\r\n")
        line = self._buffer[:end] if end >= 0 else self._buffer
        if line[:2] == b"--":
            self._at, self.ended = _At.END, True
            return True
        if line.strip(b" \t") or len(line) > GREATEST_PART_HEADERS_BYTES:
            if end < 0 and line in (b"-", b"\r"):
                return False
            refuse("body: the boundary stands inside of a part", "body")
        if end < 0:
            return False
        self._drop(end)  # the line's end stays: headers end at an empty line, also when there are none
        self._at = _At.HEADERS
        self._parts += 1
        if self._parts > GREATEST_PARTS:
            refuse(f"body: more than {GREATEST_PARTS} parts", "body")
        return True

    def _headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > GREATEST_PART_HEADERS_BYTES or (end < 0 and len(self._buffer) > GREATEST_PART_HEADERS_BYTES):
            refuse("body: the headers of a part are too long", "body")
        if end < 0:
            return False
        self._begin_part(self._buffer[2:end])
        self._drop(end + 4)
        return True

    def _begin_part(self, headers: bytes) -> None:
        disposition = [line for line in headers.split(b"\r\n") if line.lower().startswith(b"content-disposition:")]
        if len(disposition) != 1 or b"\n" in disposition[0] or b"\\" in disposition[0]:
            refuse("body: a part needs one plain Content-Disposition", "body")
        if b"content-transfer-encoding" in headers.lower():
            refuse("body: parts are sent as they are, without Content-Transfer-Encoding", "body")
        given: dict[bytes, bytes] = {}
        for name, star, quoted, plain in _PARAMETER.findall(disposition[0]):
            if star or name.lower() in given:
                refuse("body: a part needs one plain Content-Disposition", "body")
            given[name.lower()] = quoted or plain
        self._name = given.get(b"name", b"").decode("utf-8", "replace")
        if not self._name:
            refuse("body: a part without a name", "body")
        bears = self._name.removesuffix("[]").casefold() in BEARING_FIELDS
        is_file = b"filename" in given
        if bears and self._frozen:
            self._refuse_field(self._name)
        if bears and (is_file or self._name not in BEARING_FIELDS or self._name in self.fields):
            self._doubtful = self._name  # of no matter where the price does not depend on it
        self.in_file = is_file
        self._at = _At.FILE if is_file else _At.FIELD

    @staticmethod
    def _refuse_field(name: str) -> NoReturn:
        refuse(f"{name}: given once, as plain text, before the files", name)


def upload_request(
    operation: Operation,
    form: MultipartFields,
    *,
    content_length_bytes: int,
    path_model: str | None,
    limits: RequestLimits,
) -> RequestFacts:
    """The facts of an upload, from what its form has shown so far. The files are bounded by `content_length_bytes` (the
    policy's limit for uploads where the request does not say it). Raw routes have their price whatever the form
    says."""
    if operation is Operation.RAW:
        return RequestFacts(path_model or "", input_bound_tokens=content_length_bytes, limit_can_be_spliced=False)
    if operation not in _FORMS:
        refuse("content-type: this path takes JSON", "content-type")
    form.freeze()
    return upload_facts(
        form.fields,
        content_length_bytes=content_length_bytes,
        path_model=path_model,
        limits=limits,
        audio=operation is Operation.TRANSCRIPTIONS,
    )
