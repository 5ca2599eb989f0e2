"""The safe client against real servers: what goes out, and what comes back."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from medic.egress import AllowList, SafeClient
from medic.errors import EgressFailed

LOCAL = AllowList.parse(["127.0.0.1", "hook.example"])


def _client(**kwargs: Any) -> SafeClient:
    return SafeClient(LOCAL, **kwargs)


def _raw(data: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda sock, request: sock.sendall(data)


# --- an ordinary exchange


def test_a_request_arrives_whole_and_its_answer_comes_back(
    serve: Callable[..., Any], reply: Callable[..., Any]
) -> None:
    server = serve(reply("201 Created", b'{"ok":true}', X_Run="7"))
    answer = _client().request(
        "post", f"http://127.0.0.1:{server.port}/a?b=c", headers={"X-Token": "t"}, body=b"{}", timeout=5
    )
    assert (answer.status, answer.body, answer.truncated) == (201, b'{"ok":true}', False)
    assert answer.headers["x-run"] == "7"
    assert 0 < answer.elapsed < 5
    assert answer.url == f"http://127.0.0.1:{server.port}/a?b=c"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], body) == (b"POST /a?b=c HTTP/1.1", b"{}")
    fields = sorted(line.lower() for line in lines[1:])
    assert fields[0] == b"accept-encoding: identity"
    assert b"host: 127.0.0.1:%d" % server.port in fields
    assert {b"connection: close", b"content-length: 2", b"x-token: t"} <= set(fields)
    assert b"user-agent: medic/" in head.lower()


def test_repeated_fields_are_joined(serve: Callable[..., Any]) -> None:
    server = serve(_raw(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"))
    assert _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5).headers["x-a"] == "1, 2"


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "500 Oops"])
def test_every_status_is_an_answer(serve: Callable[..., Any], reply: Callable[..., Any], status: str) -> None:
    server = serve(reply(status))
    assert _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5).status == int(status[:3])


def test_an_answer_does_not_print_what_may_be_secret(
    serve: Callable[..., Any], reply: Callable[..., Any]
) -> None:
    server = serve(reply(body=b"hunter2", X_Key="hunter2"))
    answer = _client().request("GET", f"http://127.0.0.1:{server.port}/hunter2", timeout=5)
    assert "hunter2" not in repr(answer)


def test_informational_answers_are_skipped(serve: Callable[..., Any]) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    server = serve(_raw(early + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    answer = _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5)
    assert (answer.status, answer.body, "link" in answer.headers) == (200, b"ok", False)


def test_an_early_answer_is_read_though_the_request_was_not(serve: Callable[..., Any]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(1024)
            peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65_536):
                pass

    thread = threading.Thread(target=refuse)
    thread.start()
    with listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert _client().request("POST", url, body=b"x" * 4_000_000, timeout=10).status == 413
    thread.join(5)


def test_threads_share_a_client(serve: Callable[..., Any], reply: Callable[..., Any]) -> None:
    server = serve(reply(body=b"ok"))
    client, answers = _client(), []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                client.request("GET", f"http://127.0.0.1:{server.port}/", timeout=10).body
            )
        )
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert answers == [b"ok"] * 16
    assert server.accepted == 16


def test_no_thread_and_no_descriptor_is_left_behind(
    serve: Callable[..., Any], reply: Callable[..., Any]
) -> None:
    import psutil

    server = serve(reply(body=b"ok"))
    process = psutil.Process()
    _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5)

    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("medic-egress")]

    before = process.num_fds()
    for _ in range(30):
        _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5)
    until = time.monotonic() + 5
    while (process.num_fds() > before + 3 or ours()) and time.monotonic() < until:
        time.sleep(0.01)  # the server's threads close their ends on their own
    assert process.num_fds() <= before + 3
    assert ours() == []


# --- whether it was sent


def test_the_gate_opens_once_right_before_the_first_byte(
    serve: Callable[..., Any], reply: Callable[..., Any]
) -> None:
    server = serve(reply())
    seen: list[tuple[int, int]] = []

    def gate() -> None:
        seen.append((server.accepted, len(server.requests)))

    _client().request("POST", f"http://127.0.0.1:{server.port}/", body=b"x", timeout=5, before_send=gate)
    assert len(seen) == 1
    assert seen[0][1] == 0


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    "error", [RuntimeError("lease lost"), OSError("lease lost"), TimeoutError("lease lost")]
)
def test_a_gate_that_raises_lets_no_byte_leave(
    serve: Callable[..., Any], reply: Callable[..., Any], authority: Any, secure: bool, error: Exception
) -> None:
    server = serve(reply(), authority.server("127.0.0.1") if secure else None)
    client = _client(ca_file=authority.file)

    def gate() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        client.request(
            "POST", f"http{'s' * secure}://127.0.0.1:{server.port}/", body=b"x", timeout=5, before_send=gate
        )
    assert caught.value is error
    assert server.closed_empty.wait(5)
    assert server.requests == []


def test_a_closed_port_and_an_unknown_name_are_told_as_not_sent(names: type[Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://hook.example/"):
        with pytest.raises(EgressFailed) as caught:
            SafeClient(LOCAL, resolver=names(**{"127_0_0_1": [["127.0.0.1"]]})).request("GET", url, timeout=5)
        assert (caught.value.kind, caught.value.sent) == ("connect", False)


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", b"HTTP/1.1 abc OK\r\n\r\n"],
)  # fmt: skip
def test_a_broken_answer_is_told_as_sent(
    serve: Callable[..., Any], answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(_raw(answer))
    with pytest.raises(EgressFailed) as caught:
        _client().request("GET", f"http://127.0.0.1:{server.port}/s3cret", timeout=5)
    assert (caught.value.kind, caught.value.sent) == ("protocol", True)
    assert server.accepted == 1
    assert "s3cret" not in caplog.text


# --- caps


def test_a_body_is_cut_at_what_the_caller_keeps(serve: Callable[..., Any], reply: Callable[..., Any]) -> None:
    server = serve(reply(body=b"x" * 100_000))
    for keep, cut in ((0, True), (10, True), (99_999, True), (100_000, False), (1 << 20, False)):
        answer = _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5, max_body=keep)
        assert (len(answer.body), answer.truncated) == (min(keep, 100_000), cut)


def test_an_endless_body_is_left_at_one_mebibyte(serve: Callable[..., Any]) -> None:
    written = 0

    def flood(sock: socket.socket, request: bytes) -> None:
        nonlocal written
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            written += sock.send(b"x" * 65_536)

    server = serve(flood)
    answer = _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=10)
    assert (answer.status, len(answer.body), answer.truncated) == (200, 65_536, True)
    server.close()
    assert written < 32 << 20


def test_a_compressed_body_counts_decoded(serve: Callable[..., Any], reply: Callable[..., Any]) -> None:
    server = serve(reply(body=gzip.compress(b"x" * 50_000_000), Content_Encoding="gzip"))
    answer = _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=10, max_body=1000)
    assert (answer.body, answer.truncated) == (b"x" * 1000, True)


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"a" * 70_000, b"\r\n".join(b"X-%d: " % n + b"a" * 1000 for n in range(90)),
     b"\r\n".join(b"X-%d: a" % n for n in range(200))],
)  # fmt: skip
def test_a_huge_header_is_refused(serve: Callable[..., Any], head: bytes) -> None:
    server = serve(_raw(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n"))
    with pytest.raises(EgressFailed) as caught:
        _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=5)
    assert (caught.value.kind, caught.value.sent) == ("too_large", True)


def test_endless_informational_answers_are_refused(serve: Callable[..., Any]) -> None:
    def flood(sock: socket.socket, request: bytes) -> None:
        while True:
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 100)

    server = serve(flood)
    with pytest.raises(EgressFailed) as caught:
        _client().request("GET", f"http://127.0.0.1:{server.port}/", timeout=10)
    assert caught.value.kind == "too_large"
