"""Text that grows by small pieces and can be gone back on: appending and remembering an earlier state both cost
nothing."""

from __future__ import annotations

from typing import TypeAlias

# Shorter pieces are joined, so that a long text of small pieces takes the memory of the text.
_LEAF_CHARACTERS = 512

Rope: TypeAlias = "tuple[Rope | None, str]"


def longer(rope: Rope | None, text: str) -> Rope:
    """The rope with more text; the old one stays as it is."""
    if rope is not None and len(rope[1]) < _LEAF_CHARACTERS:
        return rope[0], rope[1] + text
    return rope, text


def text_of(rope: Rope | None) -> str:
    """The whole text."""
    leaves: list[str] = []
    while rope is not None:
        rope, leaf = rope
        leaves.append(leaf)
    return "".join(reversed(leaves))
