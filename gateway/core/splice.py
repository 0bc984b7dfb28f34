"""Puts the two things we may change in a body into its bytes: `stream_options.include_usage` and the output limit.

Everything else stays as it came, byte for byte: nothing is parsed and written anew, so no number, escape or order can
change on the way. A limit is only ever lowered, or set where the request names none. The body has been read by
`read_request` before, so it is one valid JSON object in which no name that matters stands twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from gateway.core.dialects.reading import escapes_letters
from gateway.core.facts import RequestFacts
from gateway.core.json_spans import Member, members, skip_space
from gateway.core.operations import Operation

Edit = tuple[int, int, bytes]  # replace this span by these bytes

_CHAT_LIMITS = ("max_completion_tokens", "max_tokens")
# OpenAI's own reasoning models refuse `max_tokens`; many who speak its dialect do not know `max_completion_tokens`.
_NEW_LIMIT_NAME = re.compile(r"(?:^|[/.])(?:o[1-9](?![0-9a-z])|gpt-(?!35)(?:[5-9]|\d\d)|codex)", re.IGNORECASE)
_NO_LIMIT = frozenset({-1, -2})  # Ollama's words for none
# Names that must not stand anywhere in a body for a limit to be simply put first, what is put there, and the beginning
# of all those names: a short search is a quick one.
_CONFIG = ((b'"generationConfig"', b'"generation_config"'), b'"generationConfig":{"maxOutputTokens":%d}', b'"gene')
_OPTIONS = ((b'"options"',), b'"options":{"num_predict":%d}', b'"opti')
_PLACES = {
    Operation.CHAT: ((b'"max_tokens"', b'"max_completion_tokens"'), b'"max_tokens":%d', b'"max_'),
    Operation.COMPLETIONS: ((b'"max_tokens"',), b'"max_tokens":%d', b'"max_'),
    Operation.RESPONSES: ((b'"max_output_tokens"',), b'"max_output_tokens":%d', b'"max_'),
    Operation.GENERATE: _CONFIG,
    Operation.STREAM_GENERATE: _CONFIG,
    Operation.OLLAMA_CHAT: _OPTIONS,
    Operation.OLLAMA_GENERATE: _OPTIONS,
}
# The names of a dialect's output limits, wherever they stand; an operation that is not here has none.
_LIMITS = {
    Operation.CHAT: (b'"max_tokens"', b'"max_completion_tokens"'),
    Operation.COMPLETIONS: (b'"max_tokens"',),
    Operation.MESSAGES: (b'"max_tokens"',),
    Operation.RESPONSES: (b'"max_output_tokens"',),
    Operation.GENERATE: (b'"maxOutputTokens"', b'"max_output_tokens"'),
    Operation.STREAM_GENERATE: (b'"maxOutputTokens"', b'"max_output_tokens"'),
    Operation.OLLAMA_CHAT: (b'"num_predict"',),
    Operation.OLLAMA_GENERATE: (b'"num_predict"',),
}
_LIMIT_VALUE = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+([0-9]++)")
_ASKED = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_USAGE = b'{"include_usage":true}'


def splice(
    operation: Operation, body: bytes, facts: RequestFacts, *, include_usage: bool, output_limit_tokens: int | None
) -> bytes:
    """The body with usage asked for and no output limit above `output_limit_tokens` (None: limits stay as they are)."""
    asks = include_usage and operation in _ASKED
    limit = output_limit_tokens if operation in _LIMITS else None
    if not escapes_letters(body):  # else a name could be there that a byte search does not see
        if asks and b'"stream_options"' not in body:
            body, asks = _inserted_first(body, b'"stream_options":' + _USAGE), False
        if limit is not None:
            change = _limited_first if facts.output_limit_tokens is None else _lowered_alone
            body, limit = change(operation, body, facts.model, limit)
    if not asks and limit is None:
        return body
    listed = members(body)
    edits: list[Edit] = []
    if asks:
        edits += _usage_edits(body, listed)
    if limit is not None:
        edits += _limit_edits(operation, body, listed, facts.model, limit)
    return _applied(body, edits)


def _lowered_alone(operation: Operation, body: bytes, _model: str, limit: int) -> tuple[bytes, int | None]:
    """The next common case, one limit: it was read from its place, so if its name stands in the body only once, that is
    the place. Gives the limit back where there are more."""
    found = [(body.find(name), name) for name in _LIMITS[operation] if name in body]
    if len(found) != 1 or body.find(found[0][1], found[0][0] + 1) >= 0:
        return body, limit
    value = _LIMIT_VALUE.match(body, found[0][0] + len(found[0][1]))
    if value is None:
        return body, limit
    if int(value.group(1)) <= limit:
        return body, None
    return b"%s%d%s" % (body[: value.start(1)], limit, body[value.end(1) :]), None


def _limited_first(operation: Operation, body: bytes, model: str, limit: int) -> tuple[bytes, int | None]:
    """The common case, a request that names no limit: without looking at its members. Gives the limit back where some
    member in the body might be in the way."""
    places = _PLACES.get(operation)
    if places is None:
        return body, limit
    if places[2] in body and any(name in body for name in places[0]):
        return body, limit
    if operation == "chat" and _takes_new_name(model):
        return _inserted_first(body, b'"max_completion_tokens":%d' % limit), None
    return _inserted_first(body, places[1] % limit), None


@lru_cache(maxsize=1_024)
def _takes_new_name(model: str) -> bool:
    return _NEW_LIMIT_NAME.search(model) is not None


def _usage_edits(body: bytes, listed: Sequence[Member]) -> list[Edit]:
    options = [member for member in listed if member.name == "stream_options"]
    if not options:
        return [_insertion(body, 0, listed, b'"stream_options":' + _USAGE)]
    return [
        edit for member in options for edit in _set_within(body, member, ("include_usage",), b"true", b"include_usage")
    ]


def _limit_edits(operation: Operation, body: bytes, listed: Sequence[Member], model: str, limit: int) -> list[Edit]:
    number = b"%d" % limit
    holders: tuple[str, ...]
    names: tuple[str, ...]
    match operation:
        case Operation.CHAT:
            name = "max_completion_tokens" if _NEW_LIMIT_NAME.search(model) else "max_tokens"
            return _lowered(body, 0, listed, _CHAT_LIMITS, limit, name)
        case Operation.COMPLETIONS | Operation.MESSAGES:
            return _lowered(body, 0, listed, ("max_tokens",), limit, "max_tokens")
        case Operation.RESPONSES:
            return _lowered(body, 0, listed, ("max_output_tokens",), limit, "max_output_tokens")
        case Operation.GENERATE | Operation.STREAM_GENERATE:
            holders, names = ("generationConfig", "generation_config"), ("maxOutputTokens", "max_output_tokens")
        case _:  # Ollama's: `_LIMITS` lets no other come here
            holders, names = ("options",), ("num_predict",)
    for member in listed:
        if member.name in holders and body[member.value_start : member.value_start + 1] == b"{":
            inner = members(body, member.value_start)
            return _lowered(body, member.value_start, inner, names, limit, names[0])
    written = b'{"%s":%s}' % (names[0].encode(), number)
    for member in listed:
        if member.name in holders:  # null
            return [(member.value_start, member.value_end, written)]
    return [_insertion(body, 0, listed, b'"%s":%s' % (holders[0].encode(), written))]


def _lowered(
    body: bytes, start: int, listed: Sequence[Member], names: tuple[str, ...], limit: int, new_name: str
) -> list[Edit]:
    """Every limit above `limit` brought down to it; where none is named, the one that says null, or a new one, is
    set."""
    number = b"%d" % limit
    edits: list[Edit] = []
    bounded = False
    silent: Member | None = None
    for member in listed:
        if member.name not in names:
            continue
        written = body[member.value_start : member.value_end]
        if written == b"null" or int(written) in _NO_LIMIT:
            silent = member
            continue
        bounded = True
        if int(written) > limit:
            edits.append((member.value_start, member.value_end, number))
    if bounded:
        return edits
    if silent is not None:
        return [(silent.value_start, silent.value_end, number)]
    return [_insertion(body, start, listed, b'"%s":%s' % (new_name.encode(), number))]


def _set_within(body: bytes, holder: Member, names: tuple[str, ...], value: bytes, new_name: bytes) -> list[Edit]:
    """Sets a member of the object that `holder` is; makes the object where `holder` is null."""
    if body[holder.value_start : holder.value_start + 1] != b"{":
        return [(holder.value_start, holder.value_end, b'{"%s":%s}' % (new_name, value))]
    inner = members(body, holder.value_start)
    present = [(member.value_start, member.value_end, value) for member in inner if member.name in names]
    return present or [_insertion(body, holder.value_start, inner, b'"%s":%s' % (new_name, value))]


def _insertion(body: bytes, start: int, listed: Sequence[Member], member: bytes) -> Edit:
    """A new first member of the object whose bracket is the first that is not space from `start` on."""
    at = skip_space(body, start) + 1
    return (at, at, member + b"," if listed else member)


def _inserted_first(body: bytes, member: bytes) -> bytes:
    if body[:2] == b'{"':
        return b"{%s,%s" % (member, body[1:])
    at = skip_space(body, 0) + 1
    more = body[skip_space(body, at) : skip_space(body, at) + 1] != b"}"
    return b"%s%s%s%s" % (body[:at], member, b"," if more else b"", body[at:])


def _applied(body: bytes, edits: list[Edit]) -> bytes:
    """The body with every edit made. Insertions at one place keep their order."""
    pieces: list[bytes] = []
    at = 0
    for start, end, written in sorted(edits, key=lambda edit: edit[:2]):
        pieces += (body[at:start], written)
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)
