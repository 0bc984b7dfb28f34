"""The vocabulary of the simulated upstream.

Ground truth needs tokens that nobody can dispute: every word here, with the space before it, is exactly one token in
both OpenAI vocabularies (o200k_base and cl100k_base), in any order (a test counts them). So four characters, one
token and one streamed delta are the same thing, and what the simulator reports is what a counter finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import shake_128

WORD_CHARACTERS = 4
# 128 words, so that seven bits of a digest choose one.
_SPOKEN = (
    "the and for are but not you all any can had her was one our out day get has him his how man new now old see "
    "two way who boy did its let put say she too use air ask bad bag bar bed big bit box bus buy car cat cow cry "
    "cup cut dog dry due ear eat egg end eye far few fit fix fly fun gas god got gun guy hat hit hot ice ill jet "
    "job joy key kid law lay led leg lie lip log lot low map may mix mom net nor oil own pay per pet pie pin pot "
    "raw red rid row run sad sea set sit six sky son sum sun tax tea ten tie tip toe"
)
WORDS: tuple[str, ...] = tuple(f" {word}" for word in _SPOKEN.split())
_BLOCK_TOKENS = 4_096  # words are made in blocks, so that a stream of a million tokens holds one block in memory


def words(seed: bytes, count: int) -> Iterator[str]:
    """`count` words, always the same ones for the same seed."""
    for block in range(0, count, _BLOCK_TOKENS):
        size = min(_BLOCK_TOKENS, count - block)
        digest = shake_128(seed + block.to_bytes(8, "big")).digest(size)
        for byte in digest:
            yield WORDS[byte & 127]


def text(seed: bytes, count: int) -> str:
    """The same words, joined."""
    return "".join(words(seed, count))
