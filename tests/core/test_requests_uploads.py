"""Uploads are read while they pass: small fields early, files never kept, and nothing that bears cost afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest
from gateway.core.facts import RequestLimits
from gateway.core.multipart import MultipartFields, boundary_of, upload_request
from gateway.core.operations import Operation

LIMITS = RequestLimits()
AUDIO = bytes(range(256)) * 64 + b"\r\n--not the mark\r\n--X\n"[:-5]


def part(name: str, value: bytes, *, filename: str | None = None, extra: str = "") -> bytes:
    end = f'; filename="{filename}"' if filename else ""
    return f'--X\r\nContent-Disposition: form-data; name="{name}"{end}\r\n{extra}\r\n'.encode() + value + b"\r\n"


FORM = part("model", b"whisper-1") + part("language", "日本".encode()) + part("file", AUDIO, filename="a.wav")
END = b"--X--\r\n"


def fed(body: bytes, size: int = 1_000) -> MultipartFields:
    form = MultipartFields(b"X")
    for at in range(0, len(body), size):
        form.feed(body[at : at + size])
    return form


def refused(body: bytes) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        form = fed(body)
        form.close()
        form.freeze()
    return caught.value.param


@given(st.lists(st.integers(1, 400), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_fields(sizes: list[int]) -> None:
    body, form, at = FORM + part("prompt", b"names") + END, MultipartFields(b"X"), 0
    for size in sizes:
        form.feed(body[at : at + size])
        at += size
    form.feed(body[at:])
    form.close()
    assert form.fields == {"model": "whisper-1", "language": "日本", "prompt": "names"}


def test_admission_need_not_wait_for_the_file() -> None:
    form = MultipartFields(b"X")
    assert not form.feed(part("model", b"whisper-1"))
    assert form.feed(part("file", AUDIO, filename="a.wav")[:200])


def test_a_file_first_is_passed_over_until_the_model_is_known() -> None:
    form = fed(part("file", AUDIO, filename="a.wav") + part("model", b"whisper-1") + END)
    assert form.complete and form.fields["model"] == "whisper-1"


def test_files_are_not_kept() -> None:
    form = MultipartFields(b"X")
    form.feed(part("model", b"m") + part("file", b"", filename="f")[:-2])
    for _ in range(50):
        form.feed(b"\x00" * 65_536)
        assert len(form._buffer) < 65_600


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (part("model", b"a") + part("model", b"b") + END, "model"),
        (part("model", b"a", filename="x") + END, "model"),
        (part("Model", b"a") + END, "Model"),
        (part("n[]", b"9") + END, "n[]"),
        (part("model", b"\xff") + END, "model"),
        (part("", b"a") + END, "body"),
        (part("mod\\el", b"a") + END, "body"),
        (part("a", b"b", extra="Content-Transfer-Encoding: base64\r\n") + END, "body"),
        (part("a", b"b", extra='Content-Disposition: form-data; name="model"\r\n') + END, "body"),
        (b"--X\r\nContent-Disposition: form-data; name*=utf-8''model\r\n\r\na\r\n" + END, "body"),
        (part("file", b"abc\n--X\nhidden", filename="f") + END, "body"),
        (part("model", b"a") + b"--Xtra\r\n", "body"),
        (part("model", b"a"), "body"),
        (b"no form at all", "body"),
        (b"--X\r\n" + b"a: b\r\n" * 5_000, "body"),
        (part("prompt", b"x" * 1_100_000) + END, "prompt"),
        (part("a", b"b") * 300 + END, "body"),
    ],
)
def test_forms_that_parsers_disagree_on_are_refused(body: bytes, param: str) -> None:
    assert refused(body) == param


def test_a_field_that_bears_cost_comes_before_the_price_or_not_at_all() -> None:
    form = fed(part("model", b"gpt-image-1") + part("image", AUDIO, filename="a.png"))
    facts = upload_request(Operation.IMAGES_EDITS, form, content_length_bytes=9_999, path_model=None, limits=LIMITS)
    assert facts.images == 1
    form.feed(part("user", b"me"))
    with pytest.raises(InvalidRequest):
        form.feed(part("n", b"10"))


def test_a_transcription_is_bounded_by_its_length() -> None:
    facts = upload_request(
        Operation.TRANSCRIPTIONS, fed(FORM), content_length_bytes=750_000, path_model=None, limits=LIMITS
    )
    assert facts.model == "whisper-1" and facts.audio_ms_bound >= 1_000_000 and not facts.limit_can_be_spliced


@pytest.mark.parametrize(
    ("value", "param"), [(b"0", "n"), (b"-1", "n"), (b"999", "n"), (b"two", "n"), ("２".encode(), "n")]
)
def test_the_number_of_pictures_is_a_plain_integer(value: bytes, param: str) -> None:
    form = fed(part("model", b"gpt-image-1") + part("n", value) + END)
    with pytest.raises(InvalidRequest) as caught:
        upload_request(Operation.IMAGES_EDITS, form, content_length_bytes=1, path_model=None, limits=LIMITS)
    assert caught.value.param == param


def test_raw_routes_take_any_form_and_json_paths_none() -> None:
    form = fed(part("model", b"a") + part("model", b"b") + END)
    facts = upload_request(Operation.RAW, form, content_length_bytes=7, path_model=None, limits=LIMITS)
    assert facts.input_bound_tokens == 7
    with pytest.raises(InvalidRequest) as caught:
        upload_request(Operation.CHAT, fed(FORM), content_length_bytes=7, path_model=None, limits=LIMITS)
    assert caught.value.param == "content-type"


def test_without_a_model_nothing_is_admitted() -> None:
    with pytest.raises(InvalidRequest) as caught:
        upload_request(Operation.TRANSCRIPTIONS, fed(END), content_length_bytes=1, path_model=None, limits=LIMITS)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("header", "boundary"),
    [(b"multipart/form-data; boundary=abc", b"abc"), (b'multipart/form-data; charset=utf-8; BOUNDARY="a b"', b"a b")],
)
def test_the_boundary_is_read_in_both_forms(header: bytes, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize("header", [b"multipart/form-data", b"multipart/form-data; boundary=a; boundary=b", b"",
                                    b"multipart/form-data; boundary=a; boundary*0=b"])  # fmt: skip
def test_no_boundary_or_two_are_refused(header: bytes) -> None:
    with pytest.raises(InvalidRequest):
        boundary_of(header)
