"""Redirects, followed hop by hop through real servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medic.egress import AllowList, SafeClient
from medic.errors import EgressRefused

LOCAL = AllowList.parse(["127.0.0.1", "hook.example"])


def _client(**kwargs: Any) -> SafeClient:
    return SafeClient(LOCAL, **kwargs)


def test_a_redirect_is_returned_unless_asked_for(
    serve: Callable[..., Any], reply: Callable[..., Any]
) -> None:
    server = serve(reply("302 Found", Location="/next"))
    answer = _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5)
    assert (answer.status, len(server.requests)) == (302, 1)
    answer = _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5, redirects=2)
    assert (answer.status, len(server.requests)) == (302, 4)


def test_a_redirect_is_followed_and_resolved_once_per_hop(
    serve: Callable[..., Any], reply: Callable[..., Any], names: type[Any]
) -> None:
    last = serve(reply(body=b"there"))
    first = serve(reply("307 Temporary", Location=f"http://hook.example:{last.port}/x"))
    resolver = names(hook_example=[["127.0.0.1"]])
    gates: list[int] = []
    answer = _client(resolver=resolver).request(
        "POST", f"http://hook.example:{first.port}/", body=b"b", timeout=5, redirects=3,
        headers={"Authorization": "s3cret", "Cookie": "s3cret", "X-Api-Key": "s3cret", "Content-Type": "text/plain"},
        before_send=lambda: gates.append(1),
    )  # fmt: skip
    assert (answer.body, answer.url) == (b"there", f"http://hook.example:{last.port}/x")
    assert resolver.calls == ["hook.example"] * 2
    assert first.requests[0].count(b"s3cret") == 3
    assert last.requests[0].startswith(b"POST /x ")
    assert last.requests[0].endswith(b"\r\n\r\nb")
    assert b"s3cret" not in last.requests[0]
    assert len(gates) == 2


@pytest.mark.parametrize(
    "location", ["http://10.0.0.1/", "http://169.254.169.254/latest", "http://0177.1/", "http://localhost/", "file:///etc/passwd",
                 "http://127.0.0.2:{port}/"],
)  # fmt: skip
def test_a_redirect_to_a_private_address_is_refused_at_its_own_hop(
    serve: Callable[..., Any], reply: Callable[..., Any], connects: list[Any], location: str
) -> None:
    server = serve(reply("302 Found", Location=location.format(port=80)))
    client = SafeClient(AllowList.parse(["*", "127.0.0.1"]))
    with pytest.raises(EgressRefused):
        client.request("GET", f"http://127.0.0.1:{server.port}/", timeout=5, redirects=3)
    assert connects == [("127.0.0.1", server.port)]


def test_a_redirect_from_https_to_http_is_refused(
    serve: Callable[..., Any], reply: Callable[..., Any], authority: Any
) -> None:
    plain = serve(reply())
    server = serve(
        reply("302 Found", Location=f"http://127.0.0.1:{plain.port}/"), authority.server("127.0.0.1")
    )
    with pytest.raises(EgressRefused) as caught:
        _client(ca_file=authority.file).request(
            "GET", f"https://127.0.0.1:{server.port}/", timeout=5, redirects=1
        )
    assert "https to http" in caught.value.reason
    assert plain.accepted == 0


def test_bad_methods_and_headers_open_no_socket(connects: list[Any]) -> None:
    for method, headers in (("CONNECT", {}), ("GET", {"Host": "x"}), ("GET", {"X": "a\r\nB: c"})):
        with pytest.raises(EgressRefused):
            _client().request(method, "http://127.0.0.1/", headers=headers, timeout=5)
    assert connects == []
