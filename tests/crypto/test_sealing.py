from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from medic.crypto.key_ring import KeyRing
from medic.crypto.sealing import (
    Binding,
    SealBroken,
    check_canary,
    key_id,
    rewrap,
    seal,
    seal_canary,
    unseal,
)
from medic.errors import Misconfigured

A, B = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
RING = KeyRing.parse(SecretStr(f"a:{A}"))
BOTH = KeyRing.parse(SecretStr(f"b:{B},a:{A}"))
NEW = KeyRing.parse(SecretStr(f"b:{B}"))
HERE = Binding(table="secret", id="7", name="OPS_TOKEN", version=3)
VALUE = SecretStr("hunter2hunter2")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(value: str) -> None:
    assert unseal(RING, seal(RING, SecretStr(value), HERE), HERE).get_secret_value() == value


def test_an_envelope_of_the_first_release_still_opens() -> None:
    envelope = bytes.fromhex(
        "76310161009b1f574a1b69230ae1e747834e9f6ef5342a6813a1e14f95895088aabefacb0c7c7d70c89d365c2b"
        "02463ba39d5e7d0875c49fa311de4d8933383bedc084286c9a0d610fe059c4cb9db29fc364e64c05cabddf8b61"
        "2748a9129e643f9b53cdc46d5fe5037b"
    )
    assert unseal(RING, envelope, HERE) == VALUE


def test_two_seals_of_one_value_have_nothing_in_common_but_the_header() -> None:
    one, two = seal(RING, VALUE, HERE), seal(RING, VALUE, HERE)
    assert one[:4] == two[:4] == b"v1\x01a"
    assert one[4:16] != two[4:16]
    assert one[64:76] != two[64:76]
    assert VALUE.get_secret_value().encode() not in one


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(HERE, table="target"),
        replace(HERE, id="8"),
        replace(HERE, name="OPS_TOKEN2"),
        replace(HERE, version=4),
        # Moved over the border of two parts: must not read the same.
        replace(HERE, id="7O", name="PS_TOKEN"),
        replace(HERE, name="OPS_TOKEN3", version=0),
    ],
)
def test_an_envelope_that_was_moved_does_not_open(elsewhere: Binding) -> None:
    envelope = seal(RING, VALUE, HERE)
    with pytest.raises(SealBroken, match="changed or moved") as caught:
        unseal(RING, envelope, elsewhere)
    assert "hunter2" not in str(caught.value)


def test_no_changed_byte_goes_unseen() -> None:
    envelope = seal(RING, VALUE, HERE)
    for place in range(len(envelope)):
        changed = bytearray(envelope)
        changed[place] ^= 0x01
        # A changed key name is a key that the ring does not have.
        with pytest.raises((SealBroken, Misconfigured)):
            unseal(RING, bytes(changed), HERE)


def test_no_shortened_or_lengthened_envelope_opens() -> None:
    envelope = seal(RING, VALUE, HERE)
    for length in range(len(envelope)):
        with pytest.raises(SealBroken):
            unseal(RING, envelope[:length], HERE)
    with pytest.raises(SealBroken):
        unseal(RING, envelope + b"\0", HERE)


@given(st.binary(max_size=200))
def test_no_bytes_open_or_make_another_error(junk: bytes) -> None:
    for envelope in (junk, b"v1" + junk, b"v1\x01a" + junk):
        with pytest.raises((SealBroken, Misconfigured)):
            unseal(RING, envelope, HERE)


def test_an_unknown_key_is_named_and_nothing_is_opened() -> None:
    with pytest.raises(Misconfigured, match="'a'"):
        unseal(NEW, seal(RING, VALUE, HERE), HERE)


def test_keys_change_without_the_values() -> None:
    old = seal(RING, VALUE, HERE)
    new = rewrap(BOTH, old, HERE)
    assert (key_id(old), key_id(new)) == ("a", "b")
    # The value's own ciphertext is untouched, and the old key is not needed any more.
    assert new.endswith(old[64:])
    assert unseal(NEW, new, HERE) == VALUE
    assert rewrap(BOTH, new, HERE) is new


def test_a_damaged_or_moved_envelope_is_not_rewrapped() -> None:
    old = seal(RING, VALUE, HERE)
    with pytest.raises(SealBroken):
        rewrap(BOTH, old, replace(HERE, id="8"))
    with pytest.raises(SealBroken):
        rewrap(BOTH, old[:20] + bytes([old[20] ^ 1]) + old[21:], HERE)


def test_the_canary_lets_the_right_keys_start() -> None:
    check_canary(RING, seal_canary(RING))
    check_canary(BOTH, seal_canary(RING))


def test_the_canary_stops_wrong_keys() -> None:
    impostor = KeyRing.parse(SecretStr(f"a:{B}"))
    for ring in (impostor, NEW):
        with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
            check_canary(ring, seal_canary(RING))
    with pytest.raises(Misconfigured, match="set the key it had"):
        check_canary(RING, b"not an envelope")
