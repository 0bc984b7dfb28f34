"""Vocabularies: how many tokens a text has for a model.

OpenAI's vocabularies are exact and come with the package bpe-openai. Its Python layer builds tables of two hundred
thousand entries when it is imported (0.6 s, 67 MB) that we have no use for, so the compiled module is loaded by
itself; a vocabulary is read (60 ms, up to 63 MB) when the first text is counted, not before. For other models
characters are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from math import ceil
from pathlib import Path
from typing import Any

from gateway.core.metering import TextCounter

# A vocabulary counts about 30 bytes a microsecond: above this size (half a millisecond) the caller leaves the event
# loop.
LARGE_TEXT_BYTES = 16 * 1024
# English text has about four characters a token in every vocabulary of today.
ASCII_CHARACTERS_PER_TOKEN = 4

_NEW = "o200k_base"
_OLD = "cl100k_base"
# Models whose vocabulary is published. Older ones first: gpt-4o begins like gpt-4.
_FAMILIES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.[1-9]|gpt-[5-9]|gpt-oss|o[1-9]|codex)"), _NEW),
    (re.compile(r"(gpt-4|gpt-3\.5|gpt-35|text-embedding-(3|ada-002)|davinci-002|babbage-002)"), _OLD),
)
# Whose models the names above can be; a model of another provider may be called alike.
_PROVIDERS = frozenset({"openai", "azure"})


def count_characters(text: str) -> int:
    """An estimate for models without a published vocabulary: a token for every four ASCII characters, rounded up,
    and one for every other character."""
    ascii_characters = len(text.encode("ascii", "ignore"))
    return ceil(ascii_characters / ASCII_CHARACTERS_PER_TOKEN) + len(text) - ascii_characters


def vocabulary_of(model: str, provider: str | None) -> str | None:
    """The vocabulary of a model, None where none is published. Fine-tuned models (`ft:gpt-4o:...`) have their base's; a
    router's `openai/` prefix names the provider."""
    name = model.lower().removeprefix("ft:")
    if name.startswith("openai/"):
        name = name.removeprefix("openai/")
    elif provider is not None and provider.lower() not in _PROVIDERS:
        return None
    for pattern, vocabulary in _FAMILIES:
        if pattern.match(name):
            return vocabulary
    return None


class Vocabularies:
    """Gives counters, and keeps what they have loaded. One for a process."""

    def __init__(self) -> None:
        self._module: Any = None
        self._loaded: dict[str, Callable[[str], int]] = {}
        self._counters: dict[str, TextCounter] = {}

    def counter_for(self, model: str, provider: str | None) -> TextCounter:
        """The counter of a model. Makes nothing heavy: the vocabulary is loaded with the first text."""
        vocabulary = vocabulary_of(model, provider)
        if vocabulary is None:
            return count_characters
        counter = self._counters.get(vocabulary)
        if counter is None:
            counter = self._counters[vocabulary] = self._counting(vocabulary)
        return counter

    def is_exact(self, model: str, provider: str | None) -> bool:
        """Whether the model's vocabulary is known."""
        return vocabulary_of(model, provider) is not None

    def load(self, vocabulary: str) -> Callable[[str], int]:
        """Read a vocabulary now (at most 100 ms); may be called in a thread to have it ready."""
        counting = self._loaded.get(vocabulary)
        if counting is None:
            if self._module is None:
                self._module = _compiled_module()
            counting = self._loaded[vocabulary] = self._module.tokenizer_for_encoding(vocabulary).count
        return counting

    def _counting(self, vocabulary: str) -> TextCounter:
        def count(text: str) -> int:
            counting = self._loaded.get(vocabulary) or self.load(vocabulary)
            try:
                return counting(text)
            except UnicodeEncodeError:  # half of a surrogate pair
                return counting(text.encode("utf-8", "replace").decode())

        return count


def _compiled_module() -> Any:
    """bpe-openai's extension, without the package around it."""
    package = find_spec("bpe_openai")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the package bpe-openai is not installed")
    path = next(Path(package.submodule_search_locations[0]).glob("_bindings*.so"), None)
    if path is None:
        raise ImportError("the package bpe-openai has no compiled module")
    loader = ExtensionFileLoader("_bindings", str(path))
    spec = spec_from_file_location("_bindings", path, loader=loader)
    if spec is None:
        raise ImportError(f"{path} cannot be loaded")
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
