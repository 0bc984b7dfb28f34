"""What a request asks for, read once at the edge and never again.

`RequestFacts` is all that admission, pricing and metering need to know of a request. The dialect modules
(`core/dialects/<dialect>.py`) read it from the body; bounds are sound: what the upstream bills is never more.
`RequestFacts` is a structure of msgspec because one is made for every request: it costs a fifth of a dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Figures of the policy (`policies/limits.yaml`) for what a body does not bound by itself."""

    media_tokens: int = 4_096  # an image, file or audio that the body only names by URL or id
    history_tokens: int = 1_000_000  # previous_response_id, conversation, cachedContent: input we cannot see
    document_tokens: int = 65_536  # a document or video: a short PDF is billed by the page, not by its bytes
    item_tokens: int = 32_768  # one item of an earlier answer that is named but not shown: reasoning, a compaction
    tool_result_tokens: int = 16_384  # what one call of a server tool adds to the input
    overhead_tokens: int = 1_024  # what the upstream adds by itself: tool preambles, formatting
    greatest_limit: int = 10_000_000  # an output limit above it is 422
    priced_tools: frozenset[str] = frozenset()  # server tools that the policies give a price
    tool_calls_each: int = 10  # how often a priced server tool may run in a request that names no maximum


class RequestFacts(Struct, frozen=True, gc=False):
    """The facts of one request. `output_limit_tokens` is the largest of all limit fields, for one choice; None when the
    request names none. `shows_all`: every billed unit shows in the stream, so a hold below the ceiling is sound."""

    model: str
    stream: bool = False
    output_limit_tokens: int | None = None
    choices: int = 1  # n times best_of
    input_bound_tokens: int = 0
    input_audio_bound_tokens: int = 0  # the part that may be billed as audio
    shows_all: bool = False
    all_visible: bool = False  # all output is text of the answer, streamed or not
    asks_usage: bool = True  # False: an OpenAI stream without include_usage
    service_tier: str | None = None
    tools: tuple[tuple[str, int], ...] = ()  # server tools with a fee: (name, greatest number of calls)
    images: int = 0  # images asked for
    characters: int = 0  # characters to speak
    audio_ms_bound: int = 0  # greatest duration of an upload billed by time
    audio_output: bool = False  # the output may be billed as audio
    image_output: bool = False  # the output may be billed as image
    unseen_input_tokens: int = 0  # the part of the input's bound that the body does not show: a conversation, pictures
    input_counted: bool = False  # the bound stands on a count of the text, no longer on its bytes alone
    limit_can_be_spliced: bool = True  # False where the dialect has no output limit to lower
    session: bool = False  # many responses on one socket: the bound is of the first, each further one is held for
