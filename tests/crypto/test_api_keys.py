from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.crypto.api_keys import PATTERN, RANDOM_BYTES, digest, matches, mint, parse

PEPPER = b"p" * 32
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(RANDOM)
def test_a_minted_key_has_the_published_shape_and_parses_to_its_id(random: bytes) -> None:
    key = mint(random=random)
    text = key.text.get_secret_value()
    assert re.fullmatch(PATTERN, text)
    assert parse(text) == key.public_id == text[4:16]


def test_a_key_is_the_same_for_the_same_random_bytes_for_ever() -> None:
    # Keys that were given out must still parse after any change of this module.
    key = mint(random=bytes(range(RANDOM_BYTES)))
    assert key.text.get_secret_value() == "mdk_OxR816N56NAd_iUPCkeK8fsOOHCGbYdCUyWx6xd2ivh2D4GKl9r"


@given(RANDOM, st.data())
def test_one_changed_character_fails_without_a_lookup(random: bytes, data: st.DataObject) -> None:
    text = mint(random=random).text.get_secret_value()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="latin-1").filter(lambda char: char != text[place]))
    assert parse(text[:place] + other + text[place + 1 :]) is None


@given(st.text())
def test_no_text_makes_the_parser_raise(text: str) -> None:
    assert parse(text) is None
    assert parse("mdk_" + text) is None


def test_a_line_end_or_a_foreign_digit_is_no_key() -> None:
    text = mint(random=secrets.token_bytes(RANDOM_BYTES)).text.get_secret_value()
    assert parse(text + "\n") is None
    assert parse(text.replace(text[20], "٣")) is None


def test_a_session_is_not_taken_for_an_api_key() -> None:
    session = mint("mds", random=secrets.token_bytes(RANDOM_BYTES))
    text = session.text.get_secret_value()
    assert text.startswith("mds_")
    assert parse(text) is None
    assert parse(text, kind="mds") == session.public_id


def test_a_key_does_not_print_itself() -> None:
    key = mint(random=secrets.token_bytes(RANDOM_BYTES))
    assert key.text.get_secret_value() not in f"{key} {key!r}"


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="random"):
        mint(random=b"short")


def test_ids_and_secrets_of_many_keys_differ() -> None:
    keys = [mint(random=secrets.token_bytes(RANDOM_BYTES)) for _ in range(300)]
    assert len({key.public_id for key in keys}) == 300
    assert len({key.text.get_secret_value()[17:49] for key in keys}) == 300


def test_the_digest_is_hmac_sha_256_of_the_whole_key() -> None:
    text = mint(random=secrets.token_bytes(RANDOM_BYTES)).text.get_secret_value()
    assert digest(PEPPER, text) == hmac.new(PEPPER, text.encode(), hashlib.sha256).digest()


def test_a_key_matches_its_digest_under_its_pepper_only() -> None:
    text = mint(random=secrets.token_bytes(RANDOM_BYTES)).text.get_secret_value()
    other = mint(random=secrets.token_bytes(RANDOM_BYTES)).text.get_secret_value()
    stored = digest(PEPPER, text)
    assert matches(PEPPER, text, stored)
    assert not matches(b"q" * 32, text, stored)
    assert not matches(PEPPER, other, stored)
    assert not matches(PEPPER, text, stored[:-1])


def test_an_unknown_id_never_matches() -> None:
    assert not matches(PEPPER, "anything", None)
    assert not matches(PEPPER, "anything", bytes(32))
    assert not matches(PEPPER, "\udcff", None)


def test_a_short_pepper_is_refused() -> None:
    with pytest.raises(ValueError, match="pepper"):
        digest(b"short", "text")
