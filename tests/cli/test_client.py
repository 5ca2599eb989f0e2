"""The client against a server that misbehaves."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from medic.cli.client import Client, is_loopback, part, refusal
from medic.client.address import Address, Key
from medic.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Malformed,
    MedicError,
    NotFound,
    PreconditionFailed,
    Problem,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

KEY = "mdk_012345678901_secret"


def client(url: str, **more: float) -> Client:
    return Client(Address(url, Key(KEY)), **more)


def test_a_call_says_the_key_and_gives_the_body_and_the_etag(canned: Any) -> None:
    canned.answer(200, {"name": "a"}, ETag='"7"')
    reply = client(canned.url).call(
        "PUT", "/v1/services/a", json={"x": 1}, params={"a": None}, if_match='"6"'
    )
    assert (reply.status, reply.body, reply.etag) == (200, {"name": "a"}, '"7"')
    method, path, headers, body = canned.requests[0]
    assert (method, path, body) == ("PUT", "/v1/services/a", b'{"x": 1}')
    assert (headers["Authorization"], headers["If-Match"]) == (f"Bearer {KEY}", '"6"')
    assert headers["User-Agent"].startswith("medic/")


def test_a_redirect_is_not_followed_with_the_key(canned: Any) -> None:
    canned.answer(307, b"", Location=f"{canned.url}/elsewhere")
    with pytest.raises(Unavailable, match=r"sends its callers on to .*/elsewhere"):
        client(canned.url).get("/v1/services")
    assert len(canned.requests) == 1


def test_a_proxy_is_not_asked_for_loopback(canned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        canned.answer(200, {})
        assert client(canned.url).get("/v1/stop") == {}


def test_a_netrc_puts_no_other_credentials_in_place_of_the_key(
    canned: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("default login other password other\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    canned.answer(200, {})
    asking = client(canned.url)
    asking._session.trust_env = True  # as it is for a server that is not on loopback
    asking.get("/v1/stop")
    assert canned.requests[0][2]["Authorization"] == f"Bearer {KEY}"


def test_nobody_there_is_away(canned: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"cannot be reached \(Connection refused\)"):
            client(url).get("/v1/services")


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            client(f"http://127.0.0.1:{silent.getsockname()[1]}", read_s=0.2).get("/v1/services")
        assert time.monotonic() - began < 5


def test_what_is_no_json_is_not_medic(canned: Any) -> None:
    canned.answer(200, b"<html>Welcome</html>")
    with pytest.raises(Unavailable, match="answered 200, but not as Medic does"):
        client(canned.url).get("/v1/services")


def test_a_list_is_read_page_by_page_until_there_is_enough(canned: Any) -> None:
    canned.answer(200, {"items": [{"id": n} for n in range(250)], "next": "249"})
    canned.answer(200, {"items": [{"id": n} for n in range(250, 260)], "next": "259"})
    listed = client(canned.url).items("/v1/services", limit=260, status="up")
    assert ([item["id"] for item in listed.items], listed.has_more) == (list(range(260)), True)
    assert [path for _, path, _, _ in canned.requests] == [
        "/v1/services?status=up&limit=250",
        "/v1/services?status=up&limit=10&after=249",
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Malformed), (401, Unauthenticated), (403, Forbidden), (404, NotFound), (409, Conflict),
        (412, PreconditionFailed), (413, TooLarge), (418, MedicError), (422, Invalid), (429, Throttled),
        (500, MedicError), (502, Unavailable), (503, Unavailable),
    ],
)  # fmt: skip
def test_a_problem_becomes_the_error_that_it_was(status: int, kind: type[MedicError]) -> None:
    error = refusal(status, {"detail": "so it is", "request_id": "r1"})
    assert type(error) is kind
    assert error.message.startswith("so it is")
    assert ("r1" in error.message) == (status == 500)


def test_each_wrong_field_is_kept_with_its_place() -> None:
    problems = [
        {"path": "steps[0].url", "message": "is wrong", "line": 3, "column": 5},
        {"path": "name", "message": "x"},
    ]
    error = refusal(422, {"detail": "2 things", "problems": problems})
    assert isinstance(error, Invalid)
    assert error.problems == (Problem("steps[0].url", "is wrong", 3, 5), Problem("name", "x"))


def test_a_refusal_does_not_steer_the_terminal() -> None:
    error = refusal(422, {"detail": "\x1b[2Jgone", "problems": [{"path": "a\x07", "message": "\x1b]0;x"}]})
    assert isinstance(error, Invalid)
    assert error.message == "\\x1b[2Jgone"
    assert error.problems == (Problem("a\\x07", "\\x1b]0;x"),)


@pytest.mark.parametrize("body", [None, [], "text", {}, {"detail": None}])
def test_a_refusal_of_a_strange_shape_is_still_one(body: Any) -> None:
    assert refusal(404, body).message == "The server answered 404."


def test_a_key_that_would_split_the_header_is_never_sent() -> None:
    with pytest.raises(Unauthenticated, match="characters that no key has"):
        Client(Address("http://127.0.0.1:1", Key("mdk_a\r\nX: y")))


def test_a_part_cannot_leave_its_place_in_the_path() -> None:
    assert part("a/../b?c#d") == "a%2F..%2Fb%3Fc%23d"


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://127.0.0.1:1", True), ("http://[::1]", True), ("http://localhost", True),
     ("http://a.localhost", True), ("http://localhost.example", False), ("http://10.0.0.1", False)],
)  # fmt: skip
def test_loopback_is_told_by_the_url_alone(url: str, here: bool) -> None:
    assert is_loopback(url) is here
