"""No server and no resolver outlives the deadline of a request."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from medic.egress import AllowList, SafeClient
from medic.egress.lookup import MAX_LOOKUPS
from medic.errors import EgressFailed

LOCAL = AllowList.parse(["127.0.0.1", "hook.example"])


def _client(**kwargs: Any) -> SafeClient:
    return SafeClient(LOCAL, **kwargs)


def _timed(client: SafeClient, url: str, kind: str, sent: bool, seconds: float, **kwargs: Any) -> None:
    started = time.monotonic()
    with pytest.raises(EgressFailed) as caught:
        client.request("GET", url, timeout=kwargs.pop("timeout", seconds), **kwargs)
    assert (caught.value.kind, caught.value.sent) == (kind, sent)
    assert seconds - 0.05 <= time.monotonic() - started < seconds + 1.0


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Drip: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Drip: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
def test_a_slow_drip_does_not_outlive_the_deadline(
    serve: Callable[..., Any],
    drip: Callable[..., Any],
    authority: Any,
    start: bytes,
    piece: bytes,
    secure: bool,
) -> None:
    server = serve(drip(start, piece), authority.server("127.0.0.1") if secure else None)
    url = f"http{'s' * secure}://127.0.0.1:{server.port}/"
    _timed(_client(ca_file=authority.file), url, "timeout", sent=True, seconds=0.4)


def test_a_silent_server_does_not_outlive_the_deadline(
    serve: Callable[..., Any], drip: Callable[..., Any]
) -> None:
    server = serve(drip(b"", b""))
    _timed(_client(), f"http://127.0.0.1:{server.port}/", "timeout", sent=True, seconds=0.3)


def test_a_handshake_that_never_comes_is_told_as_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        _timed(_client(), url, "timeout", sent=False, seconds=0.3)


def test_a_request_that_nobody_reads_does_not_outlive_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        _timed(_client(), url, "timeout", sent=True, seconds=0.4, body=b"x" * 30_000_000)


def test_a_hanging_resolver_does_not_outlive_the_deadline(connects: list[Any]) -> None:
    over = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        over.wait(20)
        return ["127.0.0.1"]

    _timed(SafeClient(LOCAL, resolver=hang), "http://hook.example/", "timeout", sent=False, seconds=0.3)
    over.set()
    assert connects == []


def test_the_deadline_counts_over_all_hops(
    serve: Callable[..., Any], reply: Callable[..., Any], drip: Callable[..., Any]
) -> None:
    last = serve(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"))

    def slow(sock: socket.socket, request: bytes) -> None:
        threading.Event().wait(0.3)
        reply("302 Found", Location=f"http://127.0.0.1:{last.port}/")(sock, request)

    first = serve(slow)
    _timed(_client(), f"http://127.0.0.1:{first.port}/", "timeout", sent=True, seconds=0.6, redirects=1)
    assert len(last.requests) == 1


def test_a_cancelled_request_ends_soon(serve: Callable[..., Any], drip: Callable[..., Any]) -> None:
    server = serve(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"))
    _timed(
        _client(), f"http://127.0.0.1:{server.port}/", "cancelled", sent=True, seconds=0.1, timeout=10,
        cancelled=lambda: bool(server.requests),
    )  # fmt: skip


def test_a_cancellation_that_cannot_be_asked_ends_the_request(
    serve: Callable[..., Any], drip: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"))

    def broken() -> bool:
        raise RuntimeError("no database")

    with pytest.raises(EgressFailed) as caught:
        _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=10, cancelled=broken)
    assert caught.value.kind == "cancelled"
    assert "no database" in caplog.text


@pytest.mark.parametrize("bad", [{"timeout": 0}, {"timeout": float("nan")}, {"timeout": float("inf")}, {"redirects": 4}, {"max_body": -1}])  # fmt: skip
def test_impossible_arguments_are_the_callers_mistake(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        _client().request("GET", "http://127.0.0.1/", **{"timeout": 1, **bad})


def test_a_cancellation_ends_a_hanging_lookup(connects: list[Any]) -> None:
    over = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        over.wait(20)
        return ["127.0.0.1"]

    client = SafeClient(LOCAL, resolver=hang)
    _timed(
        client,
        "http://hook.example/",
        "cancelled",
        sent=False,
        seconds=0.1,
        timeout=10,
        cancelled=lambda: True,
    )
    over.set()
    assert connects == []


def test_lookups_that_hang_are_bounded_and_the_next_one_still_ends_in_time() -> None:
    over, running = threading.Event(), []

    def hang(host: str, port: int) -> list[str]:
        running.append(host)
        over.wait(20)
        return ["127.0.0.1"]

    client = SafeClient(LOCAL, resolver=hang)
    failures: list[str] = []

    def ask() -> None:
        with pytest.raises(EgressFailed) as caught:
            client.request("GET", "http://hook.example/", timeout=0.3)
        failures.append(caught.value.kind)

    threads = [threading.Thread(target=ask) for _ in range(MAX_LOOKUPS + 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert failures == ["timeout"] * len(threads)
    assert len(running) == MAX_LOOKUPS
    over.set()
    until = time.monotonic() + 5
    while any(thread.name == "medic-egress-lookup" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_gate_that_takes_too_long_is_told_as_not_sent(
    serve: Callable[..., Any], drip: Callable[..., Any]
) -> None:
    server = serve(drip(b"", b""))
    gate = threading.Event()
    url = f"http://127.0.0.1:{server.port}/"
    _timed(
        _client(), url, "timeout", sent=False, seconds=0.5, timeout=0.2, before_send=lambda: gate.wait(0.5)
    )
    assert server.closed_empty.wait(5)
