"""The headers by which an app says for whom it asks: person, session, approved quote. Read once."""

from __future__ import annotations

from msgspec import Struct

from gateway.core.directory import PERSON_ID_CHARACTERS, SESSION_ID_CHARACTERS
from gateway.core.errors import InvalidRequest
from gateway.core.headers import Headers

USER, SESSION, QUOTE = b"farebox-user", b"farebox-session", b"farebox-quote"
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
            if name in found:
                raise InvalidRequest("it is given twice; send one", param=name.decode())
            found[name] = _text(name, value)
    if not found:
        return NOBODY
    return PersonHeaders(found.get(USER, ""), found.get(SESSION, ""), found.get(QUOTE, ""))


_MOST = {USER: PERSON_ID_CHARACTERS, SESSION: SESSION_ID_CHARACTERS, QUOTE: QUOTE_ID_CHARACTERS}


def _text(name: bytes, value: bytes) -> str:
    most = _MOST[name]
    try:
        text = value.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    if not 0 < len(text) <= most or not text.isprintable():
        raise InvalidRequest(f"it has 1 to {most} printable characters", param=name.decode())
    return text
