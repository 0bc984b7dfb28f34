"""What a provider's path asks for, told by how it ends: providers put their own words before it, and after it nothing.

`/openai/v1/chat/completions`, `/api/v1/chat/completions` and `/chat/completions` all ask for a chat. A path that ends
in nothing known here asks for something that we could not meter, and has no operation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

from gateway.core.operations import Dialect, Operation

_POST: Mapping[Dialect, tuple[tuple[str, Operation], ...]] = MappingProxyType(
    {
        # The longer ending first where one ends in another.
        Dialect.OPENAI: (
            ("/chat/completions", Operation.CHAT),
            ("/completions", Operation.COMPLETIONS),
            ("/responses/compact", Operation.RESPONSES_COMPACT),
            ("/responses/input_tokens", Operation.INPUT_TOKENS),
            ("/responses", Operation.RESPONSES),
            ("/embeddings", Operation.EMBEDDINGS),
            ("/images/generations", Operation.IMAGES_GENERATIONS),
            ("/images/edits", Operation.IMAGES_EDITS),
            ("/audio/transcriptions", Operation.TRANSCRIPTIONS),
            ("/audio/speech", Operation.SPEECH),
        ),
        Dialect.ANTHROPIC: (
            ("/messages/count_tokens", Operation.INPUT_TOKENS),
            ("/messages", Operation.MESSAGES),
        ),
        Dialect.OLLAMA: (
            ("/api/chat", Operation.OLLAMA_CHAT),
            ("/api/generate", Operation.OLLAMA_GENERATE),
        ),
        Dialect.GEMINI: (),
        Dialect.RAW: (),
    }
)
GEMINI_VERBS: Mapping[str, Operation] = MappingProxyType(
    {
        "generateContent": Operation.GENERATE,
        "streamGenerateContent": Operation.STREAM_GENERATE,
        "embedContent": Operation.EMBED,
        "batchEmbedContents": Operation.EMBED,
        "countTokens": Operation.INPUT_TOKENS,
    }
)
_GEMINI = re.compile(r"/models/([^/:]+(?:/[^/:]+)*)(?::|%3[Aa])([A-Za-z]+)$")
# Lists of models, and one model of it: its name may have slashes.
_LISTING = re.compile(r"/models(?:/[^/]+){0,4}$")
_OLLAMA_LISTING = re.compile(r"/api/(?:tags|ps|version)$")
# What could make an upstream read another path than the one we judged: dot segments, also between encoded slashes or
# before a parameter, empty segments, encoded separators of a request line, and a percent sign that a second decoding
# would turn into any of these. An encoded slash stays allowed: names of models have them.
_UNSAFE = re.compile(
    r"//|(?:/|%2[fF])\.{1,2}(?:/|%2[fF]|$)|%2[eE]|%25|%3[bB]|%5[cC]|%23|%3[fF]|%00|[\\?#;\s]|[^\x21-\x7e]"
)


class Asked(NamedTuple):
    """An operation in its dialect; `model` where the path names it."""

    operation: Operation
    dialect: Dialect
    model: str | None


def is_safe(path: str) -> bool:
    """Whether a path means the same to every server that reads it."""
    return _UNSAFE.search(path) is None


def asked_by(method: str, path: str, dialect: Dialect) -> Asked | None:
    """What the path of an upstream asks for: in its own dialect, else in another that it may speak besides.

    Raw upstreams have no operations of their own: only routes that name a price lead to them.
    """
    if dialect is Dialect.RAW or "/threads/" in path:  # messages that are kept, not answered
        return None
    if method == "GET":
        return _listed(path, dialect)
    if method != "POST":
        return None
    named = gemini_call(path)
    if named is not None:
        return named
    for each in (dialect, Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.OLLAMA):
        for ending, operation in _POST[each]:
            if path.endswith(ending):
                return Asked(operation, each, None)
    return None


def gemini_call(path: str) -> Asked | None:
    """`.../models/{model}:{verb}`, whatever stands before."""
    found = _GEMINI.search(path)
    operation = GEMINI_VERBS.get(found[2]) if found else None
    return Asked(operation, Dialect.GEMINI, unquote(found[1])) if found and operation else None


def _listed(path: str, dialect: Dialect) -> Asked | None:
    if path.endswith("/realtime"):
        return Asked(Operation.REALTIME, Dialect.OPENAI, None) if dialect is Dialect.OPENAI else None
    # In Gemini's paths a colon is followed by a verb, in others it is a part of a model's name.
    if ":" in path and dialect is Dialect.GEMINI:
        return None
    if _LISTING.search(path) or (dialect is Dialect.OLLAMA and _OLLAMA_LISTING.search(path)):
        return Asked(Operation.LISTING, dialect, None)
    return None
