"""Secrets in the database: sealed, by version, and opened by the right key only."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from medic import vault
from medic.audit import Actor
from medic.crypto.key_ring import KeyRing
from medic.crypto.sealing import SealBroken
from medic.db import in_transaction
from medic.errors import Invalid, Misconfigured

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ACTOR = Actor("key", "abc")
ONE = base64.b64encode(b"1" * 32).decode()
TWO = base64.b64encode(b"2" * 32).decode()


def ring(written: str = ONE) -> KeyRing:
    return KeyRing.parse(SecretStr(written))


def put(engine: Engine, value: str, name: str = "TOKEN", keys: KeyRing | None = None) -> int:
    return in_transaction(
        engine,
        lambda s: vault.put(s, keys or ring(), name=name, value=SecretStr(value), actor=ACTOR, now=NOW),
    )


def reveal(engine: Engine, name: str = "TOKEN", keys: KeyRing | None = None) -> str:
    return in_transaction(engine, lambda s: vault.reveal(s, keys or ring(), name)).get_secret_value()


def check(engine: Engine, keys: KeyRing) -> None:
    in_transaction(engine, lambda s: vault.check_key(s, keys))


def test_the_newest_value_is_revealed(engine: Engine) -> None:
    assert put(engine, "first-value") == 1
    assert put(engine, "second-välue") == 2
    assert reveal(engine) == "second-välue"


def test_a_value_is_there_for_the_same_transaction(engine: Engine) -> None:
    put(engine, "first-value")

    def both(session: object) -> str:
        vault.put(session, ring(), name="TOKEN", value=SecretStr("second-value"), actor=ACTOR, now=NOW)  # type: ignore[arg-type]
        return vault.reveal(session, ring(), "TOKEN").get_secret_value()  # type: ignore[arg-type]

    assert in_transaction(engine, both) == "second-value"


def test_nothing_of_a_value_is_in_the_database(engine: Engine) -> None:
    put(engine, "correct-horse-battery")
    with engine.connect() as connection:
        for table in ("secrets", "secret_versions", "audit_entries"):
            row = str(connection.execute(text(f"SELECT t::text FROM {table} t")).scalar())
            assert "correct-horse" not in row
            assert b"correct-horse".hex() not in row


def test_another_key_does_not_open_it(engine: Engine) -> None:
    put(engine, "first-value")
    with pytest.raises(Misconfigured):
        reveal(engine, keys=ring(TWO))
    with pytest.raises((Misconfigured, SealBroken)):
        reveal(engine, keys=ring(f"{ring().primary}:{TWO}"))


def test_a_sealed_value_moved_to_another_secret_does_not_open(engine: Engine) -> None:
    put(engine, "first-value", "A_TOKEN")
    put(engine, "other-value", "B_TOKEN")
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE secret_versions SET sealed = (SELECT sealed FROM secret_versions LIMIT 1)")
        )
    opened = 0
    for name in ("A_TOKEN", "B_TOKEN"):
        try:
            reveal(engine, name)
            opened += 1
        except SealBroken:
            pass
    assert opened == 1


def test_a_secret_that_is_not_there_says_what_to_do(engine: Engine) -> None:
    with pytest.raises(Invalid, match="medic secret set NOPE"):
        reveal(engine, "NOPE")


def test_a_short_value_is_refused_and_not_repeated(engine: Engine) -> None:
    with pytest.raises(Invalid) as caught:
        put(engine, "ab")
    assert "ab" not in str(caught.value).split()


def test_versions_set_at_once_are_numbered_one_by_one(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda n: put(engine, f"value-number-{n}"), range(8)))
    assert sorted(versions) == list(range(1, 9))
    assert reveal(engine) == f"value-number-{versions.index(8)}"


def test_the_first_key_is_taken_and_later_the_same_one_is_right(engine: Engine) -> None:
    check(engine, ring(ONE))
    check(engine, ring(ONE))
    check(engine, ring(f"main:{ONE}"))  # the same key by a name


def test_a_wrong_key_stops_the_start(engine: Engine) -> None:
    check(engine, ring(ONE))
    with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
        check(engine, ring(TWO))
    with pytest.raises(Misconfigured):
        check(engine, ring(f"{ring().primary}:{TWO}"))
    check(engine, ring(ONE))


def test_a_key_is_rotated_by_adding_the_new_one_in_front(engine: Engine) -> None:
    check(engine, ring(ONE))
    put(engine, "first-value")
    both = ring(f"new:{TWO},{ONE}")
    check(engine, both)
    assert reveal(engine, keys=both) == "first-value"
    with pytest.raises(Misconfigured):
        check(engine, ring(f"new:{TWO}"))  # the old one still seals a secret
    put(engine, "second-value", keys=both)
    check(engine, ring(f"new:{TWO}"))
    assert reveal(engine, keys=ring(f"new:{TWO}")) == "second-value"


def test_each_version_is_in_the_audit_log(engine: Engine) -> None:
    put(engine, "first-value")
    put(engine, "second-value")
    with engine.connect() as connection:
        entries = connection.execute(
            text("SELECT action, object_id, detail FROM audit_entries ORDER BY id")
        ).all()
    assert entries == [("secret.set", "TOKEN", {"version": 1}), ("secret.set", "TOKEN", {"version": 2})]


def test_secrets_are_listed_by_name(engine: Engine) -> None:
    for name in ("B_TOKEN", "A_TOKEN", "C_TOKEN"):
        put(engine, "some-value", name)
    names = in_transaction(engine, lambda s: [row.name for row in vault.page(s, after="A_TOKEN", limit=1)])
    assert names == ["B_TOKEN"]
