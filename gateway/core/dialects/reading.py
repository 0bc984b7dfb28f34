"""What all readers of requests share: strict integers, duplicate names, and counting what a body only names.

Decoding looks at the members that bear cost and passes over the rest. A name given twice, spelled with escapes or in
other capitals could make the upstream see another request than the one we priced: one pass of a regex over the bytes
finds every spelling of a name that matters, and only where the finds do not agree with what was decoded is the body
parsed strictly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import UNSET

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestFacts, RequestLimits

T = TypeVar("T")

GREATEST_MODEL_NAME = 256  # the longest id in any price book is below 100 characters
GREATEST_CHOICES = 128  # OpenAI's own bound of n; others are lower

# An ASCII letter or underscore, the Kelvin sign or the long s, written as an escape: nobody does this to a name by
# chance.
_ESCAPED_LETTER = re.compile(rb"\\u(?:00[4-7][0-9a-fA-F]|212[aA]|017[fF])")
_FOLDING_LETTERS = (b"\xe2\x84\xaa", b"\xc5\xbf")  # Kelvin sign and long s: some parsers take them for k and s


def refuse(detail: str, param: str | None) -> NoReturn:
    """422, naming the field."""
    raise InvalidRequest(detail, param=param)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as the decoder's structure; 422 where it is not JSON or not an object."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"body: {error}", param=_path(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"body: not valid JSON: {error}", param="body") from None
    except RecursionError:
        raise InvalidRequest("body: nested too deeply", param="body") from None


def _path(message: str) -> str:
    _, found, path = message.rpartition(" - at `$")
    return path.rstrip("`").lstrip(".") if found and path.rstrip("`") else "body"


def escapes_letters(body: bytes) -> bool:
    """Whether a byte search for a word could miss it, because some letter is written as an escape."""
    return b"\\u" in body and _ESCAPED_LETTER.search(body) is not None


class NameScan:
    """Finds names of members in the bytes of a body, wherever they stand and however they are capitalised."""

    def __init__(self, bearing: Mapping[str, str], media: Iterable[str] = ()) -> None:
        """`bearing`: name -> attribute of the decoded structure ("" for a name inside of a member: it must only be
        alone); `media`: names of things that bytes do not measure."""
        self._attributes = {name.lower().encode(): attribute for name, attribute in bearing.items()}
        self._exact = {name.lower(): name for name in bearing}
        self._media = frozenset(name.lower().encode() for name in media)
        names = sorted({*self._attributes, *self._media})
        self._find = re.compile(b'"(' + _trie(names) + rb')"\s*+:').findall

    def __call__(self, body: bytes, request: object) -> Mapping[bytes, int]:
        """How often each media name stands in the body. Raises InvalidRequest when a name that bears cost is given
        twice or in another spelling."""
        suspicious = escapes_letters(body)
        if not suspicious and not body.isascii():
            suspicious = any(letter in body for letter in _FOLDING_LETTERS)
        seen: dict[bytes, int] = {}
        attributes = self._attributes
        for name in self._find(body.lower()):
            if name in seen:
                seen[name] += 1
                suspicious = suspicious or name in attributes
                continue
            seen[name] = 1
            if name in attributes:
                attribute = attributes[name]
                if attribute and getattr(request, attribute) is UNSET:
                    suspicious = True
        if suspicious:
            return self._counted(self._strictly(body))
        return seen

    def _strictly(self, body: bytes) -> Any:
        """The parsed body. Raises where an object names one thing twice, or the outermost one names a thing in another
        spelling."""
        try:
            outermost = json.loads(body, object_pairs_hook=self._pairs)
        except RecursionError:
            raise InvalidRequest("body: nested too deeply", param="body") from None
        except ValueError:  # a number of thousands of digits, or bytes that are not UTF-8 in a member nobody reads
            raise InvalidRequest("body: a number or text that cannot be read", param="body") from None
        for name in outermost:
            exact = self._exact.get(name.casefold())
            if exact is not None and name not in self._exact.values():
                refuse(f"{name!r} is to be spelled {exact!r}", name)
        return outermost

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    refuse(f"{name!r} is given twice in one object", name)
                seen.add(name)
        return members

    def _counted(self, outermost: Any) -> dict[bytes, int]:
        """The same count on the parsed body, where a name may have been written with escapes."""
        counts: dict[bytes, int] = {}
        waiting = [outermost]
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict):
                for name, member in item.items():
                    folded = name.casefold().encode("utf-8", "replace")
                    if folded in self._media or folded in self._attributes:
                        counts[folded] = counts.get(folded, 0) + 1
                    waiting.append(member)
            elif isinstance(item, list):
                waiting.extend(item)
        return counts


def _trie(names: list[bytes]) -> bytes:
    """A regex that matches exactly `names`, with common beginnings written once: the engine then fails on the first
    letter."""
    if names == [b""]:
        return b""
    branches: dict[bytes, list[bytes]] = {}
    for name in names:
        branches.setdefault(name[:1], []).append(name[1:])
    optional = branches.pop(b"", None) is not None
    written = b"|".join(re.escape(first) + _trie(sorted(rest)) for first, rest in sorted(branches.items()))
    if optional or len(branches) > 1:
        written = b"(?:" + written + b")"
    return written + (b"?" if optional else b"")


def model_name(value: object, path_model: str | None) -> str:
    """The model asked for: the path's, else the body's."""
    if path_model is not None:
        value = path_model
    if type(value) is not str or not value:
        refuse("model: a non-empty string is needed", "model")
    if len(value) > GREATEST_MODEL_NAME or not value.isprintable():
        refuse(f"model: at most {GREATEST_MODEL_NAME} printable characters", "model")
    return value


def flag(value: object, param: str) -> bool:
    """A boolean, where leaving it out or null means false."""
    if value is UNSET or value is None or value is False:
        return False
    if value is True:
        return True
    refuse(f"{param}: true or false, not {_shown(value)}", param)


def limit_tokens(value: object, param: str, *, greatest: int, least: int = 1) -> int | None:
    """An output limit: an integer from `least` to `greatest`; None where it is left out or null."""
    if value is UNSET or value is None:
        return None
    if type(value) is not int or not least <= value <= greatest:
        refuse(f"{param}: an integer from {least} to {greatest}, not {_shown(value)}", param)
    return value


def count_of(value: object, param: str, *, greatest: int = GREATEST_CHOICES) -> int:
    """How many of something: an integer from 1 on; 1 where it is left out or null."""
    if value is UNSET or value is None:
        return 1
    if type(value) is not int or not 1 <= value <= greatest:
        refuse(f"{param}: an integer from 1 to {greatest}, not {_shown(value)}", param)
    return value


def one_of(value: object, param: str, known: frozenset[str]) -> str | None:
    """One of a list of words; None where it is left out or null."""
    if value is UNSET or value is None:
        return None
    if type(value) is not str or value not in known:
        refuse(f"{param}: one of {', '.join(sorted(known))}, not {_shown(value)}", param)
    return value


def given(value: object) -> bool:
    """Whether a member is there and says something."""
    return value is not UNSET and value is not None


def _shown(value: object) -> str:
    """A value in a message: short, and never text of a prompt."""
    if isinstance(value, (bool, int, float)):
        return repr(value).lower() if isinstance(value, bool) or abs(value) < 10**30 else "this number"
    return {"str": "a string", "list": "an array", "dict": "an object"}.get(type(value).__name__, "this")


class _ModelOnly(msgspec.Struct):
    model: object = UNSET


_MODEL_ONLY_DECODER = msgspec.json.Decoder(_ModelOnly)
_scan_model = NameScan({"model": "model"})


def read_model_only(body: bytes, path_model: str | None, limits: RequestLimits) -> RequestFacts:
    """Facts of a request of which only the model matters: counting tokens is free."""
    request = decode(_MODEL_ONLY_DECODER, body)
    _scan_model(body, request)
    model = model_name(request.model, path_model)
    return RequestFacts(model, input_bound_tokens=len(body) + limits.overhead_tokens, limit_can_be_spliced=False)
