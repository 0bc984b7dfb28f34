"""Requests that no client of good will sends, byte by byte on a socket: refused plainly, never a 500, nothing
charged."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest
from e2e.stack import CHAT, Parts, Stack, body, proof, start_stack, until

HOST = b"host: gateway\r\n"


def raw(stack: Stack, *pieces: bytes, seconds: float = 10.0) -> bytes:
    """What comes back for these bytes, until the gateway closes or the answer's head is there."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=seconds) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while b"\r\n\r\n" not in answer and (data := connection.recv(65_536)):
                answer += data
        except ConnectionError:
            return answer
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_a_head_that_does_not_end_is_broken_off(stack: Stack) -> None:
    endless = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1_000) for number in range(4_000))
    assert status(raw(stack, b"GET /v1/models HTTP/1.1\r\n" + HOST, endless)) == 431
    assert status(raw(stack, b"GET /v1/models HTTP/1.1\r\n" + HOST + b"x: ", b"y" * 4_000_000)) == 431


def test_a_large_body_in_the_first_read_is_no_long_head(stack: Stack) -> None:
    credential = stack.buy(100)
    content = json.dumps(body("word " * 40_000)).encode()
    answer = stack.http.post(CHAT, content=content, headers={**proof(credential), "content-type": "application/json"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "line",
    [b"GET /v1/\xff HTTP/1.1", b"GET /v1/models?\xff HTTP/1.1", b"GET http://other/v1/models HTTP/1.1", b"OPTIONS * HTTP/1.1",
     b"HEAD /v1/models HTTP/1.1", b"PROPFIND /v1/models HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /v1/models/%00 HTTP/1.1",
     b"GET /v1/models/..%2f..%2ffiles HTTP/1.1", b"TRACE / HTTP/1.1", b"POST //v1/chat/completions HTTP/1.1",
     b"GET /" + b"a/" * 5_000 + b" HTTP/1.1", b"GET /v1/models HTTP/1.0", b"GET /v1/models HTTP/9.9"],
)  # fmt: skip
def test_no_request_line_is_a_fault_of_ours(stack: Stack, line: bytes) -> None:
    assert 400 <= status(raw(stack, line + b"\r\n" + HOST + b"content-length: 0\r\n\r\n")) < 500


@pytest.mark.parametrize(
    "header",
    [b"authorization: L402 \xff\xfe:", b"authorization: L402 " + b"A" * 9_000, b"authorization: Bearer fb_\xff", b"macaroon: zz",
     b"farebox-deposit: -1", b"farebox-deposit: 1e9", b"farebox-deposit: " + b"9" * 5_000, b"content-type: multipart/form-data",
     b"content-type: \xff", b"accept: \xff", b"x-forwarded-for: \xff", b"farebox-user: \xff\x80", b"cookie: a=b"],
)  # fmt: skip
def test_no_header_is_a_fault_of_ours(stack: Stack, header: bytes) -> None:
    content = json.dumps(body()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n" % len(content)
    assert 400 <= status(raw(stack, head + header + b"\r\n\r\n" + content)) < 500


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{", b"\xff", b"{}" * 10, b"[" * 100_000, b'{"a":' * 100_000, b'{"model":"gpt-4o-mini"}\x00',
     b'\xef\xbb\xbf{"model":"gpt-4o-mini"}', '{"model":"gpt-4o-mini"}'.encode("utf-16"), b'{"model":"\\ud800"}',
     b'{"model":"gpt-4o-mini","n":' + b"9" * 6_000 + b"}", b'{"model":"gpt-4o-mini","stream":1}',
     b'{"model":"gpt-4o-mini","stream":"true"}', b'{"model":"gpt-4o-mini","Model":"gpt-4o","messages":[]}',
     b'{"model":"gpt-4o-mini","mod\\u0065l":"gpt-4o","messages":[]}', b'{"model":"gpt-4o-mini","n":1.0}',
     b'{"model":"gpt-4o-mini","max_tokens":1e3}', b'{"model":"gpt-4o-mini","max_tokens":-1}',
     b'{"model":"gpt-4o-mini","stream_options":[]}', b'{"model":"gpt-4o-mini","tools":{}}',
     b'{"model":"gpt-4o-mini","tools":[[]]}', b'{"model":"gpt-4o-mini","tools":[{"type":"web_search"}]}'],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/images/generations", "/api/chat",
                                  "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/messages/count_tokens"])  # fmt: skip
def test_no_body_is_a_fault_of_ours_and_none_is_charged(stack: Stack, hostile: str, path: str, content: bytes) -> None:
    answer = stack.http.post(path, content=content, headers={**proof(hostile), "content-type": "application/json"})
    assert answer.status_code < 500 or answer.status_code == 502, (path, answer.status_code, answer.text)
    assert answer.status_code != 402, answer.text


@pytest.fixture(scope="module")
def hostile(stack: Stack) -> str:
    """One credential for all that is refused."""
    return stack.buy(5_000)


def test_two_types_of_content_are_refused(stack: Stack, hostile: str) -> None:
    headers = [("authorization", f"L402 {hostile}"), ("content-type", "application/json"),
               ("content-type", "multipart/form-data; boundary=x")]  # fmt: skip
    answer = stack.http.post(CHAT, content=json.dumps(body()).encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("charset", ["utf-7", "UTF-16", '"utf-16le"'])
def test_json_in_another_encoding_than_its_own_is_refused(stack: Stack, hostile: str, charset: str) -> None:
    headers = {**proof(hostile), "content-type": f"application/json; charset={charset}"}
    answer = stack.http.post(CHAT, content=json.dumps(body()).encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"'])
def test_json_that_names_its_own_encoding_passes(stack: Stack, hostile: str, charset: str) -> None:
    headers = {**proof(hostile), "content-type": f"application/json; charset={charset}"}
    answer = stack.http.post(CHAT, content=json.dumps(body(max_tokens=5)).encode(), headers=headers)
    assert answer.status_code == 200


def test_a_form_is_a_form_in_any_capitals_and_a_transcription_takes_no_json(stack: Stack, hostile: str) -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ngpt-4o-mini\r\n--x--\r\n'
    headers = {**proof(hostile), "content-type": "Multipart/Form-Data; boundary=x"}
    refused = stack.http.post(CHAT, content=form, headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "content-type")
    spoken = {**proof(hostile), "content-type": "application/json"}
    answer = stack.http.post("/v1/audio/transcriptions", content=b'{"model":"whisper-1","file":"x"}', headers=spoken)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "content-type")


def test_headers_and_queries_that_hide_the_usage_are_refused_or_dropped(stack: Stack, hostile: str) -> None:
    path = "/v1beta/models/gemini-2.5-flash:generateContent"
    asked = {"contents": [{"parts": [{"text": "Say something."}]}]}
    for query in ("alt=proto", "$alt=proto", "%61lt=media", "fields=candidates", "%24fields=candidates", "callback=f"):
        answer = stack.http.post(f"{path}?{query}", json=asked, headers=proof(hostile))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), query
    assert stack.http.post(f"{path}?alt=json", json=asked, headers=proof(hostile)).status_code == 200
    for header in ("x-goog-fieldmask", "x-http-method-override"):
        answer = stack.http.post(path, json=asked, headers={**proof(hostile), header: "candidates"})
        assert answer.status_code == 200, header


def test_what_was_refused_held_nothing(stack: Stack, hostile: str) -> None:
    balance = stack.settled(hostile)
    assert balance["credited"] == 5_000_000
    until(lambda: stack.balance(hostile)["held"] == 0)


def test_a_revoked_token_buys_nothing_not_even_what_is_free(stack: Stack) -> None:
    credential = stack.buy(10)
    free = {"model": "gpt-4o-mini", "input": "Count me."}
    assert stack.http.get("/v1/models", headers=proof(credential)).status_code == 200
    assert stack.http.post("/l402/revoke", headers=proof(credential)).status_code == 200
    for answer in (
        stack.http.get("/v1/models", headers=proof(credential)),
        stack.http.post("/v1/responses/input_tokens", json=free, headers=proof(credential)),
        stack.http.post(CHAT, json=body(), headers=proof(credential)),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (402, "the token was revoked")


def test_nothing_that_a_payer_keeps_to_itself_goes_up(parts: Parts, tmp_path: Path) -> None:
    heads: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                heads.append(connection.recv(65_536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: a=b\r\n"
                                   b"connection: close\r\ncontent-length: 2\r\n\r\n{}")  # fmt: skip

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        upstreams = {"seen": {"dialect": "openai", "base_url": address, "api_key": "sk-ours"}}
        with start_stack(tmp_path, parts, upstreams=upstreams, routes=[]) as stack:
            credential = stack.buy(10)
            private = {
                "cookie": "session=secret", "referer": f"https://site/?key={credential}", "x-forwarded-for": "192.0.2.7",
                "proxy-authorization": "Basic secret", "farebox-user": "secret", "x-real-ip": "192.0.2.7",
                "connection": "x-private", "x-private": "secret", "x-http-method-override": "DELETE",
                "x-original-url": "/secret",
            }  # fmt: skip
            for shown in ("%6bey", "key", "%6b%65%79"):
                query = f"{shown}={quote(credential, safe='')}&after=1"
                answer = stack.http.get(f"/v1/models?{query}", headers=private)
                assert answer.status_code == 200, answer.text
                assert "set-cookie" not in answer.headers
            for name in ("x-api-key", "api-key", "x-goog-api-key", "authorization"):
                value = f"Bearer {credential}" if name == "authorization" else credential
                assert stack.http.get("/seen/v1/models", headers={**private, name: value}).status_code == 200
            log = stack.log.read_bytes()
        listener.shutdown(socket.SHUT_RDWR)
    assert len(heads) == 7
    for head in heads:
        assert b"Bearer sk-ours" in head and head.lower().count(b"authorization:") == 1
        for word in (b"secret", b"192.0.2.7", b"DELETE", credential[:40].encode(), credential[-40:].encode()):
            assert word not in head, head
    for word in (b"sk-ours", b"secret", credential[:40].encode(), credential[-40:].encode()):
        assert word not in log
