"""What an approval is bound to: the bytes that were looked at, and how they are read."""

from __future__ import annotations

from typing import Any, cast

from gateway.core.call import Call
from gateway.core.directory import Key
from gateway.core.multipart import MultipartFields, boundary_of
from gateway.flows.callers import Caller
from gateway.flows.choosing import approval_digest

CALLER = Caller("", Key("ak_7f01", "org_7f00", "d"), cast(Any, None), cast(Any, None), "alice")
DIGEST = "ab" * 32


def digest(content_type: bytes, *, body: bytes = b"", streams: bool = True) -> str:
    call = Call(
        "POST", "/v1/audio/transcriptions", b"", [(b"content-type", content_type)], "127.0.0.1", "0" * 26, "req_7f", 0.0,
        body,
    )  # fmt: skip
    if streams:
        call.upload, call.upload_digest = cast(Any, object()), DIGEST
    return approval_digest(call, CALLER, "prices")


def field(boundary: bytes, name: bytes, value: bytes) -> bytes:
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value)


def file(boundary: bytes, content: bytes) -> bytes:
    return b'--%b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n' % (boundary, content)


def test_the_same_bytes_under_another_boundary_are_another_upload() -> None:
    inner = b"\r\n" + field(b"B", b"model", b"large") + file(b"B", b"other audio") + b"--B--\r\n"
    body = field(b"A", b"model", b"small") + file(b"A", b"audio" + inner) + b"--A--\r\n"
    types = {model: b"multipart/form-data; boundary=" + mark for model, mark in (("small", b"A"), ("large", b"B"))}
    for model, content_type in types.items():
        form = MultipartFields(boundary_of(content_type))
        form.feed(body)
        form.close()
        assert form.fields["model"] == model
    assert digest(types["small"]) == digest(types["small"]) != digest(types["large"])


def test_a_small_form_of_a_raw_route_is_bound_to_its_boundary_too() -> None:
    one, other = (
        digest(b"Multipart/Form-Data; boundary=" + mark, body=b"--A--\r\n--B--\r\n", streams=False)
        for mark in (b"A", b"B")
    )
    assert one != other


def test_json_is_the_same_request_under_any_type() -> None:
    types = (b"application/json", b"application/json; charset=utf-8", b"application/x-www-form-urlencoded")
    assert len({digest(each, body=b'{"a": 1}', streams=False) for each in types}) == 1
