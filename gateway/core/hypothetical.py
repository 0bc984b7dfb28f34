"""A request that nobody has sent, to ask what would become of it: as it would be sent, or by model and figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from gateway.core.call import Call
from gateway.core.directory import PERSON_ID_CHARACTERS, SESSION_ID_CHARACTERS
from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts

MEMBERS = (
    "method", "path", "body", "model", "input_tokens", "max_output_tokens", "stream", "user", "session", "key",
)  # fmt: skip
_SHORT = ("model", "input_tokens", "max_output_tokens", "stream")
_TOKENS_MOST = 10_000_000
_TEXT_MOST = 256
# In the order of the dialects: where a model is asked, and how its greatest output is named.
_CHAT, _MESSAGES, _GEMINI, _OLLAMA = "/v1/chat/completions", "/v1/messages", "/v1beta/models/", "/api/chat"


class Hypothetical(Struct, frozen=True):
    """What is asked about. `calls` are tried in order: the first that a route serves is meant. `input_tokens` None: as
    the body shows."""

    calls: tuple[Call, ...]
    user: str = ""
    session: str = ""
    key_id: str = ""
    input_tokens: int | None = None

    def with_input(self, facts: RequestFacts) -> RequestFacts:
        """The facts with the input that is asked about."""
        if self.input_tokens is None:
            return facts
        return msgspec.structs.replace(facts, input_bound_tokens=self.input_tokens, input_counted=True)


def parse_hypothetical(members: dict[str, Any], *, tail: str, now_s: float) -> Hypothetical:
    """Errors: InvalidRequest naming the member. `tail`: of the request's id, which nobody sees."""
    for name in members:
        if name not in MEMBERS:
            raise InvalidRequest(f"no such member; there are {', '.join(MEMBERS)}", param=name[:64])
    if "path" in members:
        for name in _SHORT:
            if name in members:
                raise InvalidRequest("with path, the body says this", param=name)
        raw = b"" if members.get("body") is None else msgspec.json.encode(members["body"])
        asked = [(_text(members, "path", 2_048), raw)]
    elif "model" in members:
        asked = list(_in_every_dialect(members))
    else:
        raise InvalidRequest("give path and body of a request, or a model", param="model")
    method = _text(members, "method", 16, "POST").upper()
    tokens = members.get("input_tokens")
    return Hypothetical(
        calls=tuple(_call(method, path, body, tail, now_s) for path, body in asked),
        user=_text(members, "user", PERSON_ID_CHARACTERS, ""),
        session=_text(members, "session", SESSION_ID_CHARACTERS, ""),
        key_id=_text(members, "key", _TEXT_MOST, ""),
        input_tokens=None if tokens is None else _number(members, "input_tokens"),
    )


def _call(method: str, target: str, body: bytes, tail: str, now_s: float) -> Call:
    path, _, query = target.partition("?")
    return Call(method, path, query.encode(), [], "", tail, f"req_00{tail}", now_s, body)


def _in_every_dialect(members: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The same question as each dialect would put it."""
    model, stream = _text(members, "model", _TEXT_MOST), members.get("stream", False)
    if not isinstance(stream, bool):
        raise InvalidRequest("must be true or false", param="stream")
    most = None if members.get("max_output_tokens") is None else _number(members, "max_output_tokens")
    chat: dict[str, Any] = {"model": model, "stream": stream, "messages": [{"role": "user", "content": ""}]}
    limit = {} if most is None else {"max_tokens": most}
    yield _CHAT, msgspec.json.encode(chat | limit)
    yield _MESSAGES, msgspec.json.encode(chat | {"max_tokens": 4_096 if most is None else most})
    verb = "streamGenerateContent" if stream else "generateContent"
    generation = {} if most is None else {"generationConfig": {"maxOutputTokens": most}}
    yield f"{_GEMINI}{quote(model, safe='')}:{verb}", msgspec.json.encode({"contents": []} | generation)
    options = {} if most is None else {"options": {"num_predict": most}}
    yield _OLLAMA, msgspec.json.encode(chat | options)


def _text(members: dict[str, Any], name: str, most: int, default: str | None = None) -> str:
    value = members.get(name, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str) or len(value) > most or not value.isprintable() or not (value or default == ""):
        raise InvalidRequest(f"must be 1 to {most} printable characters", param=name)
    return value


def _number(members: dict[str, Any], name: str) -> int:
    value = members[name]
    if type(value) is not int or not 0 <= value <= _TOKENS_MOST:
        raise InvalidRequest(f"must be a whole number from 0 to {_TOKENS_MOST}", param=name)
    return value
