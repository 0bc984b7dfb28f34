"""Visible text of a stream, counted so that no way of cutting the stream changes the count.

Text arrives in pieces that need not be tokens. It is gathered by channel (an answer, its reasoning, a tool call
each have their own) and counted in blocks that end where every byte-pair vocabulary ends a word: before a space or
a punctuation mark. So the sum over blocks is the count of the whole text, whenever it was asked for. Text without
such a place is cut at a fixed length, which depends on the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

from gateway.core.metering import TextCounter

# Long enough that a cut inside a word is rare, short enough that counting the rest again costs a few microseconds.
BLOCK_CHARACTERS = 256
# Text waits in one string up to this length, because it may never have to be counted.
MOST_UNCOUNTED_CHARACTERS = 4096
# Greedy: the last character before a space, or the last letter or digit before a mark. Apostrophes join ("don't"), so
# they are not among the marks.
_LAST_WORD_END = re.compile(r"(?s).*(?:\S(?= )|[^\W_](?=[,.;:!?()，。；：！？、]))")


class VisibleText:
    """Counts the text of one stream. A copy is cheap, so that a reader can go back to where it was."""

    __slots__ = ("_channels", "_counted", "_counter", "_ended")

    def __init__(self, counter: TextCounter) -> None:
        self._counter = counter
        self._counted = 0
        self._ended = 0
        self._channels: dict[Hashable, str] = {}

    def add(self, channel: Hashable, text: str) -> None:
        """More text of a channel."""
        rest = self._channels.get(channel, "") + text
        self._channels[channel] = self._count_blocks(rest) if len(rest) > MOST_UNCOUNTED_CHARACTERS else rest

    def _count_blocks(self, rest: str) -> str:
        """Count whole blocks; gives what is left."""
        start, size = 0, len(rest)
        while size - start > BLOCK_CHARACTERS:
            # The search ends with the block, so that what follows in a later piece cannot change where it is cut.
            match = _LAST_WORD_END.match(rest, start, start + BLOCK_CHARACTERS)
            end = match.end() if match is not None else start + BLOCK_CHARACTERS
            self._counted += self._counter(rest[start:end])
            start = end
        return rest[start:]

    def has(self, channel: Hashable) -> bool:
        """Whether the channel has begun and not ended."""
        return channel in self._channels

    def end(self, channel: Hashable) -> None:
        """The channel is complete: its rest is counted and forgotten."""
        rest = self._count_blocks(self._channels.pop(channel, ""))
        if rest:
            self._counted += self._counter(rest)
        self._ended += 1

    @property
    def channels(self) -> int:
        """How many channels there were: text, reasoning, each call of a tool."""
        return self._ended + len(self._channels)

    def count(self) -> int:
        """Tokens of all text so far."""
        for channel, rest in self._channels.items():
            if len(rest) > BLOCK_CHARACTERS:
                self._channels[channel] = self._count_blocks(rest)
        counter = self._counter
        return self._counted + sum(counter(rest) for rest in self._channels.values() if rest)

    def copy(self) -> VisibleText:
        """The same state, to go on from independently."""
        twin = VisibleText(self._counter)
        twin._counted, twin._ended = self._counted, self._ended
        twin._channels = self._channels.copy()
        return twin
