"""The functions that judge a URL where it is entered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medic import settings
from medic.egress import (
    AllowList,
    InvalidURLError,
    SafeClient,
    get_allowed_hosts,
    is_private_ip,
    is_safe_url,
    resolve_hostname,
    validate_url,
)
from medic.errors import Misconfigured


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("MEDIC_ALLOWED_WEBHOOK_HOSTS", raising=False)
    settings.current.cache_clear()
    yield monkeypatch
    settings.current.cache_clear()


def test_a_public_name_is_accepted_and_resolved_once(names: type[Any]) -> None:
    resolver = names(good_example=[["8.8.8.8"]])
    validate_url("https://good.example/hook", allow=AllowList(), resolver=resolver)
    assert resolver.calls == ["good.example"]


@pytest.mark.parametrize("answers", [["10.0.0.1"], ["8.8.8.8", "::1"], [], ["nonsense"]])
def test_a_name_without_public_addresses_is_refused_with_a_generic_text(
    names: type[Any], answers: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidURLError, match=r"^Invalid webhook URL$"):
        validate_url(
            "https://bad.example/?k=s3cret", allow=AllowList(), resolver=names(bad_example=[answers])
        )
    assert "bad.example" in caplog.text
    assert "s3cret" not in caplog.text


def test_an_unknown_name_is_refused_the_same_way(names: type[Any]) -> None:
    with pytest.raises(InvalidURLError, match=r"^Invalid webhook URL$"):
        validate_url("https://bad.example/", allow=AllowList(), resolver=names())


@pytest.mark.parametrize(
    "url", ["http://127.1/", "http://0x7f000001/", "http://[::1]/", "http://localhost/", "ftp://a/"]
)
def test_without_dns_the_text_and_literal_addresses_are_still_judged(url: str, names: type[Any]) -> None:
    resolver = names()
    with pytest.raises(InvalidURLError):
        validate_url(url, skip_dns_check=True, allow=AllowList(), resolver=resolver)
    validate_url("https://unknown.example/", skip_dns_check=True, allow=AllowList(), resolver=resolver)
    assert resolver.calls == []


def test_the_settings_decide_when_no_list_is_given(allowed: pytest.MonkeyPatch) -> None:
    assert get_allowed_hosts() == frozenset()
    assert not is_safe_url("http://127.0.0.1:9000/")
    assert is_safe_url("https://8.8.8.8/")
    settings.current.cache_clear()
    allowed.setenv("MEDIC_ALLOWED_WEBHOOK_HOSTS", "127.0.0.1, Ops.Example")
    assert get_allowed_hosts() == {"127.0.0.1", "ops.example"}
    assert is_safe_url("http://127.0.0.1:9000/")
    assert not is_safe_url("https://8.8.8.8/")
    settings.current.cache_clear()
    allowed.setenv("MEDIC_ALLOWED_WEBHOOK_HOSTS", "http://ops.example")
    with pytest.raises(Misconfigured, match="entry 1"):
        is_safe_url("https://8.8.8.8/")


@pytest.mark.parametrize(
    ("text", "private"),
    [("127.0.0.1", True), ("10.0.0.1", True), ("::1", True), ("fe80::1", True), ("0.0.0.0", True), ("169.254.169.254", True),
     ("8.8.8.8", False), ("2606:4700:4700::1111", False), ("not an address", True), ("", True)],
)  # fmt: skip
def test_whatever_is_not_public_counts_as_private(text: str, private: bool) -> None:
    assert is_private_ip(text) is private


def test_a_host_resolves_to_its_addresses_within_the_time(names: type[Any]) -> None:
    assert resolve_hostname("a.example", resolver=names(a_example=[["10.0.0.1", "::1", "10.0.0.1"]])) == [
        "10.0.0.1",
        "::1",
    ]
    assert resolve_hostname("127.0.0.1") == ["127.0.0.1"]
    for name in ("b.example", "a b", "\x00"):
        with pytest.raises(InvalidURLError):
            resolve_hostname(name, resolver=names())


def test_a_ca_file_without_certificates_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for file in ("empty.pem", "missing.pem"):
        with pytest.raises(Misconfigured, match="CA file"):
            SafeClient(AllowList(), ca_file=tmp_path / file)
