"""Where the safe client connects to: addresses, names that change, certificates, proxies."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medic.egress import AllowList, SafeClient
from medic.egress.connection import Exchange, JudgedHTTPConnection, JudgedHTTPSConnection
from medic.egress.watchdog import Watchdog
from medic.errors import EgressFailed, EgressRefused

LOCAL = AllowList.parse(["127.0.0.1", "hook.example"])


def _client(**kwargs: Any) -> SafeClient:
    return SafeClient(LOCAL, **kwargs)


def _raw(data: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda sock, request: sock.sendall(data)


# --- where it goes


@pytest.mark.parametrize("connection", [JudgedHTTPConnection, JudgedHTTPSConnection])
def test_urllib3_still_calls_our_hook(connection: type[Any], names: type[Any], connects: list[Any]) -> None:
    opened = connection("rebind.example", 80 if connection is JudgedHTTPConnection else 443, timeout=2)
    with Watchdog(2) as watchdog:
        opened.exchange = Exchange(AllowList(), names(rebind_example=[["127.0.0.1"]]), watchdog)
        with pytest.raises(EgressRefused):
            opened.connect()
        with pytest.raises(EgressRefused):
            opened.request("GET", "/")
    assert connects == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/", "http://169.254.169.254/",
     "http://0.0.0.0/", "http://0/", "http://localhost/", "http://a.localhost/", "http://[::1]/", "http://[::]/",
     "http://[fd00::1]/", "http://[fe80::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
     "http://0177.1/", "http://0x7f.1/", "http://0x7f000001/", "http://2130706433/", "http://127.1/", "http://017700000001/",
     "http://\uff11\uff12\uff17.0.0.1/", "http://127。0。0。1/", "http://①②⑦.0.0.1/", "http://127.0.0%2e1/", "http://localhost./",
     "http://localhost%00.example.com/", "https://127.0.0.1:443/", "http://127.0.0.1:22/", "http://8.8.8.8:22/",
     "ftp://127.0.0.1/", "http://u:p@8.8.8.8/"],
    ids=ascii,
)  # fmt: skip
def test_no_spelling_of_a_private_address_opens_a_socket(
    url: str, connects: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EgressRefused) as caught:
        SafeClient(AllowList()).request("GET", f"{url}?token=s3cret", headers={"X": "s3cret"}, timeout=5)
    assert str(caught.value) == "Invalid webhook URL"
    assert connects == []
    record = next(record for record in caplog.records if record.name == "medic.egress")
    assert record.levelno == logging.WARNING
    assert caught.value.reason in record.getMessage()
    assert "s3cret" not in caplog.text


def test_one_private_answer_among_public_ones_refuses_them_all(names: type[Any], connects: list[Any]) -> None:
    resolver = names(mixed_example=[["8.8.8.8", "2606:4700:4700::1111", "10.0.0.1"]])
    with pytest.raises(EgressRefused) as caught:
        SafeClient(AllowList(), resolver=resolver).request("GET", "http://mixed.example/", timeout=5)
    assert caught.value.reason == "mixed.example port 80 is 10.0.0.1: private"
    assert connects == []


def test_a_name_that_changes_its_address_is_judged_by_the_answer_that_is_used(
    serve: Callable[..., Any], reply: Callable[..., Any], names: type[Any], connects: list[Any]
) -> None:
    server = serve(reply(body=b"ok"))
    resolver = names(hook_example=[["127.0.0.1"], ["169.254.169.254"]])
    answer = _client(resolver=resolver).request("GET", f"http://hook.example:{server.port}/", timeout=5)
    assert answer.body == b"ok"
    assert resolver.calls == ["hook.example"]
    assert connects == [("127.0.0.1", server.port)]
    assert b"Host: hook.example:%d" % server.port in server.requests[0]
    with pytest.raises(EgressRefused):
        _client(resolver=resolver).request("GET", f"http://hook.example:{server.port}/", timeout=5)
    assert len(connects) == 1


def test_the_next_address_is_tried_when_one_does_not_answer(
    serve: Callable[..., Any], reply: Callable[..., Any], names: type[Any]
) -> None:
    server = serve(reply(body=b"ok"))
    resolver = names(hook_example=[["127.0.0.9", "127.0.0.1"]])
    assert (
        _client(resolver=resolver).request("GET", f"http://hook.example:{server.port}/", timeout=5).body
        == b"ok"
    )
    assert server.accepted == 1


def test_the_own_database_stays_closed_behind_another_name(
    serve: Callable[..., Any], reply: Callable[..., Any], names: type[Any], connects: list[Any]
) -> None:
    server = serve(reply())
    allow = AllowList.parse([f"127.0.0.0/8:{server.port}"], closed=[("db.internal", server.port)])
    resolver = names(db_internal=[["127.0.0.1"]], sneaky_example=[["127.0.0.2"]])
    with pytest.raises(EgressRefused, match="Invalid webhook URL"):
        SafeClient(allow, resolver=resolver).request(
            "GET", f"http://sneaky.example:{server.port}/", timeout=5
        )
    assert connects == []


def test_proxies_and_netrc_of_the_environment_are_ignored(
    serve: Callable[..., Any], reply: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, proxy = serve(reply(body=b"direct")), serve(reply(body=b"proxied"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5).body == b"direct"
    assert proxy.accepted == 0
    assert b"authorization" not in server.requests[0].lower()


# --- TLS


def test_a_certificate_is_checked_against_the_name(
    serve: Callable[..., Any], reply: Callable[..., Any], authority: Any, names: type[Any]
) -> None:
    server = serve(reply(body=b"ok"), authority.server("hook.example"))
    client = SafeClient(
        AllowList.parse(["hook.example", "other.example"]), ca_file=authority.file,
        resolver=names(hook_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]]),
    )  # fmt: skip
    assert client.request("GET", f"https://hook.example:{server.port}/", timeout=5).body == b"ok"
    with pytest.raises(EgressFailed, match=r"not valid for 'other\.example'") as caught:
        client.request("GET", f"https://other.example:{server.port}/", timeout=5)
    assert (caught.value.kind, caught.value.sent) == ("tls", False)
    assert len(server.requests) == 1


def test_an_unknown_authority_is_refused(
    serve: Callable[..., Any], reply: Callable[..., Any], authority: Any
) -> None:
    server = serve(reply(), authority.server("127.0.0.1"))
    with pytest.raises(EgressFailed, match="certificate is not valid") as caught:
        _client().request("GET", f"https://127.0.0.1:{server.port}/", timeout=5)
    assert (caught.value.kind, caught.value.sent) == ("tls", False)


def test_a_server_without_tls_fails_before_anything_is_sent(serve: Callable[..., Any]) -> None:
    server = serve(_raw(b"HTTP/1.1 400 Bad\r\n\r\n"))
    with pytest.raises(EgressFailed) as caught:
        _client().request("GET", f"https://127.0.0.1:{server.port}/", timeout=1)
    assert caught.value.kind in {"tls", "timeout", "connect"}
    assert caught.value.sent is False
