"""Whether a text can bear the tokens that an upstream reports for it.

Only asked where the model's vocabulary is known and all of its output shows. The bounds were set by recorded answers of
the real services, none of which they doubt. The failure this prevents: an upstream that reports twice what it sent is
paid twice.
"""

from __future__ import annotations

PLAUSIBLE_RATIO = 1.25
PLAUSIBLE_SLACK_TOKENS = 32
# A block (text, a call of a tool) begins and ends with tokens that no text shows; a call takes up to fifty.
PLAUSIBLE_SLACK_TOKENS_A_BLOCK = 32
# An answer with so many bytes for ten reported tokens is believed without counting: a token of English has 4.25, and
# what may be reported beyond the count (the ratio above) leaves 3.4 of them.
BELIEVED_BYTES_TEN_TOKENS = 34
# What stands around the text, and bears no token: names, ids, the usage itself.
ENVELOPE_BYTES = 256


def bears(visible_tokens: int, *, counted: int, blocks: int) -> bool:
    """Whether `counted` tokens of text in so many blocks can be `visible_tokens` to the upstream."""
    slack = PLAUSIBLE_SLACK_TOKENS + PLAUSIBLE_SLACK_TOKENS_A_BLOCK * max(blocks - 1, 0)
    return visible_tokens <= PLAUSIBLE_RATIO * counted + slack


def is_believed(visible_tokens: int, size_bytes: int) -> bool:
    """Whether an answer of this size need not be counted."""
    likely = visible_tokens * BELIEVED_BYTES_TEN_TOKENS <= (size_bytes - ENVELOPE_BYTES) * 10
    return likely or visible_tokens <= PLAUSIBLE_SLACK_TOKENS
