"""Counting what the upstream did not report, and judging what it did.

Counted figures are marked `counted`. Large texts are counted off the event loop: 100 KB take 5 ms, in which every other
stream of this worker would stand still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from gateway.core.answers.figures import decoded
from gateway.core.answers.plausible import bears, is_believed
from gateway.core.answers.registry import answer_text, answer_texts, report_of_answer
from gateway.core.call import Call
from gateway.core.facts import RequestFacts
from gateway.core.input_text import image_bytes, input_text
from gateway.core.metering import StreamReader, TextCounter
from gateway.core.operations import Operation
from gateway.core.price_cards import PriceCard
from gateway.core.routing import Match
from gateway.core.terms import Terms
from gateway.core.usage import Basis, Usage

# Above this the counting of a text leaves the event loop.
LARGE_TEXT_BYTES = 16 * 1024
# An estimate of tokens that no text exceeds by more, in the vocabularies of today.
ESTIMATE_MARGIN = 3
# What these cost stands in the request; there is no text to count.
_PRICED_BY_REQUEST = frozenset({Operation.RAW, Operation.SPEECH, Operation.IMAGES_GENERATIONS, Operation.IMAGES_EDITS})
# Whoever sends these has them explained to the model by the upstream, in hundreds of tokens.
_EXPLAINED = (b'"tools"', b'"functions"', b'"mcp_servers"', b"\\u")
_TEXT_ANSWERS = frozenset({Operation.TRANSCRIPTIONS})  # as text or subtitles, where the request says so
_NO_OUTPUT = frozenset({Operation.EMBEDDINGS, Operation.EMBED})


class Counted(Protocol):
    """What of an admitted request matters for counting."""

    match: Match
    facts: RequestFacts
    card: PriceCard | None
    provider: str | None


class Running(Protocol):
    """What of a stream matters for judging its usage."""

    reader: StreamReader
    cut: str | None

    def usage(self) -> tuple[Usage, Basis]: ...


class Counting:
    """Counts by the vocabulary of each model. `counters` gives the counter for a model and its provider."""

    def __init__(
        self,
        counters: Callable[[str, str | None], TextCounter],
        is_exact: Callable[[str, str | None], bool] = lambda _model, _provider: False,
    ) -> None:
        """`is_exact`: whether a model's vocabulary is known; without it a count is an estimate."""
        self._counters = counters
        self._is_exact = is_exact

    def counter(self, request: Counted) -> TextCounter:
        """The counter of the request's model."""
        return self._counters(request.facts.model, request.provider)

    def is_exact(self, request: Counted) -> bool:
        """Whether the vocabulary of the request's model is known, so that what is counted is no estimate."""
        return self._is_exact(request.facts.model, request.provider)

    def input_tokens(self, request: Counted, body: bytes) -> int:
        """The text of the input, counted; never above the bound that the hold was made for."""
        return min(self.counter(request)(input_text(body)), request.facts.input_bound_tokens)

    async def input_tokens_off_loop(self, request: Counted, body: bytes) -> int:
        """The same, in a thread where the body is large."""
        if len(body) > LARGE_TEXT_BYTES:
            return await asyncio.to_thread(self.input_tokens, request, body)
        return self.input_tokens(request, body)

    def input_bound(self, request: Counted, body: bytes) -> int:
        """The bound of the input with its text counted instead of measured in bytes. All else that the bound stands for
        stays in it, because nobody has counted that: an earlier conversation, pictures, what an upstream says of tools.
        The bytes around the text stand for what it adds to every message."""
        facts = request.facts
        if facts.input_counted:
            return facts.input_bound_tokens
        text = input_text(body)
        size_bytes = len(text.encode("utf-8", "replace"))
        tokens = self.counter(request)(text)
        if not self.is_exact(request):
            tokens = min(tokens * ESTIMATE_MARGIN, size_bytes)
        saved = max(size_bytes - tokens, 0) + image_bytes(body)
        if not any(name in body for name in _EXPLAINED):
            saved += max(facts.input_bound_tokens - facts.unseen_input_tokens - len(body), 0)
        return max(facts.input_bound_tokens - saved, tokens)

    async def input_bound_off_loop(self, request: Counted, body: bytes) -> int:
        """The same, in a thread where the body is large."""
        if len(body) > LARGE_TEXT_BYTES:
            return await asyncio.to_thread(self.input_bound, request, body)
        return self.input_bound(request, body)

    async def counted(self, request: Counted, terms: Terms, body: bytes) -> Terms:
        """The terms of a request with its input counted; its facts say so too."""
        found = terms.with_input(await self.input_bound_off_loop(request, body))
        request.facts = found.facts
        return found

    async def closer(self, request: Counted, terms: Terms, call: Call) -> Terms:
        """The terms of a request that did not get all it may cost, its input counted where the limit of its output is
        worked out from them: else more credit could buy less output. A stream counts when it comes to that."""
        facts = request.facts
        if call.upload is not None or facts.input_counted or not facts.limit_can_be_spliced:
            return terms
        if facts.stream and facts.shows_all:
            return terms
        return await self.counted(request, terms, call.body)

    async def of_answer(
        self,
        request: Counted,
        body: bytes,
        answer: bytes | None,
        *,
        size_bytes: int,
        most_output_tokens: int,
    ) -> tuple[Usage, Basis, str | None]:
        """Usage of an unstreamed answer of `size_bytes` (reported, else counted, else what the request asked for), and
        the model that it says it comes from. Of an answer that nobody can read a token a byte is charged, at most what
        was held: in whatever form it came, it was delivered."""
        operation = request.match.operation
        if operation is Operation.RAW:
            return Usage(), Basis.REPORTED, None
        reported, model = report_of_answer(operation, answer) if answer is not None else (None, None)
        if reported is not None:
            usage = within(reported, request.facts)
            if _untimed(request, usage):
                return replace(usage, audio_ms=request.facts.audio_ms_bound), Basis.ESTIMATED, model
            return *await self._borne(request, answer or b"", usage), model
        most = max(min(size_bytes, most_output_tokens), 0)
        usage, basis = await self._unreported(request, body, answer, most)
        return usage, basis, model

    async def _borne(self, request: Counted, answer: bytes, usage: Usage) -> tuple[Usage, Basis]:
        """A report that the answer's text cannot bear is not charged: the count is, marked so."""
        facts, visible = request.facts, usage.output_tokens - usage.reasoning_tokens
        if not facts.all_visible or is_believed(visible, len(answer)) or not self.is_exact(request):
            return usage, Basis.REPORTED
        texts = answer_texts(request.match.operation, answer)
        counted = await self._count(request, "\n".join(texts))
        if bears(visible, counted=counted, blocks=len(texts)):
            return usage, Basis.REPORTED
        return usage.with_output(min(counted, usage.output_tokens)), Basis.COUNTED

    async def _unreported(self, request: Counted, body: bytes, answer: bytes | None, most: int) -> tuple[Usage, Basis]:
        operation = request.match.operation
        facts = request.facts
        if operation in _PRICED_BY_REQUEST:
            return asked_for(facts), Basis.ESTIMATED
        inputs = await self.input_tokens_off_loop(request, body)
        output = 0 if operation in _NO_OUTPUT else await self._output_tokens(request, answer, most)
        counted = Usage(input_tokens=inputs, output_tokens=output, audio_ms=facts.audio_ms_bound)
        return counted, Basis.COUNTED

    async def _output_tokens(self, request: Counted, answer: bytes | None, most: int) -> int:
        if answer is None or (request.match.operation not in _TEXT_ANSWERS and decoded(answer) is None):
            return most
        return await self._count(request, answer_text(request.match.operation, answer))

    async def _count(self, request: Counted, text: str) -> int:
        counter = self.counter(request)
        if len(text) > LARGE_TEXT_BYTES:
            return await asyncio.to_thread(counter, text)
        return counter(text)

    def judged(self, stream: Running, request: Counted) -> tuple[Usage, Basis]:
        """A stream's usage. A report that the delivered text cannot bear is not charged: the count is, marked so."""
        usage, basis = stream.usage()
        if basis is not Basis.REPORTED:
            return usage, basis
        usage = within(usage, request.facts)
        if not request.facts.shows_all or stream.reader.plausible(usage):
            return usage, basis
        visible = stream.reader.count()
        return usage.with_output(min(visible, usage.output_tokens)), Basis.COUNTED


def _untimed(request: Counted, usage: Usage) -> bool:
    """Whether a model that is billed by time alone told tokens alone. Its upload's greatest time is charged: nothing is
    free by omission."""
    card = request.card
    return card is not None and card.second is not None and not card.has_tokens and not usage.audio_ms


def within(usage: Usage, facts: RequestFacts) -> Usage:
    """A report can be no more than the request allows: the rest is the upstream's error, never the payer's charge."""
    if facts.output_limit_tokens is None:
        return usage
    most = facts.output_limit_tokens * facts.choices
    return usage if usage.output_tokens <= most else usage.with_output(most)


def asked_for(facts: RequestFacts) -> Usage:
    """What the request itself says that it costs: characters to speak, images to make."""
    return Usage(characters=facts.characters, images=facts.images, audio_ms=facts.audio_ms_bound)
