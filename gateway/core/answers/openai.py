"""OpenAI chat and text completions, and the many servers that speak alike (vLLM, OpenRouter, Groq, Mistral, DeepSeek).

Details are included in the totals. A stream ends with `data: [DONE]`; its usage comes in a chunk without choices,
but some servers put it on the last chunk with a finish reason, some on every chunk, and Groq a second time under
`x_groq`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import msgspec

from gateway.core import sse
from gateway.core.answers.figures import Members, calls, figure, listed, member, part, picousd, string
from gateway.core.answers.grammar import Grammar, Sign, Tally, index_of
from gateway.core.metering import TextCounter
from gateway.core.usage import Usage

_ABSENT: Members = {}


def usage_of(reported: Any, *, service_tier: str | None = None, output_optional: bool = False) -> Usage | None:
    """A usage object in any of OpenAI's spellings, None where it says nothing. `output_optional`: no output is no
    omission (embeddings)."""
    if not isinstance(reported, dict):
        return None
    inputs = figure(reported, "prompt_tokens", "input_tokens")
    output = figure(reported, "completion_tokens", "output_tokens")
    total = figure(reported, "total_tokens")
    if output is None and inputs is not None and total is not None and total >= inputs:
        output = total - inputs
    if output is None and output_optional and inputs is not None:
        output = 0
    if inputs is None and output is not None and total is not None and total >= output:
        inputs = total - output
    if inputs is None or output is None:
        return None
    return _with_details(reported, inputs, output, service_tier)


def _with_details(reported: Members, inputs: int, output: int, service_tier: str | None) -> Usage:
    before = (
        member(reported, "prompt_tokens_details")
        or member(reported, "input_tokens_details")
        or member(reported, "input_token_details")
    )
    after = (
        member(reported, "completion_tokens_details")
        or member(reported, "output_tokens_details")
        or member(reported, "output_token_details")
    )
    cached = part(before, "cached_tokens", whole=inputs) or part(
        reported, "prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens", whole=inputs
    )
    audio = part(before, "audio_tokens", whole=inputs)
    return Usage(
        input_tokens=inputs,
        cached_input_tokens=cached,
        # Not bounded by what was not read: through routers the same tokens can be read and written in one request.
        cache_write_tokens=part(before, "cache_write_tokens", whole=inputs),
        input_audio_tokens=audio,
        cached_input_audio_tokens=part(
            member(before, "cached_tokens_details"), "audio_tokens", whole=min(audio, cached)
        ),
        input_image_tokens=part(before, "image_tokens", whole=inputs),
        output_tokens=output,
        # Some servers count one token of reasoning more than of output: it cannot be more than all of it.
        reasoning_tokens=min(figure(after, "reasoning_tokens") or 0, output),
        output_audio_tokens=part(after, "audio_tokens", whole=output),
        output_image_tokens=part(after, "image_tokens", whole=output),
        tool_calls=calls(member(reported, "server_tool_use_details"), suffix="_requests"),
        service_tier=service_tier,
        reported_cost_picousd=picousd(reported, "cost"),
    )


def usage_in(body: Members) -> Usage | None:
    """Usage of an answer or a chunk."""
    tier = string(body, "service_tier")
    found = usage_of(body.get("usage"), service_tier=tier)
    return found if found is not None else usage_of(member(body, "x_groq").get("usage"), service_tier=tier)


def texts_of(said: Any, key: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], str]]:
    """Visible texts of a message or a delta, each with the channel it belongs to."""
    if not isinstance(said, dict):
        return
    content = said.get("content")
    if isinstance(content, str):
        yield (*key, "content"), content
    elif isinstance(content, list):
        yield from (((*key, "content"), text) for text in _listed_texts(content))
    for name in ("reasoning_content", "reasoning"):
        if isinstance(said.get(name), str):
            yield (*key, "reasoning"), said[name]
            break
    if isinstance(said.get("refusal"), str):
        yield (*key, "refusal"), said["refusal"]
    transcript = member(said, "audio").get("transcript")
    if isinstance(transcript, str):
        yield (*key, "audio"), transcript
    if isinstance(said.get("function_call"), dict):
        yield from _function_texts(said["function_call"], (*key, "function"))
    for call in listed(said, "tool_calls"):
        yield from _function_texts(member(call, "function"), (*key, "tool", index_of(call)))


def _listed_texts(parts: list[Any]) -> Iterator[str]:
    """Mistral's content parts: text, and thinking that holds text parts itself."""
    for part_ in parts:
        for name in ("text", "thinking"):
            value = part_.get(name) if isinstance(part_, dict) else None
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from _listed_texts(value)


def _function_texts(function: Members, key: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], str]]:
    for name in ("name", "arguments"):
        if isinstance(function.get(name), str):
            yield key, function[name]


def answer_texts(body: Members) -> Iterator[str]:
    """Visible texts of an unstreamed answer."""
    for choice in listed(body, "choices"):
        if isinstance(choice, dict) and isinstance(choice.get("text"), str):
            yield choice["text"]
        for _, text in texts_of(member(choice, "message"), ()):
            yield text


class ChatTally(Tally):
    """Chunks of chat and text completions."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.head: Members = _ABSENT
        self.open: dict[int, bool] = {}  # by choice: not finished yet
        self.is_completion = False

    def take(self, payload: Members) -> None:
        """Text of every choice, and which of them are finished."""
        if not self.head:
            self.head = {name: payload[name] for name in ("id", "object", "created", "model") if name in payload}
            self.model = string(payload, "model")
        add = self.text.add
        for choice in listed(payload, "choices"):
            if not isinstance(choice, dict):
                continue
            index = index_of(choice)
            delta = choice.get("delta")
            if delta is None and isinstance(choice.get("text"), str):
                self.is_completion = True
                add(index, choice["text"])
            elif isinstance(delta, dict):
                for key, text in texts_of(delta, (index,)):
                    add(key, text)
            still_open = not choice.get("finish_reason")
            if self.open.get(index) is not still_open:
                self.open = {**self.open, index: still_open}

    def plain_text(self, payload: Members) -> tuple[Hashable, str] | None:
        """A chunk whose one choice is open and brings one text."""
        choices = listed(payload, "choices")
        if len(choices) != 1 or not isinstance(choices[0], dict) or choices[0].get("finish_reason"):
            return None
        index = index_of(choices[0])
        if not self.open.get(index):
            return None
        if isinstance(choices[0].get("text"), str):
            return index, choices[0]["text"]
        texts = list(texts_of(choices[0].get("delta"), (index,)))
        return texts[0] if len(texts) == 1 else None

    def closing(self, usage: Usage | None) -> bytes:
        """A chunk with `finish_reason: length` for every choice that is open, usage, `[DONE]`."""
        kind = "text_completion" if self.is_completion else "chat.completion.chunk"
        head = {"id": "chatcmpl-cut", "object": kind, "created": 0, "model": "", **self.head}
        empty: Members = {"text": "", "logprobs": None} if self.is_completion else {"delta": {}}
        chunks: list[Members] = [
            {**head, "choices": [{"index": index, **empty, "finish_reason": "length"}]}
            for index, still_open in sorted((self.open or {0: True}).items())
            if still_open
        ]
        if usage is not None:
            chunks.append({**head, "choices": [], "usage": usage_members(usage)})
        encoded = [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks]
        return b"".join([*encoded, b"data: [DONE]\n\n"])


def usage_members(usage: Usage) -> Members:
    """The usage object of a chunk that we make."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def read_chunk(payload: Members | None, event: bytes, _: Usage | None) -> Sign:
    """What a chunk says. One without choices that carries usage is the one that `include_usage` adds."""
    if payload is None:
        return Sign(end=sse.data_of(event) == b"[DONE]")
    usage = usage_in(payload)
    choices = payload.get("choices")
    error = payload.get("error") is not None
    # Taken out even where its figures cannot be believed: the client did not ask for it.
    strip = choices == [] and isinstance(payload.get("usage"), dict) and not error
    if usage is None:
        return Sign(error=error, strip=strip, model=string(payload, "model"))
    finished = not choices or any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)
    return Sign(
        usage=usage, final=finished, running=not finished, error=error, strip=strip, model=string(payload, "model")
    )


class TextTally(ChatTally):
    """Chunks of text completions, so that a stream cut before its first chunk is closed in its own form."""

    def __init__(self, counter: TextCounter) -> None:
        super().__init__(counter)
        self.is_completion = True


_MARKERS = (b'_tokens"', b"[DONE]", b'"error"')
CHUNKS = Grammar(markers=_MARKERS, read=read_chunk, tally=ChatTally, usage_on_request=True)
TEXT_CHUNKS = Grammar(markers=_MARKERS, read=read_chunk, tally=TextTally, usage_on_request=True)
