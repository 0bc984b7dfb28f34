"""Where a webhook may go: every way to spell an address of the inside, and every address that is none."""

from __future__ import annotations

import pytest

from gateway.core.errors import InvalidRequest
from gateway.core.receivers import Receiver, is_allowed, receiver_of

GOOD = {
    "https://example.com": Receiver("https", "example.com", 443, ""),
    "https://example.com/hook?a=b#part": Receiver("https", "example.com", 443, "/hook?a=b"),
    "HTTPS://Example.COM.:8443/Hook": Receiver("https", "example.com", 8443, "/Hook"),
    "https://example.com:/": Receiver("https", "example.com", 443, "/"),
    "https://example.com?x=1": Receiver("https", "example.com", 443, "?x=1"),
    "https://xn--bcher-kva.example/": Receiver("https", "xn--bcher-kva.example", 443, "/"),
    "https://a_b.c-d.example/": Receiver("https", "a_b.c-d.example", 443, "/"),
    "https://8.8.8.8/": Receiver("https", "8.8.8.8", 443, "/"),
    "https://[2606:4700::1]:8443/": Receiver("https", "2606:4700::1", 8443, "/"),
    "https://[::ffff:8.8.8.8]/": Receiver("https", "::ffff:8.8.8.8", 443, "/"),
    "https://[64:ff9b::808:808]/": Receiver("https", "64:ff9b::808:808", 443, "/"),
    "https://3com.example/": Receiver("https", "3com.example", 443, "/"),
}
NO_ADDRESS = [
    "", "x", "example.com", "//example.com/", "https:", "https:/", "https://", "https:///x", "https://?x", "https://:443/",
    "ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)", "https//example.com", "https:example.com",
    "https://[::1", "https://::1]/", "https://[::1]x/", "https://[]/", "https://[1.2.3.4]/", "https://[v1.x]/",
    "https://[fe80::1%25eth0]/", "https://[:::]/", "https://[12345::]/",
    "https://example.com:0/", "https://example.com:65536/", "https://example.com:99999/", "https://example.com:123456/",
    "https://example.com:-1/", "https://example.com:4e2/", "https://example.com:٤٤٣/",
    "https://user@example.com/", "https://user:pass@example.com/", "https://@example.com/", "https://:@example.com/",
    "https://example.com\\@127.0.0.1/", "https://example.com%00.evil/", "https://example.com%2f@x/",
    "https://exa mple.com/", " https://example.com/", "https://example.com/ ", "https://example.com/a b",
    "https://exam\nple.com/", "https://example.com/\n", "https://example.com\t/", "https://example.com/\r\nX: y",
    "https://bücher.example/", "https://example.com/ü", "https://１２７.０.０.１/", "https://example。com/", "https://ⓔxample.com/",
    "https://./", "https://../", "https://a..b/", "https://.example.com/", "https://-a.example/", "https://a-.example/",
    "https://example.com../", "https://" + "a" * 64 + ".example/", "https://" + "a." * 130 + "example/",
    "https://example.com/" + "a" * 2_000, "https://example.com/" + "a" * 100_000,
    "https://\u212a.example/",  # a Kelvin sign
]  # fmt: skip
INSIDE = [
    "https://localhost/", "https://LOCALHOST:8080/", "https://localhost./", "https://a.localhost/",
    "https://127.0.0.1/", "https://127.1/", "https://127.0.0.1./", "https://2130706433/", "https://017700000001/",
    "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/", "https://127.0.0.0x1/", "https://1.2.3/",
    "https://1.2.3.4.5/", "https://256.1.1.1/", "https://0/", "https://0x/", "https://a.b.123/", "https://08.8.8.8/",
    "https://0.0.0.0/", "https://10.1.2.3/", "https://172.16.0.1/", "https://192.168.0.1/", "https://169.254.169.254/",
    "https://100.64.0.1/", "https://224.0.0.1/", "https://239.255.255.250/", "https://240.0.0.1/", "https://255.255.255.255/",
    "https://198.18.0.1/", "https://192.0.2.1/", "https://192.0.0.170/", "https://192.88.99.1/", "https://203.0.113.1/",
    "https://[::]/", "https://[::1]/", "https://[::127.0.0.1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:a00:1]/",
    "https://[::ffff:0:127.0.0.1]/", "https://[64:ff9b::10.0.0.1]/", "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::1]/", "https://[2002:7f00:1::]/", "https://[2001::1]/", "https://[2001:db8::1]/",
    "https://[fc00::1]/", "https://[fd12::1]/", "https://[fe80::1]/", "https://[fec0::1]/", "https://[ff02::1]/",
    "https://[ff0e::1]/", "https://[100::1]/", "https://[5f00::1]/", "https://[4000::1]/",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_read_in_one_way(url: str) -> None:
    assert receiver_of(url, allow_private=False) == GOOD[url]


@pytest.mark.parametrize("url", [*NO_ADDRESS, *INSIDE, "http://example.com/"])
def test_an_address_that_could_never_be_told_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        receiver_of(url, allow_private=False)
    assert refused.value.param == "url" and refused.value.detail


@pytest.mark.parametrize("url", [*NO_ADDRESS, "https://0x7f.1/", "http://169.254.169.254/latest", "http://[fe80::1]/",
                                 "http://[::ffff:169.254.169.254]/", "http://224.0.0.1/"])  # fmt: skip
def test_an_operator_who_allows_private_addresses_opens_their_own_network_and_no_more(url: str) -> None:
    with pytest.raises(InvalidRequest):
        receiver_of(url, allow_private=True)


@pytest.mark.parametrize("url", ["http://localhost:1/", "http://127.0.0.1/", "http://[::1]:8/", "https://10.0.0.1/x"])
def test_on_the_operators_own_network_plain_http_is_allowed(url: str) -> None:
    assert receiver_of(url, allow_private=True).at("10.0.0.1").startswith(url.partition("//")[0])


def test_a_number_takes_the_place_of_the_name_and_the_name_is_still_told() -> None:
    receiver = receiver_of("https://Example.com:8443/hook?x#y", allow_private=False)
    assert receiver.at("2606:4700::1") == "https://[2606:4700::1]:8443/hook?x"
    assert receiver.at("8.8.8.8") == "https://8.8.8.8:8443/hook?x"
    assert receiver.authority == "example.com:8443"
    assert receiver_of("https://[2606:4700::1]/", allow_private=False).authority == "[2606:4700::1]"


@pytest.mark.parametrize(("number", "public", "private"), [
    ("8.8.8.8", True, True), ("10.0.0.1", False, True), ("127.0.0.1", False, True), ("169.254.169.254", False, False),
    ("fe80::1%eth0", False, False), ("::ffff:10.0.0.1", False, True), ("64:ff9b::a00:1", False, True),
    ("64:ff9b::808:808", True, True), ("2606:4700::1", True, True), ("224.0.0.1", False, False), ("ff02::1", False, False),
])  # fmt: skip
def test_what_dns_answers_is_judged_like_what_was_set(number: str, public: bool, private: bool) -> None:
    assert is_allowed(number, allow_private=False) is public
    assert is_allowed(number, allow_private=True) is private
