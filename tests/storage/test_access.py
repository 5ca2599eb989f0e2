"""API keys: who calls, and what they may do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic import access, services
from medic.access import CACHE_SECONDS, Keyring
from medic.audit import Actor
from medic.db import in_transaction, make_engine
from medic.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PEPPER = b"p" * 32
ACTOR = Actor("shell", "test")


class Clock:
    at = 100.0

    def __call__(self) -> float:
        return self.at


def make(engine: Engine, **rest: Any) -> tuple[str, str]:
    """A key's public id and its text."""
    given: dict[str, Any] = {"name": "ci", "scopes": ["heartbeats:write"], **rest}
    key_id, secret = in_transaction(
        engine, lambda s: access.create_key(s, pepper=PEPPER, actor=ACTOR, now=NOW, **given)
    )
    return key_id, secret.get_secret_value()


def test_a_key_that_was_made_is_known(engine: Engine) -> None:
    key_id, key = make(engine, scopes=["services:read", "heartbeats:write", "services:read"])
    caller = Keyring(engine, PEPPER).authenticate(key, now=NOW)
    assert (caller.key_id, caller.name) == (key_id, "ci")
    assert caller.scopes == {"heartbeats:write", "services:read"}
    caller.need("services:read")
    with pytest.raises(Forbidden, match="alerts:write"):
        caller.need("alerts:write")
    assert caller.may_touch("anything")


def test_the_scope_admin_is_every_scope(engine: Engine) -> None:
    _, key = make(engine, scopes=["admin"])
    caller = Keyring(engine, PEPPER).authenticate(key, now=NOW)
    for scope in access.SCOPES:
        caller.need(scope)


def test_neither_the_key_nor_its_secret_part_is_stored(engine: Engine) -> None:
    key_id, key = make(engine)
    with engine.connect() as connection:
        stored = str(connection.execute(text("SELECT k::text FROM api_keys k")).scalar())
        entries = str(connection.execute(text("SELECT e::text FROM audit_entries e")).scalar())
    secret_part = key.replace(key_id, "").removeprefix("mdk_").strip("_")
    assert key_id in stored
    assert key_id in entries
    assert secret_part not in stored + entries


@pytest.mark.parametrize(
    "wrong",
    [None, "", "mdk_", "nonsense", "mdk_abcdefABCDEF_x", "Bearer", "mdk_\x00", "é", "mdk_" + "x" * 200],
)
def test_what_is_no_key_is_refused(engine: Engine, wrong: str | None) -> None:
    with pytest.raises(Unauthenticated):
        Keyring(engine, PEPPER).authenticate(wrong)


def test_all_refusals_read_the_same(engine: Engine) -> None:
    _, key = make(engine)
    changed = key[:-8] + ("A" if key[-8] != "A" else "B") + key[-7:]
    texts = set()
    for ring, given in ((Keyring(engine, PEPPER), changed), (Keyring(engine, b"q" * 32), key)):
        with pytest.raises(Unauthenticated) as caught:
            ring.authenticate(given, now=NOW)
        texts.add(str(caught.value))
    in_transaction(engine, lambda s: s.execute(text("DELETE FROM api_keys")))
    with pytest.raises(Unauthenticated) as caught:
        Keyring(engine, PEPPER).authenticate(key, now=NOW)
    assert texts == {str(caught.value)}
    assert key not in str(caught.value)


def test_a_revoked_key_ends_within_five_seconds(engine: Engine) -> None:
    key_id, key = make(engine)
    clock = Clock()
    ring = Keyring(engine, PEPPER, clock=clock)
    ring.authenticate(key, now=NOW)
    in_transaction(engine, lambda s: access.revoke(s, key_id=key_id, actor=ACTOR, now=NOW))
    clock.at += CACHE_SECONDS - 0.01
    ring.authenticate(key, now=NOW)
    clock.at += 0.01
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=NOW)
    assert CACHE_SECONDS <= 5


def test_the_process_that_revokes_forgets_at_once(engine: Engine) -> None:
    key_id, key = make(engine)
    ring = Keyring(engine, PEPPER, clock=Clock())
    ring.authenticate(key, now=NOW)
    in_transaction(engine, lambda s: access.revoke(s, key_id=key_id, actor=ACTOR, now=NOW))
    ring.forget(key_id)
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=NOW)


def test_the_cache_holds_rows_and_never_verdicts(engine: Engine) -> None:
    _, key = make(engine, expires_at=NOW + timedelta(seconds=2))
    ring = Keyring(engine, PEPPER, clock=Clock())
    ring.authenticate(key, now=NOW + timedelta(seconds=1))
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=NOW + timedelta(seconds=2))
    with pytest.raises(Unauthenticated):
        ring.authenticate(key[:-8] + "AAAAAAAA", now=NOW)


def test_an_unknown_id_is_not_remembered(engine: Engine) -> None:
    key_id, key = make(engine)
    ring = Keyring(engine, PEPPER, clock=Clock())
    with engine.begin() as connection:
        row = connection.execute(text("DELETE FROM api_keys RETURNING digest, scopes")).one()
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=NOW)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO api_keys (id, name, digest, scopes, created_by, created_at)"
                 " VALUES (:id, 'ci', :digest, :scopes, 'me', now())"),
            {"id": key_id, "digest": row.digest, "scopes": row.scopes},
        )  # fmt: skip
    ring.authenticate(key, now=NOW)


def test_the_last_admin_key_is_not_revoked(engine: Engine) -> None:
    first, _ = make(engine, scopes=["admin"])
    make(engine, scopes=["admin"], expires_at=NOW + timedelta(seconds=1))
    later = NOW + timedelta(seconds=2)
    with pytest.raises(Conflict):
        in_transaction(engine, lambda s: access.revoke(s, key_id=first, actor=ACTOR, now=later))
    with pytest.raises(NotFound):
        in_transaction(engine, lambda s: access.revoke(s, key_id="0" * 12, actor=ACTOR, now=later))


def test_a_connection_that_died_in_the_pool_refuses_nobody(engine: Engine, database_url: str) -> None:
    _, key = make(engine)
    pooled = make_engine(database_url, pool_size=1)
    try:
        with pooled.connect() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        with engine.connect() as killer:
            assert killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar()
        assert Keyring(pooled, PEPPER).authenticate(key, now=NOW).name == "ci"
    finally:
        pooled.dispose()


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (["web-*"], "web-1", True),
        (["web-*"], "web", False),
        (["web-?"], "web-12", False),
        (["a", "b"], "b", True),
        (["a.b"], "axb", False),
        (["*"], "anything", True),
        ([], "web", False),
        (["*.*"], "a.b", True),
    ],
)
def test_a_narrowed_key_sees_and_touches_the_same_services(
    engine: Engine, patterns: list[str], name: str, allowed: bool
) -> None:
    _, key = make(engine, service_patterns=patterns)
    caller = Keyring(engine, PEPPER).authenticate(key, now=NOW)
    assert caller.may_touch(name) is allowed
    policy = services.Policy(every_s=60)
    in_transaction(engine, lambda s: services.create(s, name=name, policy=policy, actor=ACTOR, now=NOW))
    seen = in_transaction(
        engine, lambda s: services.page(s, after=None, limit=9, patterns=caller.service_patterns)
    )
    assert [service.name for service, _ in seen] == ([name] if allowed else [])
    counted = in_transaction(engine, lambda s: services.count(s, patterns=caller.service_patterns))
    assert counted == int(allowed)


@pytest.mark.parametrize("pattern", ["a|*", "[ab]", "a(", "", "a\n", "A", "a" * 129, "a\\", "a{1}"])
def test_a_pattern_that_is_no_glob_of_names_is_refused(engine: Engine, pattern: str) -> None:
    with pytest.raises(Invalid, match="service_patterns"):
        make(engine, service_patterns=["web", pattern])


@pytest.mark.parametrize("rest", [{"scopes": []}, {"scopes": ["all"]}, {"expires_at": NOW}])
def test_a_key_that_could_do_nothing_is_refused(engine: Engine, rest: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        make(engine, **rest)


def test_the_first_admin_key_is_made_once_however_many_ask(engine: Engine, database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: access.first_admin_key(database_url, PEPPER), range(4)))
    (key,) = [one for one in made if one is not None]
    assert Keyring(engine, PEPPER).authenticate(key).scopes == {"admin"}


def test_each_change_of_a_key_is_in_the_audit_log(engine: Engine) -> None:
    key_id, _ = make(engine)
    for _ in range(2):
        in_transaction(engine, lambda s: access.revoke(s, key_id=key_id, actor=ACTOR, now=NOW))
    with engine.connect() as connection:
        entries = connection.execute(
            text("SELECT action, object_id, actor FROM audit_entries ORDER BY id")
        ).all()
    assert entries == [("key.create", key_id, "test"), ("key.revoke", key_id, "test")]
