from __future__ import annotations

import json
import string
import time
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medic.telemetry.redaction import HIDDEN, MAX_TEXT, is_secret_name, redact, redact_fields, redact_url

KEY = "mdk_0123456789ab_" + "Zz9" * 12 + "Qq"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"used {KEY} today", "Zz9Zz9"),
        ("signed with whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "C2FV"),
        ("Authorization: Bearer abc.def-123", "abc.def"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNl"),
        ("{'Authorization': 'Token 8f3a'}", "8f3a"),
        ("headers (b'Authorization', b'opaque')", "opaque"),
        ("sent Bearer eyJhbGciOi.x1", "eyJh"),
        ("postgresql://medic:s3cr3t@db:5432/medic", "s3cr3t"),
        ("redis://:hunter2@cache/0", "hunter2"),
        ("https://u:p@ss@host/x", "p@ss"),
        ("dsn host=db password=hunter2 user=x", "hunter2"),
        ("GET /x?a=1&api_key=hunter2&b=2", "hunter2"),
        ('{"client_secret": "hunter2"}', "hunter2"),
        ("slack said no to xoxb-1234-abcd", "1234"),
        ("POST https://hooks.slack.com/services/T0/B0/XyZ failed", "XyZ"),
        ("GET /ping/6d1c8ab2-6f41-4d0c-9a54-1f0d9b7e6a11/start", "6d1c"),
        ("POST /v1/hooks/0123456789abcdef", "0123456789abcdef"),
        ("(psycopg2.Error) x [SQL: INSERT] [parameters: {'body': 'hunter2'}]", "hunter2"),
        ("DETAIL:  Failing row contains (1, hunter2, null).", "hunter2"),
    ],
)
def test_a_credential_in_a_text_is_hidden(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redact(text)
    assert HIDDEN in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "alert.opened",
        "the bearer token is missing",
        "basic authentication failed",
        "http://127.0.0.1:8080/v1/services?tag=a@b",
        "listening at :::8080, mail ops@example.com",
        "Unexpected token: {",
        "see /ping/start and /hooks/",
    ],
)
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_key_keeps_the_public_id_that_tells_which_one_to_revoke() -> None:
    assert redact(KEY) == f"mdk_0123456789ab_{HIDDEN}"


@given(
    before=st.text(max_size=40),
    public=st.text(string.ascii_letters + string.digits, min_size=12, max_size=12),
    secret=st.text(string.ascii_letters + string.digits, min_size=38, max_size=38),
    after=st.text(max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_no_surrounding_text_saves_a_key(before: str, public: str, secret: str, after: str) -> None:
    assume(secret not in before + after)
    assert secret not in redact(f"{before}mdk_{public}_{secret}{after}")


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "://",
        "://a:",
        "authorization",
        "authorization:",
        "bearer ",
        "token=",
        "/ping/",
        "mdk_",
        "[parameters: ",
        " ",
    ],
)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started < 3.0


def test_a_long_text_is_cut_after_its_secrets_are_gone() -> None:
    text = "x" * (MAX_TEXT - 20) + " " + KEY + "y" * 50
    cut = redact(text)
    assert len(cut) < MAX_TEXT + 30
    assert "Zz9" not in cut


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "apiKey",
        "API_KEY",
        "X-Webhook-Secret",
        "token",
        "routing_key",
        "Authorization",
        "cookie",
    ],
)
def test_a_field_that_holds_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)
    assert redact_fields({"outer": {name: ["x", "y"]}}) == {"outer": {name: HIDDEN}}


@pytest.mark.parametrize(
    "name", ["key_id", "token_count", "secret_name", "monkey", "keyboard", "service", ""]
)
def test_a_field_that_only_sounds_like_one_is_kept(name: str) -> None:
    assert not is_secret_name(name)


def test_whether_a_secret_is_set_may_be_told() -> None:
    assert redact_fields({"token": None, "password": True, "key": 5}) == {
        "token": None,
        "password": True,
        "key": HIDDEN,
    }


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@given(_ANY)
@settings(max_examples=100, deadline=None)
def test_whatever_is_logged_becomes_strict_json(value: object) -> None:
    json.loads(json.dumps(redact_fields(value), allow_nan=False))


def test_values_that_json_does_not_know_become_text() -> None:
    class Rude:
        def __str__(self) -> str:
            raise RuntimeError("no")

    at = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    assert redact_fields({"at": at, "rude": Rude(), "raw": b"Bearer abcdef12"}) == {
        "at": "2026-11-23T09:30:00Z",
        "rude": "<unprintable Rude>",
        "raw": f"Bearer {HIDDEN}",
    }


def test_a_bottomless_value_is_left_out_below_eight_levels() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "[deeper]" in json.dumps(redact_fields(loop))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@ops.example.com:8443/secret?x=1", "https://ops.example.com:8443/[redacted]"),
        ("http://[::1]:80/a", "http://[::1]:80/[redacted]"),
        ("https://ops.example.com", "https://ops.example.com"),
        ("https://ops.example.com/", "https://ops.example.com/"),
        ("https://ops.example.com?token=x", "https://ops.example.com/[redacted]"),
        ("http://[broken", HIDDEN),
        ("/only/a/path", HIDDEN),
    ],
)
def test_a_url_is_shown_without_what_may_hold_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown
