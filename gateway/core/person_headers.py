"""The headers by which an app says for whom it asks: person, session, approved quote. Read once.

A name that a header cannot carry, or that a budget takes for everybody's, is no person's.
"""

from __future__ import annotations

from msgspec import Struct

from gateway.core.budgets import EVERYBODY
from gateway.core.directory import PERSON_ID_CHARACTERS, SESSION_ID_CHARACTERS
from gateway.core.errors import InvalidRequest
from gateway.core.headers import Headers

USER, SESSION, QUOTE = b"farebox-user", b"farebox-session", b"farebox-quote"
EXECUTION = b"farebox-execution"
QUOTE_ID_CHARACTERS = 64
_PREFIX = b"farebox-"


class PersonHeaders(Struct, frozen=True):
    """What a request says of the person behind it; "" where it says nothing."""

    user: str = ""
    session: str = ""
    quote: str = ""


NOBODY = PersonHeaders()


def person_headers(headers: Headers) -> PersonHeaders:
    """Errors: InvalidRequest naming the header, when one is given twice, is empty, too long or no text."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name.startswith(_PREFIX) and name in _MOST:
            if name == EXECUTION:  # served from another purse it would be charged to the wrong one
                raise InvalidRequest("executions are not served here; leave it out", param=name.decode())
            if name in found:
                raise InvalidRequest("it is given twice; send one", param=name.decode())
            found[name] = _text(name, value)
    if not found:
        return NOBODY
    return PersonHeaders(found.get(USER, ""), found.get(SESSION, ""), found.get(QUOTE, ""))


_MOST = {USER: PERSON_ID_CHARACTERS, SESSION: SESSION_ID_CHARACTERS, QUOTE: QUOTE_ID_CHARACTERS, EXECUTION: 0}


def check_person_id(person_id: str, *, param: str) -> None:
    """Errors: InvalidRequest where nobody can be named so."""
    if person_id == EVERYBODY:
        raise InvalidRequest(f"{EVERYBODY!r} stands for everybody in budgets; a person has another name", param=param)
    if person_id != person_id.strip():
        raise InvalidRequest("a header cannot carry spaces at its ends; leave them out", param=param)


def _text(name: bytes, value: bytes) -> str:
    most = _MOST[name]
    try:
        text = value.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidRequest("it is not UTF-8", param=name.decode()) from None
    if not 0 < len(text) <= most or not text.isprintable():
        raise InvalidRequest(f"it has 1 to {most} printable characters, in UTF-8", param=name.decode())
    if name == USER:
        check_person_id(text, param=name.decode())
    return text
