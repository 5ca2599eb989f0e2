from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.errors import Invalid
from medic.playbook.address import parse_address
from medic.playbook.scope import Scope


def url(source: str, **values: str) -> str:
    return parse_address(source).render(Scope(variables=values, secret=lambda name: f"<{name}>")).value


@pytest.mark.parametrize(
    ("source", "values", "wanted"),
    [
        ("https://a.example/x", {}, "https://a.example/x"),
        ("https://a.example/${P}/x", {"P": "a/b?c#d&e"}, "https://a.example/a%2Fb%3Fc%23d%26e/x"),
        ("https://a.example?q=${P}", {"P": "1&admin=true"}, "https://a.example?q=1%26admin%3Dtrue"),
        ("http://${H}.example:${P}/", {"H": "web-1", "P": "9000"}, "http://web-1.example:9000/"),
        ("${S}://a.example/", {"S": "http"}, "http://a.example/"),
        ("${U}", {"U": "https://a.example/x?y=1"}, "https://a.example/x?y=1"),
        ("${U}/go", {"U": "https://a.example/api/"}, "https://a.example/api/go"),
        ("${U}:8080/go", {"U": "http://a.example"}, "http://a.example:8080/go"),
        ("${U}?q=${P}", {"U": "http://a.example/x", "P": "é"}, "http://a.example/x?q=%C3%A9"),
        ("http://[::1]:80/${P}", {"P": "x"}, "http://[::1]:80/x"),
    ],
)
def test_values_fit_their_place(source: str, values: dict[str, str], wanted: str) -> None:
    assert url(source, **values) == wanted


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("https://${X}/a", "evil.example/b"),
        ("https://${X}/a", "u:p@evil.example"),
        ("https://${X}/a", ""),
        ("https://ops.example:${X}/a", "80@evil.example"),
        ("https://a.example/${X}", ".."),
        ("https://a.example/v1/${X}/b", "../../admin"),
        ("https://a.example/v1/${X}/b", "..%2F..%2Fadmin"),
        ("https://a.example/${X}/b", ""),
        ("https://a.example/.${X}/b", "."),
        ("${X}", "file:///etc/passwd"),
        ("${X}", "https://u:p@a.example/"),
        ("${X}", "https://a.example/ x"),
        ("${X}/go", "https://a.example/?q="),
        ("${X}/go", "//a.example"),
        ("${X}.example/go", "https://a.example/path"),
        ("${X}://a.example/", "file"),
        ("https://a.example/${X}", "x" * 3000),
        ("https://a.example:${X}/", "99999"),
    ],
)
def test_a_value_that_would_change_the_address_is_refused(source: str, value: str) -> None:
    with pytest.raises(Invalid):
        url(source, X=value)


@pytest.mark.parametrize(
    "source",
    ["ftp://a.example/", "a.example/x", "", "https://u:p@a.example/", "https://a b/", "https://a\\b/"],
)
def test_what_is_no_web_address_is_refused(source: str) -> None:
    with pytest.raises(Invalid):
        parse_address(source)


@pytest.mark.parametrize(
    "source",
    [
        "${secrets.U}", "${secrets.S}://a.example/", "https://${secrets.H}/", "https://a.example:${secrets.P}/",
        "https://${secrets.U}:x@a.example/", "https://a.${secrets.H}.example/x", "${BASE}${secrets.H}/x",
    ],
)  # fmt: skip
def test_a_secret_never_stands_in_scheme_host_or_port(source: str) -> None:
    with pytest.raises(Invalid, match="a secret may only be in the path or the query"):
        parse_address(source)


def test_a_secret_in_path_and_query_is_sent_encoded_and_shown_by_name() -> None:
    text = parse_address("https://a.example/${secrets.A}?k=${secrets.B}").render(
        Scope(secret=lambda name: f"{name}/?")
    )
    assert text.value == "https://a.example/A%2F%3F?k=B%2F%3F"
    assert text.shown == "https://a.example/[secret:A]?k=[secret:B]"


def test_credentials_that_are_no_secrets_are_not_shown_either() -> None:
    scope = Scope(variables={"URL": "https://hooks.example/T0/B1/abc", "T": "abc"})
    assert parse_address("${URL}").render(scope).shown == "https://hooks.example/…"
    assert (
        parse_address("https://a.example/?api_key=abc&n=1").render(scope).shown
        == "https://a.example/?api_key=[redacted]&n=1"
    )


@pytest.mark.parametrize(
    ("source", "pinned"),
    [
        ("https://a.example/${X}", True), ("https://${X}.ops.example/", True), ("https://${X}.ops.example:8080/", True),
        ("https://${X}/", False), ("https://${X}.com/", False), ("https://a.${X}/", False), ("${X}", False),
        ("https://ops.example:${P}/", True), ("https://${X}.ops.${Y}/", False),
    ],
)  # fmt: skip
def test_an_address_is_pinned_when_its_domain_is_written_out(source: str, pinned: bool) -> None:
    assert parse_address(source).pinned is pinned


TEXTS = st.text(st.characters(codec=None), max_size=50)


@given(TEXTS, TEXTS)
def test_no_value_leaves_its_place(path: str, query: str) -> None:
    try:
        found = urlsplit(url("https://ops.example:8443/v1/${P}/end?a=${Q}&b=2", P=path, Q=query))
    except Invalid:
        return
    assert (found.scheme, found.netloc, found.fragment) == ("https", "ops.example:8443", "")
    assert [unquote(part) for part in found.path.split("/")] == ["", "v1", path, "end"]
    assert parse_qsl(found.query, keep_blank_values=True) == [("a", query), ("b", "2")]


@given(st.text(max_size=40))
def test_no_value_becomes_more_than_a_host(host: str) -> None:
    try:
        found = urlsplit(url("https://${H}.ops.example/x", H=host))
    except Invalid:
        return
    assert found.hostname == f"{host}.ops.example".lower()
    assert found.path == "/x"
