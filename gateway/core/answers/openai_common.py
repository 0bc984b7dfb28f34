"""OpenAI's unstreamed answer in its common form, read in one pass of the decoder.

Reading an answer into dictionaries and looking for every spelling of every figure takes 11 us, this takes 2. Whatever
is not exactly the common form (other spellings, other types, figures that have to be looked at) does not decode here
and is read by `openai.usage_in`: the two never differ on what both can read.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.core.answers.figures import MOST_TOKENS
from gateway.core.usage import Usage

_Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
_Nothing = None | UnsetType


class _Before(Struct, gc=False):
    cached_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    cached_tokens_details: _Nothing = UNSET


class _After(Struct, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None


class _Reported(Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Before | None = None
    completion_tokens_details: _After | None = None
    input_tokens_details: _Nothing = UNSET
    input_token_details: _Nothing = UNSET
    output_tokens_details: _Nothing = UNSET
    output_token_details: _Nothing = UNSET
    prompt_cache_hit_tokens: _Nothing = UNSET
    num_cached_tokens: _Nothing = UNSET
    cached_tokens: _Nothing = UNSET
    server_tool_use_details: _Nothing = UNSET
    cost: _Nothing = UNSET


class _CommonAnswer(Struct, gc=False):
    model: Annotated[str, Meta(min_length=1)]
    usage: _Reported
    service_tier: Annotated[str, Meta(min_length=1)] | None = None


_decode_common = msgspec.json.Decoder(_CommonAnswer).decode
_NO_BEFORE, _NO_AFTER = _Before(), _After()


def common_report(body: bytes) -> tuple[Usage, str] | None:
    """Usage and model of an answer in the common form; None: read it with `usage_in`, which gives the same."""
    try:
        answer = _decode_common(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    reported = answer.usage
    inputs, output = reported.prompt_tokens, reported.completion_tokens
    before, after = reported.prompt_tokens_details or _NO_BEFORE, reported.completion_tokens_details or _NO_AFTER
    if not (before.cached_tokens or before.audio_tokens or before.image_tokens or before.cache_write_tokens) and not (
        after.reasoning_tokens or after.audio_tokens or after.image_tokens
    ):
        return Usage(input_tokens=inputs, output_tokens=output, service_tier=answer.service_tier), answer.model
    usage = Usage(
        input_tokens=inputs,
        cached_input_tokens=_within(before.cached_tokens, inputs),
        cache_write_tokens=_within(before.cache_write_tokens, inputs),
        input_audio_tokens=_within(before.audio_tokens, inputs),
        input_image_tokens=_within(before.image_tokens, inputs),
        output_tokens=output,
        reasoning_tokens=min(after.reasoning_tokens or 0, output),
        output_audio_tokens=_within(after.audio_tokens, output),
        output_image_tokens=_within(after.image_tokens, output),
        service_tier=answer.service_tier,
    )
    return usage, answer.model


def _within(count: int | None, whole: int) -> int:
    return count if count is not None and count <= whole else 0
