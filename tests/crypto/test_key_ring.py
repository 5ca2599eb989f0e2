from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from medic.crypto.key_ring import KeyRing
from medic.errors import Misconfigured

ONE, TWO = bytes(range(32)), bytes(range(220, 252))


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def ring(value: str) -> KeyRing:
    return KeyRing.parse(SecretStr(value))


def test_one_key_alone_is_the_primary_one() -> None:
    keys = ring(text(ONE))
    assert keys.key(keys.primary) == ONE


def test_the_first_of_several_is_the_primary_one_and_all_are_found() -> None:
    keys = ring(f" 2026b:{text(TWO)} , 2026a:{text(ONE)}")
    assert keys.primary == "2026b"
    assert (keys.key("2026b"), keys.key("2026a")) == (TWO, ONE)


def test_a_key_that_gets_a_name_later_is_still_found_under_the_old_one() -> None:
    alone = ring(text(ONE)).primary
    assert ring(f"new:{text(TWO)},old:{text(ONE)}").key(alone) == ONE


def test_both_alphabets_of_base64_are_read_with_or_without_padding() -> None:
    key = b"\xff\xfe" * 16
    for written in (base64.b64encode(key), base64.urlsafe_b64encode(key)):
        assert ring(written.decode()).key(ring(written.decode()).primary) == key
        assert ring(written.decode().rstrip("=")).primary == ring(written.decode()).primary


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("", "key 1"),
        ("hunter2hunter2", "key 1"),
        (f"a:{text(ONE)},b:hunter2hunter2", "key 2"),
        (f"a:{text(ONE)},a:{text(TWO)}", "key 2"),
        (f"a:{text(ONE)},", "key 2"),
        (f"hunter2 hunter2:{text(ONE)}", "key 1"),
        (f":{text(ONE)}", "key 1"),
        (text(ONE + b"x"), "key 1"),
        (text(ONE[:16]), "key 1"),
        ("ä" * 43, "key 1"),
    ],
)
def test_a_wrong_ring_is_refused_with_its_place_and_without_its_value(value: str, where: str) -> None:
    with pytest.raises(Misconfigured, match=where) as caught:
        ring(value)
    assert "MEDIC_SECRETS_KEY" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert text(ONE) not in str(caught.value)


@given(st.text())
def test_no_text_makes_the_parser_fail_otherwise(value: str) -> None:
    with suppress(Misconfigured):
        assert ring(value).primary


def test_a_missing_key_is_named() -> None:
    with pytest.raises(Misconfigured, match="'gone'"):
        ring(text(ONE)).key("gone")


def test_a_ring_does_not_print_its_keys() -> None:
    keys = ring(f"a:{text(ONE)}")
    assert repr(ONE) not in repr(keys)
    assert repr(keys) == "KeyRing(primary='a')"
