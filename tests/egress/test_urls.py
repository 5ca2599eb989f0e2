"""URLs, methods, header fields and redirects: what is refused before anything is resolved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.egress.headers import clean_headers, clean_method
from medic.egress.redirects import Hop, next_hop
from medic.egress.urls import Target, parse_target
from medic.errors import EgressRefused

WRONG = [
    "", "example.com", "//example.com/", "/path", "http:example.com", "http:/example.com", "http://", "http:///x",
    "https://:443/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)",
    " http://example.com/", "http://example.com/ ", "http://exa mple.com/", "http://example.com/\r\nX: y",
    "http://example.com/\t", "http://example.com\x00.evil.com/", "http://localhost\x00.example.com/",
    "http://example.com%00.evil.com/", "http://example.com/\x7f", "http://example.com/\u0085", "http://example.com/\u200b",
    "http://user@example.com/", "http://user:pw@example.com/", "http://@example.com/", "http://:@example.com/",
    "http://example.com\\@evil.com/", "http:\\\\example.com/", "http://example.com#@evil.com:99999/x\\",
    "http://example.com:0/", "http://example.com:65536/", "http://example.com:-1/", "http://example.com:80:80/",
    "http://example.com:http/", "http://example.com:8 0/", "http://[::1/", "http://::1/", "http://[::1%25eth0]/",
    "http://[::1%eth0]/", "http://[::g]/", "http://[1.2.3.4]/", "http://exam%70le.com%2f/", "http://a..b/", "http://.a/",
    "http://-a.com/", "http://a.com../", f"http://{'a' * 64}.com/", f"http://{'a.' * 127}a/", "http://①②⑦.0.0.1/",
    "http://\uff11\uff12\uff17.0.0.1/", "http://127。0。0。1/", f"http://example.com/{'a' * 2048}", "http://example.com/\ud800", "http://exa*mple.com/",
    "http://$" + "{HOST}/", "http://a,b/", "http://a;b/", "http://example.com:\uff18\uff10/",
]  # fmt: skip


@pytest.mark.parametrize("url", WRONG, ids=ascii)
def test_a_url_that_parsers_could_disagree_on_is_refused(url: str) -> None:
    with pytest.raises(EgressRefused) as caught:
        parse_target(url)
    assert str(caught.value) == "Invalid webhook URL"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target("http", "example.com", 80, "/")),
        ("HTTPS://Example.COM./a?b=c#d", Target("https", "example.com.", 443, "/a?b=c")),
        ("http://example.com:/", Target("http", "example.com", 80, "/")),
        ("https://example.com:8443/a/../b", Target("https", "example.com", 8443, "/b")),
        ("http://my_service:8080?x", Target("http", "my_service", 8080, "/?x")),
        ("http://[2606:4700:0:0::1111]/", Target("http", "2606:4700::1111", 80, "/")),
        ("http://[::ffff:127.0.0.1]/", Target("http", "::ffff:7f00:1", 80, "/")),
        ("https://bücher.example/ü?ß", Target("https", "xn--bcher-kva.example", 443, "/%C3%BC?%C3%9F")),
        ("http://127.0.0%2e1/", Target("http", "127.0.0.1", 80, "/")),
        ("http://0X7F.1/", Target("http", "0x7f.1", 80, "/")),
        ("http://example.com/@a:b", Target("http", "example.com", 80, "/@a:b")),
    ],
)
def test_a_good_url_is_read_into_its_parts(url: str, target: Target) -> None:
    assert parse_target(url) == target


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60), st.text(alphabet="http:/@[]%.\\#?a1:0", max_size=40).map("http://".__add__)
    )
)
def test_any_text_is_refused_or_reads_the_same_again(text: str) -> None:
    try:
        target = parse_target(text)
    except EgressRefused:
        return
    assert parse_target(target.url) == target
    assert target.host.isascii()
    assert not set(target.path) & set(" \r\n\t")


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "Connection", "Proxy-Authorization", "PROXY-Connection", "Upgrade",
     "Expect", "TE", "Trailer", "Keep-Alive", "", "a b", "a:b", "a\r\nb", "a\n", "naïve", "x" * 257],
)  # fmt: skip
def test_a_header_that_is_not_the_callers_is_refused(name: str) -> None:
    with pytest.raises(EgressRefused) as caught:
        clean_headers({name: "v4lue"})
    assert "v4lue" not in f"{caught.value}{caught.value.reason}"


@pytest.mark.parametrize(
    "value", ["a\r\nX: y", "a\nb", "a\rb", "a\x00b", "a\x0bb", "\x7f", "\x85", "snow ☃", "v\n"]
)
def test_a_header_value_cannot_start_another_line(value: str) -> None:
    with pytest.raises(EgressRefused) as caught:
        clean_headers({"X-Token": value})
    assert value not in f"{caught.value}{caught.value.reason}"
    assert "X-Token" in str(caught.value)


def test_headers_are_kept_in_lower_case_and_trimmed() -> None:
    assert clean_headers({"X-A": " b\tc ", "Authorization": "Bearer é"}) == {
        "x-a": "b\tc",
        "authorization": "Bearer é",
    }


def test_a_header_given_twice_is_refused() -> None:
    with pytest.raises(EgressRefused, match="twice"):
        clean_headers({"X-A": "1", "x-a": "2"})


@pytest.mark.parametrize(
    "method", ["CONNECT", "TRACE", "", "GET ", "GE T", "GET\r\n", "PO\u017fT", "PROPFIND", "G\x00ET"]
)
def test_a_method_that_webhooks_do_not_need_is_refused(method: str) -> None:
    with pytest.raises(EgressRefused):
        clean_method(method)


def test_a_method_is_sent_in_capitals() -> None:
    assert [clean_method(word) for word in ("get", "Post", "DELETE")] == ["GET", "POST", "DELETE"]


SECRETS = {
    "authorization": "Bearer s",
    "cookie": "s",
    "x-api-key": "s",
    "content-type": "text/plain",
    "accept": "*/*",
}


def _hop(method: str = "POST", url: str = "https://a.example/x/y?q=1") -> Hop:
    return Hop(method, parse_target(url), SECRETS, b"body")


@pytest.mark.parametrize(
    ("status", "method", "after"),
    [(301, "POST", "GET"), (302, "POST", "GET"), (303, "POST", "GET"), (307, "POST", "POST"), (308, "POST", "POST"),
     (301, "PUT", "PUT"), (302, "DELETE", "DELETE"), (303, "DELETE", "GET"), (303, "HEAD", "HEAD"), (301, "GET", "GET")],
)  # fmt: skip
def test_a_redirect_changes_the_method_as_rfc_9110_says(status: int, method: str, after: str) -> None:
    hop = next_hop(_hop(method), status, "../z")
    assert (hop.method, hop.target.url) == (after, "https://a.example/z")
    kept = after == method
    assert (hop.body == b"body", "content-type" in hop.headers) == (kept, kept)
    assert hop.headers["authorization"] == "Bearer s"


@pytest.mark.parametrize("location", ["https://b.example/", "https://a.example:8443/", "//sub.a.example/"])
def test_no_secret_follows_a_redirect_to_another_origin(location: str) -> None:
    assert next_hop(_hop(), 307, location).headers == {"content-type": "text/plain", "accept": "*/*"}


def test_the_same_origin_written_differently_keeps_its_headers() -> None:
    assert next_hop(_hop(), 307, "HTTPS://A.example.:443/").headers == SECRETS


@pytest.mark.parametrize(
    "location",
    ["http://a.example/", "ftp://a.example/", "file:///etc/passwd", "https://u:p@a.example/", "https://[::1", "\xff\xfe",
     "https://a.example/\x00", "", "javascript:1"],
)  # fmt: skip
def test_a_redirect_to_what_is_no_url_of_ours_or_to_plain_http_is_refused(location: str) -> None:
    if location:
        with pytest.raises(EgressRefused):
            next_hop(_hop(), 302, location)
    else:  # an empty reference is the same document (RFC 3986 §4.4)
        assert next_hop(_hop(), 307, location).target == _hop().target


def test_a_location_in_utf_8_is_read_as_such() -> None:
    raw = "/ü".encode().decode("latin-1")
    assert next_hop(_hop(), 307, raw).target.path == "/%C3%BC"
