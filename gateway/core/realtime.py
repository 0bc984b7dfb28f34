"""What a realtime session has cost, and what its next response may cost at most.

A session is one piece of work of many responses. Each is bounded before it may begin: by the conversation so far, and
by the output that it may bring. When it is done its usage is charged; one that is broken off, or reports nothing, is
charged by what it showed.

Invariant: while `needed(...)` is held before a response may begin, and `committed()` while responses run, no response
ever costs more than is held; one that shows more than it was bounded by is told by `exceeded`.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.answers.figures import Members, string
from gateway.core.answers.media import transcription_usage
from gateway.core.answers.responses import usage_in
from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.metering import TextCounter
from gateway.core.money import ceil_div
from gateway.core.prices import PriceCard, bound_picousd, cost_picousd
from gateway.core.realtime_events import (
    TRANSCRIBED,
    RealtimeEvent,
    conversation_of,
    event_id_of,
    failed_event_id,
    members_of,
)
from gateway.core.realtime_input import BOUND_MS_EACH_TOKEN, Input, Said
from gateway.core.realtime_response import Response
from gateway.core.realtime_settings import SessionSettings, output_limit, read_settings, speaks_aloud
from gateway.core.usage import Basis, Usage, added

# The fastest speakers, in languages with short tokens.
_WORD_TOKENS_EACH_SECOND = 8
# Responses outside of the conversation may run beside each other; more than this is nobody's conversation.
MOST_RESPONSES_AT_ONCE = 32
_BEGIN_BY_SOUND = frozenset({"input_audio_buffer.append", "input_audio_buffer.commit"})


class RealtimeMeter:
    """One session's account. `usage` and `earned` are of the responses that are done; amounts are in picousd times the
    margin (`money.amount_of` with a margin of one millionth makes an amount of them)."""

    def __init__(
        self,
        *,
        facts: RequestFacts,
        card: PriceCard,
        limits: RequestLimits,
        response_tokens: int,
        counter: TextCounter,
        card_of: Callable[[str], PriceCard | None],
        follows_model: bool = True,
    ) -> None:
        """`follows_model`: the price is that of the model which serves, not one that the route fixes."""
        self.usage = Usage()
        self.basis = Basis.REPORTED
        self.earned = 0
        self.model = ""
        self._facts, self._card, self._limits = facts, card, limits
        self._response_tokens, self._counter, self._card_of = response_tokens, counter, card_of
        self._follows_model = follows_model
        self._settings = SessionSettings(model=facts.model)
        self._asked_settings: SessionSettings | None = None
        self._updates = 0  # session.update events that were not answered yet
        self._input = Input(facts.input_bound_tokens, image_tokens=limits.media_tokens, counter=counter)
        self._last_began = Said()
        self._asked: list[Response] = []
        self._running: dict[str, Response] = {}

    # The client's side.

    @property
    def settings(self) -> SessionSettings:
        """What may hold now."""
        return self._settings if self._asked_settings is None else self._settings.dearer(self._asked_settings)

    @property
    def is_busy(self) -> bool:
        """Whether a response runs or was asked for."""
        return bool(self._asked or self._running)

    @property
    def is_crowded(self) -> bool:
        """Whether no further response may be asked for."""
        return len(self._asked) + len(self._running) >= MOST_RESPONSES_AT_ONCE

    def unpriced(self, event: RealtimeEvent) -> str | None:
        """The model that the event asks to transcribe with and that has no price: the event must not be passed on."""
        if event.type not in ("session.update", "transcription_session.update"):
            return None
        asked = read_settings(members_of(event.session), self._settings)
        model = asked.transcription_model
        return model if model is not None and self._card_of(model) is None else None

    def hear(self, event: RealtimeEvent) -> None:
        """The client says something: it will be a part of the input."""
        if event.type == "input_audio_buffer.append":
            self._input.hear_audio(event.audio_bytes, self.settings.input_bytes_each_ms)
        elif event.type == "session.update":
            asked = members_of(event.session)
            wanted, before = read_settings(asked, self.settings), self._asked_settings
            self._asked_settings = wanted if before is None else before.dearer(wanted)
            self._updates += 1
            self._hear(asked)
        elif event.type == "conversation.item.create":
            self._hear(members_of(event.item))
        elif event.type == "response.create":
            self._hear(members_of(event.response))

    def _hear(self, value: Members) -> None:
        self._input.hear(value, self.settings.input_bytes_each_ms)

    def may_begin(self, event: RealtimeEvent) -> bool:
        """Whether the upstream may begin a response because of this event."""
        if event.type == "response.create":
            return True
        return event.type in _BEGIN_BY_SOUND and self.settings.detects_turns and not self.is_busy

    @property
    def answers_silence(self) -> bool:
        """Whether a response may begin although nobody says anything."""
        return self.settings.answers_silence

    def needed(self, event: RealtimeEvent | None = None) -> int:
        """What must be held before the event may go up (None: before the next response may begin by itself)."""
        asked = members_of(event.response) if event is not None and event.type == "response.create" else {}
        return self.committed() + self._response_bound(asked)

    def committed(self) -> int:
        """What is earned, and what the responses that run or were asked for may still bring."""
        running = sum(each.bound for each in self._running.values())
        return self.earned + running + sum(each.bound for each in self._asked)

    def ask(self, event: RealtimeEvent) -> None:
        """A response is asked for; what it needs is held."""
        if event.type == "response.create":
            asked = members_of(event.response)
            response = self._response(asked)
            response.event_id = event_id_of(event)
            self._asked.append(response)

    def _response(self, asked: Members) -> Response:
        return Response(
            bound=self._response_bound(asked),
            limit_tokens=self._limit(asked),
            named_limit_tokens=output_limit(asked, self.settings.output_limit_tokens),
            said=self._input.said,
            in_conversation=conversation_of(asked),
            bytes_each_ms=self.settings.output_bytes_each_ms,
        )

    def _limit(self, asked: Members) -> int:
        limit = output_limit(asked, self.settings.output_limit_tokens)
        return self._response_tokens if limit is None else limit

    def _response_bound(self, asked: Members) -> int:
        text, audio, heard_ms = self._input.bound()
        facts = RequestFacts(
            self._facts.model,
            stream=True,
            input_bound_tokens=text + audio,
            input_audio_bound_tokens=audio,
            audio_output=speaks_aloud(asked, before=self.settings.audio_output),
        )
        bound = bound_picousd(self._card, facts, self._limit(asked)) * self._card.margin_ppm
        return bound + self._transcription_bound(heard_ms)

    def _transcription_bound(self, audio_ms: int) -> int:
        """What a second model costs at most that writes down what it hears."""
        model = self.settings.transcription_model
        card = self._card_of(model) if model is not None and audio_ms else None
        if card is None or model is None:
            return 0
        tokens = ceil_div(audio_ms, BOUND_MS_EACH_TOKEN)
        facts = RequestFacts(model, input_bound_tokens=tokens, input_audio_bound_tokens=tokens, audio_ms_bound=audio_ms)
        return bound_picousd(card, facts, audio_ms * _WORD_TOKENS_EACH_SECOND // 1_000 + 16) * card.margin_ppm

    # The upstream's side.

    def tell(self, event: RealtimeEvent) -> bool:
        """Take what the upstream tells, before it is passed on. True when a response has begun that nobody had
        asked for: `committed()` must be held for it now."""
        if event.adds_text or event.adds_audio:
            self._show(event)
        elif event.type == "response.created":
            return self._begin(members_of(event.response))
        elif event.type == "response.done":
            self._finish(members_of(event.response))
        elif event.type in ("session.created", "session.updated"):
            self._settle(event)
        elif event.type == TRANSCRIBED:
            self._transcribed(event)
        elif event.type == "error":
            self._failed(event)
        return False

    def _settle(self, event: RealtimeEvent) -> None:
        self._settings = read_settings(members_of(event.session), self._settings)
        if event.type == "session.updated":
            self._update_answered()
        served = self._settings.model
        if served is None or not self._follows_model or served in (self._facts.model, self.model):
            return
        card = self._card_of(served)
        if card is not None:
            self._card, self.model = card, served

    def _update_answered(self) -> None:
        self._updates = max(self._updates - 1, 0)
        if not self._updates:
            self._asked_settings = None

    def _begin(self, response: Members) -> bool:
        identifier = string(response, "id") or ""
        unasked = not self._asked
        if unasked:
            running = self._response({})
            running.said = self._last_began  # the turn may have begun before what was said last
        else:
            running = self._asked.pop(0)
        self._last_began = self._input.said
        self._running[identifier] = running
        return unasked

    def _show(self, event: RealtimeEvent) -> None:
        running = self._shown_of(event)
        if running is not None:
            running.show(event)

    def _shown_of(self, event: RealtimeEvent) -> Response | None:
        running = self._running.get(event.response_id) if isinstance(event.response_id, str) else None
        return running if running is not None else next(iter(self._running.values()), None)

    def take_back(self, event: RealtimeEvent) -> None:
        """What the upstream told last was not passed on."""
        running = self._shown_of(event)
        if running is not None:
            running.take_back(event)

    def exceeded(self) -> bool:
        """Whether a response has brought more than it was bounded by. Then its bound is raised: `committed()` must be
        held before it goes on."""
        found = False
        for running in self._running.values():
            if running.exceeds(self._counter):
                further = RequestFacts(self._facts.model, stream=True, audio_output=True)
                running.limit_tokens += self._response_tokens
                running.bound += bound_picousd(self._card, further, self._response_tokens) * self._card.margin_ppm
                found = True
        return found

    def _finish(self, response: Members) -> None:
        running = self._running.pop(string(response, "id") or "", None)
        usage = usage_in(response)
        if usage is None:
            if running is not None and running.shows:
                self._charge(self._counted_usage(running), Basis.COUNTED, self._card)
            return
        if running is not None and running.named_limit_tokens is not None:
            # More than was allowed is the upstream's error, never the payer's charge.
            usage = usage.with_output(min(usage.output_tokens, running.named_limit_tokens))
        self._charge(usage, Basis.REPORTED, self._card)
        in_conversation = conversation_of(response) and (running is None or running.in_conversation)
        if in_conversation:
            self._input.report(usage, running.said if running is not None else None)

    def _counted_usage(self, running: Response) -> Usage:
        """A response by what was heard and what it showed; never above the bound that was held for it."""
        text, audio = self._input.counted(running.said)
        spoken = running.audio_tokens
        return Usage(
            input_tokens=text + audio,
            input_audio_tokens=audio,
            output_tokens=running.text_tokens(self._counter) + spoken,
            output_audio_tokens=spoken,
        )

    def _charge(self, usage: Usage, basis: Basis, card: PriceCard) -> None:
        self.earned += cost_picousd(card, usage) * card.margin_ppm
        self.usage = added(self.usage, usage)
        if basis is not Basis.REPORTED:
            self.basis = basis

    def _transcribed(self, event: RealtimeEvent) -> None:
        usage = transcription_usage({"usage": members_of(event.usage)})
        model = self.settings.transcription_model
        card = (self._card_of(model) if model is not None else None) or self._card
        if usage is None:
            self._charge(Usage(output_tokens=self._counter(event.transcript_text)), Basis.COUNTED, card)
        else:
            self._charge(usage, Basis.REPORTED, card)

    def _failed(self, event: RealtimeEvent) -> None:
        """An error may be the answer to a response that was asked for, or to settings that were."""
        failed = failed_event_id(event)
        for response in self._asked:
            if response.event_id == failed:
                self._asked.remove(response)
                return
        if self._updates:
            self._update_answered()

    def close(self) -> None:
        """The session is over: the responses that still run are charged by what they showed."""
        running, self._running = list(self._running.values()), {}
        self._asked.clear()
        for response in running:
            if response.shows:
                self._charge(self._counted_usage(response), Basis.COUNTED, self._card)
