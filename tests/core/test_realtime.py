"""What a realtime session costs and what its next response may cost, told as a conversation of events."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.facts import RequestFacts, RequestLimits
from gateway.core.money import MARGIN_ONE_PPM
from gateway.core.price_cards import Band, PriceCard, TokenPrices
from gateway.core.realtime import MOST_RESPONSES_AT_ONCE, RealtimeMeter
from gateway.core.realtime_events import NO_EVENT, RealtimeEvent, error_event, read_event, weight_of
from gateway.core.realtime_settings import SessionSettings, read_settings
from gateway.core.usage import Basis, Usage, added

SECOND_OF_PCM = base64.b64encode(bytes(48_000)).decode()
SECOND_OF_G711 = base64.b64encode(bytes(8_000)).decode()
OVERHEAD, DEFAULT_TOKENS = 1_000, 4_096


def card(model: str, *, scale: int = 1, second: int | None = None, margin: int = MARGIN_ONE_PPM) -> PriceCard:
    """Text in 1, text out 10, audio in 100, audio out 1,000; cached text a half is not needed here."""
    prices = TokenPrices(
        input=scale, cached_input=scale, cache_write=scale, cache_write_1h=scale, input_audio=100 * scale,
        cached_input_audio=100 * scale, input_image=scale, cached_input_image=scale, input_video=scale,
        output=10 * scale, reasoning=10 * scale, output_audio=1_000 * scale, output_image=scale, output_video=scale,
    )  # fmt: skip
    bands = (Band(-1, prices),)
    return PriceCard("openai", model, bands, bounds=MappingProxyType({"": bands}), second=second, margin_ppm=margin)


BOOK = {
    "rt": card("rt"),
    "rt-dated": card("rt-dated", scale=2),
    "scribe": card("scribe", scale=3),
    "timed": card("timed", scale=0, second=5_000_000),
}


def words(text: str) -> int:
    return len(text.split())


@dataclass
class Talk:
    """A meter, and what is said to it."""

    meter: RealtimeMeter
    began_unasked: list[bool] = field(default_factory=list)

    def client(self, kind: str, **members: Any) -> RealtimeEvent:
        event = read_event(json.dumps({"type": kind, **members}))
        self.meter.hear(event)
        return event

    def create(self, **response: Any) -> int:
        """Ask for a response; gives what had to be held."""
        event_id = response.pop("event_id", None)
        event = self.client("response.create", event_id=event_id, response=response)
        assert self.meter.may_begin(event)
        needed = self.meter.needed(event)
        self.meter.ask(event)
        assert self.meter.committed() == needed
        return needed // MARGIN_ONE_PPM

    def server(self, kind: str, **members: Any) -> bool:
        return self.meter.tell(read_event(json.dumps({"type": kind, **members})))

    def done(self, response_id: str = "r", usage: dict[str, Any] | None = None, **members: Any) -> None:
        self.server("response.done", response={"id": response_id, "usage": usage, **members})

    def created(self, response_id: str = "r") -> bool:
        return self.server("response.created", response={"id": response_id})

    @property
    def earned(self) -> int:
        whole, rest = divmod(self.meter.earned, MARGIN_ONE_PPM)
        assert not rest
        return whole


def talk(model: str = "rt", *, follows_model: bool = True) -> Talk:
    facts = RequestFacts(model, True, input_bound_tokens=OVERHEAD, audio_output=True, session=True)
    return Talk(
        RealtimeMeter(
            facts=facts, card=BOOK[model], limits=RequestLimits(), response_tokens=DEFAULT_TOKENS, counter=words,
            card_of=BOOK.get, follows_model=follows_model,
        )
    )  # fmt: skip


def usage(text_in: int = 0, text_out: int = 0, audio_in: int = 0, audio_out: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": text_in + audio_in,
        "output_tokens": text_out + audio_out,
        "input_token_details": {"text_tokens": text_in, "audio_tokens": audio_in},
        "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
    }


def text_only(session: Talk, limit: int = 100) -> None:
    session.client("session.update", session={"output_modalities": ["text"], "max_output_tokens": limit})
    session.server("session.updated", session={"output_modalities": ["text"], "max_output_tokens": limit})


def test_a_response_that_names_no_limit_is_bounded_by_the_policys_and_by_sound() -> None:
    assert talk().create() == OVERHEAD + DEFAULT_TOKENS * 1_000


def test_what_is_said_is_a_part_of_the_bound_and_no_more_than_its_bytes() -> None:
    session = talk()
    item = {"type": "message", "content": [{"type": "input_text", "text": "x" * 500}]}
    session.client("conversation.item.create", item=item)
    assert OVERHEAD + 500 <= session.create() - DEFAULT_TOKENS * 1_000 <= OVERHEAD + 650


def test_a_report_replaces_what_was_said_before_it() -> None:
    session = talk()
    session.client("conversation.item.create", item={"content": [{"type": "input_text", "text": "x" * 5_000}]})
    session.create()
    session.created()
    session.done(usage=usage(text_in=40, text_out=20, audio_out=10))
    assert session.earned == 40 + 200 + 10_000
    assert session.create() - session.earned == 60 + 10 * 100 + DEFAULT_TOKENS * 1_000


def test_what_was_said_while_a_response_ran_comes_on_top_of_its_report() -> None:
    session = talk()
    session.create()
    session.client("conversation.item.create", item={"content": [{"type": "input_text", "text": "y" * 300}]})
    session.created()
    session.done(usage=usage(text_in=40))
    assert session.create() - session.earned - DEFAULT_TOKENS * 1_000 >= 340


def test_a_response_beside_the_conversation_is_no_part_of_it() -> None:
    session = talk()
    session.create(conversation="none", input=[{"content": [{"type": "input_text", "text": "aside"}]}])
    session.created()
    session.done(usage=usage(text_in=7, text_out=1), conversation_id=None)
    assert session.earned == 17
    assert session.create() - session.earned >= OVERHEAD + DEFAULT_TOKENS * 1_000


def test_settings_count_once_confirmed_and_until_then_the_dearer() -> None:
    session = talk()
    session.client("session.update", session={"output_modalities": ["text"], "max_output_tokens": 50})
    assert session.meter.settings.audio_output and session.meter.settings.output_limit_tokens is None
    session.server("session.updated", session={"output_modalities": ["text"], "max_output_tokens": 50})
    assert session.create() <= OVERHEAD + 200 + 50 * 10
    session.created()
    session.done(usage=usage(text_in=1))
    session.client("session.update", session={"output_modalities": ["audio"], "max_output_tokens": "inf"})
    assert session.create() >= DEFAULT_TOKENS * 1_000


def test_settings_that_were_refused_are_forgotten() -> None:
    session = talk()
    text_only(session)
    session.client("session.update", session={"max_output_tokens": 4_000})
    assert session.meter.settings.output_limit_tokens == 4_000
    session.server("error", error={"type": "invalid_request_error", "event_id": None})
    assert session.meter.settings.output_limit_tokens == 100


def test_a_response_may_name_a_limit_and_modalities_of_its_own() -> None:
    assert talk().create(max_output_tokens=10, output_modalities=["text"]) <= OVERHEAD + 100 + 100
    assert talk().create(max_output_tokens=10, modalities=["audio", "text"]) >= 10_000


def test_several_responses_are_held_for_together_up_to_a_number() -> None:
    session = talk()
    first = session.create(max_output_tokens=10)
    assert session.create(max_output_tokens=10) >= 2 * first
    for _ in range(MOST_RESPONSES_AT_ONCE - 2):
        assert not session.meter.is_crowded
        session.create(max_output_tokens=1)
    assert session.meter.is_crowded and session.meter.is_busy


def test_an_error_gives_back_the_response_that_it_answers() -> None:
    session = talk()
    session.create(event_id="a")
    session.create(event_id="b")
    held = session.meter.committed()
    session.server("error", error={"event_id": "nobodys"})
    assert session.meter.committed() == held
    session.server("error", error={"event_id": "b"})
    assert session.meter.committed() < held
    session.server("error", error={"event_id": "a"})
    assert session.meter.committed() == 0


def test_a_response_that_nobody_asked_for_says_so_and_is_bounded() -> None:
    session = talk()
    session.create()
    assert not session.created("asked")
    assert session.created("unasked")
    assert session.meter.committed() // MARGIN_ONE_PPM == 2 * (OVERHEAD + DEFAULT_TOKENS * 1_000)


def test_sound_may_begin_a_response_only_while_turns_are_detected_and_none_runs() -> None:
    session = talk()
    append = session.client("input_audio_buffer.append", audio=SECOND_OF_PCM)
    assert session.meter.may_begin(append)
    session.server("session.updated", session={"audio": {"input": {"turn_detection": {"create_response": False}}}})
    assert not session.meter.may_begin(append)
    session.server("session.updated", session={"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5_000}})
    assert session.meter.may_begin(append) and session.meter.answers_silence
    session.created()
    assert not session.meter.may_begin(append)
    session.server("session.updated", session={"audio": {"input": {"turn_detection": None}}})
    assert not session.meter.answers_silence


def test_sound_is_bounded_by_its_length_in_the_format_that_may_hold() -> None:
    for audio, form in ((SECOND_OF_PCM, "audio/pcm"), (SECOND_OF_G711, "audio/pcmu")):
        session = talk()
        session.server("session.updated", session={"audio": {"input": {"format": {"type": form}}}})
        before = session.meter.needed()
        for _ in range(10):
            session.client("input_audio_buffer.append", audio=audio)
        assert (session.meter.needed() - before) // MARGIN_ONE_PPM == pytest.approx(10 * 20 * 100, rel=0.02)


def test_sound_and_pictures_in_items_are_weighed_apart_from_text() -> None:
    picture = "data:image/png;base64," + "A" * 90_000
    weight = weight_of(
        {
            "content": [
                {"type": "input_audio", "audio": SECOND_OF_PCM},
                {"type": "input_image", "image_url": picture},
                {"type": "input_image", "file_id": "f"},
                "odd",
            ]
        }
    )
    assert weight.audio_bytes == 48_000 and weight.images == 2 and weight.text_bytes < 300


def test_who_shows_more_than_the_bound_is_held_for_again() -> None:
    session = talk()
    text_only(session, limit=5)
    session.create()
    session.created()
    for word in ("one ", "two ", "three "):
        session.server("response.output_text.delta", response_id="r", delta=word)
        assert not session.meter.exceeded()
    held = session.meter.committed()
    session.server("response.output_text.delta", response_id="r", delta="four five six")
    assert session.meter.exceeded() and session.meter.committed() > held
    assert not session.meter.exceeded()
    session.meter.take_back(
        read_event('{"type":"response.output_text.delta","response_id":"r","delta":"four five six"}')
    )
    session.meter.close()
    assert session.meter.usage.output_tokens == 3


def test_spoken_sound_is_counted_by_its_length_and_can_be_taken_back() -> None:
    session = talk()
    session.create()
    session.created()
    for _ in range(3):
        session.server("response.output_audio.delta", response_id="r", delta=SECOND_OF_PCM)
    session.meter.take_back(
        read_event(json.dumps({"type": "response.output_audio.delta", "response_id": "r", "delta": SECOND_OF_PCM}))
    )
    session.server("response.output_audio_transcript.delta", delta="two words")
    session.meter.take_back(NO_EVENT)
    session.meter.close()
    assert session.meter.usage.output_audio_tokens == 40 and session.meter.usage.output_tokens == 42
    assert session.meter.basis is Basis.COUNTED


def test_a_broken_response_hears_what_was_known_and_what_was_said_since() -> None:
    session = talk()
    session.create()
    session.created("first")
    session.done("first", usage(text_in=5, audio_in=10, text_out=5))
    session.client("input_audio_buffer.append", audio=SECOND_OF_PCM)
    item = {"content": [{"type": "input_text", "text": "one two three"}]}
    session.client("conversation.item.create", item=item)
    session.create()
    session.created("second")
    session.server("response.text.delta", response_id="second", delta="so far")
    session.meter.close()
    assert session.meter.usage == added(
        Usage(input_tokens=15, input_audio_tokens=10, output_tokens=5),
        Usage(input_tokens=5 + 5 + 3 + 20, input_audio_tokens=20, output_tokens=2),
    )


def test_a_response_without_usage_is_counted_and_one_that_showed_nothing_is_free() -> None:
    session = talk()
    session.create()
    session.created("a")
    session.server("response.function_call_arguments.delta", response_id="a", delta='{"x": 1}')
    session.done("a")
    assert session.meter.basis is Basis.COUNTED and session.meter.usage.output_tokens == 2
    earned = session.earned
    session.create()
    session.created("b")
    session.done("b", status="failed")
    session.done("never-seen")
    assert session.earned == earned and not session.meter.is_busy


def test_more_output_than_the_named_limit_is_not_charged() -> None:
    session = talk()
    text_only(session, limit=10)
    session.create()
    session.created()
    session.done(usage=usage(text_out=500))
    assert session.earned == 100


def test_a_report_of_a_response_that_nobody_saw_begin_is_charged_all_the_same() -> None:
    session = talk()
    session.done("unseen", usage(text_in=3, text_out=1))
    assert session.earned == 13


@pytest.mark.parametrize(
    ("model", "reported", "cost"),
    [
        ("scribe", {"type": "tokens", "input_tokens": 12, "output_tokens": 4, "total_tokens": 16}, 36 + 120),
        ("timed", {"type": "duration", "seconds": 2.5}, 12_500_000),
        ("scribe", None, 3 * 30),
    ],
)
def test_transcriptions_cost_what_their_own_model_does(model: str, reported: Any, cost: int) -> None:
    session = talk()
    session.server("session.updated", session={"audio": {"input": {"transcription": {"model": model}}}})
    kind = "conversation.item.input_audio_transcription.completed"
    session.server(kind, transcript="three words heard", usage=reported)
    assert session.earned == cost


def test_a_transcription_is_held_for_too() -> None:
    session = talk()
    session.client("input_audio_buffer.append", audio=SECOND_OF_PCM)
    before = session.meter.needed()
    session.client("session.update", session={"input_audio_transcription": {"model": "timed"}})
    assert (session.meter.needed() - before) // MARGIN_ONE_PPM >= 5_000_000


def test_a_transcription_model_without_a_price_is_named() -> None:
    session = talk()
    event = read_event('{"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"no"}}}}}')
    assert session.meter.unpriced(event) == "no"
    assert session.meter.unpriced(read_event('{"type":"session.update","session":{}}')) is None
    assert session.meter.unpriced(read_event('{"type":"response.create"}')) is None


def test_a_transcript_of_an_unknown_model_is_charged_as_the_sessions_own() -> None:
    session = talk()
    session.server("conversation.item.input_audio_transcription.completed", transcript=5, usage=usage(text_in=9))
    assert session.earned == 9


def test_the_price_is_that_of_the_model_which_serves_unless_the_route_fixes_it() -> None:
    for follows, model, cost in ((True, "rt-dated", 20), (False, "", 10)):
        session = talk(follows_model=follows)
        session.server("session.created", session={"model": "rt-dated"})
        session.server("session.updated", session={"model": "rt-dated"})
        session.server("session.updated", session={"model": "nobody-knows"})
        session.create()
        session.created()
        session.done(usage=usage(text_out=1))
        assert session.earned == cost and session.meter.model == model


@pytest.mark.parametrize(
    "frame",
    ["", "[]", "null", "{", '{"type":5}', b"\xff\xfe", '{"type":"response.done","response":7}', '{"type":"error"}',
     '{"type":"session.updated","session":[1]}', '{"type":"response.output_text.delta","delta":7}',
     '{"type":"response.created","response":{"id":null}}', '{"type":"conversation.item.create","item":null}',
     '{"type":"conversation.item.input_audio_transcription.completed"}', '{"type":"input_audio_buffer.append"}'],
)  # fmt: skip
def test_odd_frames_break_nothing(frame: str | bytes) -> None:
    session = talk()
    event = read_event(frame)
    session.meter.hear(event)
    session.meter.tell(event)
    session.meter.exceeded()
    session.meter.close()
    assert session.earned == 0


def test_settings_are_read_in_both_generations_shapes() -> None:
    old = {"input_audio_format": "g711_ulaw", "output_audio_format": "pcm16", "max_response_output_tokens": 7,
           "modalities": ["text"], "turn_detection": None, "input_audio_transcription": {"model": "w"}}  # fmt: skip
    new = {
        "max_output_tokens": 7,
        "output_modalities": ["text"],
        "audio": {
            "input": {"format": {"type": "audio/pcmu"}, "turn_detection": None, "transcription": {"model": "w"}},
            "output": {"format": {"type": "audio/pcm", "rate": 24_000}},
        },
    }
    assert read_settings(old, SessionSettings()) == read_settings(new, SessionSettings())
    assert read_settings(old, SessionSettings()).input_bytes_each_ms == 8
    odd: dict[str, Any] = {"max_output_tokens": True, "modalities": "audio", "input_audio_format": 3}
    assert read_settings(odd, SessionSettings()) == SessionSettings()


def test_the_dearer_of_two_settings_bounds_both() -> None:
    one = SessionSettings(output_limit_tokens=5, audio_output=False, input_bytes_each_ms=8, detects_turns=False)
    other = SessionSettings(output_limit_tokens=9, transcription_model="w", answers_silence=True)
    both = one.dearer(other)
    assert both.output_limit_tokens == 9 and both.audio_output and both.input_bytes_each_ms == 8
    assert both.transcription_model == "w" and both.detects_turns and both.answers_silence


_USAGES = st.builds(
    usage, text_in=st.integers(0, 3_000), text_out=st.integers(0, 90), audio_in=st.integers(0, 500),
    audio_out=st.integers(0, 9),
)  # fmt: skip


@given(st.lists(_USAGES, max_size=6), st.lists(st.text(max_size=60), max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_is_reported_within_the_bounds_never_costs_more_than_was_held(
    reports: list[dict[str, Any]], texts: list[str]
) -> None:
    session = talk()
    for number, report in enumerate(reports):
        text = texts[number % len(texts)] if texts else ""
        session.client("conversation.item.create", item={"content": [{"type": "input_text", "text": text}]})
        held = session.create(max_output_tokens=100)
        known_audio = session.meter._input.bound()[1]
        known = sum(session.meter._input.bound()[:2])
        details = report["input_token_details"]
        audio = min(details["audio_tokens"], known_audio)
        report = usage(  # noqa: PLW2901
            text_in=min(details["text_tokens"], known - known_audio), audio_in=audio,
            text_out=report["output_token_details"]["text_tokens"], audio_out=report["output_token_details"]["audio_tokens"],
        )  # fmt: skip
        session.created(f"r{number}")
        session.done(f"r{number}", report)
        assert session.earned <= held


def test_usages_add_up() -> None:
    one = Usage(input_tokens=1, tool_calls=(("a", 1),), service_tier="flex", reported_cost_picousd=5)
    other = Usage(input_tokens=2, tool_calls=(("a", 2), ("b", 1)))
    both = Usage(input_tokens=3, tool_calls=(("a", 3), ("b", 1)), service_tier="flex", reported_cost_picousd=5)
    assert added(one, other) == both
    assert added(Usage(), Usage()) == Usage()


def test_of_two_changes_of_settings_both_must_be_answered() -> None:
    session = talk()
    text_only(session)
    for limit in (4_000, 2_000):
        session.client("session.update", session={"max_output_tokens": limit})
    session.server("session.updated", session={"max_output_tokens": 2_000})
    assert session.meter.settings.output_limit_tokens == 4_000
    session.server("session.updated", session={"max_output_tokens": 2_000})
    assert session.meter.settings.output_limit_tokens == 2_000


def test_what_is_no_text_shows_nothing_and_sound_asks_for_nothing_by_itself() -> None:
    session = talk()
    session.meter.take_back(NO_EVENT)
    session.meter.ask(session.client("input_audio_buffer.append", audio=SECOND_OF_PCM))
    assert not session.meter.is_busy
    session.created()
    session.server("response.output_text.delta", response_id="r", delta=7)
    session.meter.close()
    assert session.meter.usage.output_tokens == 0


def test_an_error_has_the_interfaces_own_shape() -> None:
    event = json.loads(error_event(message="m", code="c", kind="k", event_id="e", cause="mine"))
    assert event == {
        "type": "error",
        "event_id": "e",
        "error": {"type": "k", "code": "c", "message": "m", "param": None, "event_id": "mine"},
    }
