"""API keys: who calls, and what they may do."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier, get_ident
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from medic import access, last_use, services
from medic.access import CACHE_SECONDS, Keyring, Rotated
from medic.audit import Actor
from medic.crypto import api_keys
from medic.db import in_transaction, make_engine
from medic.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from medic.service_policy import Policy
from tests.waiting import eventually

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


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What this thread asks the engine meanwhile."""
    seen: list[str] = []
    own = get_ident()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if get_ident() == own:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


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


@pytest.mark.parametrize("scope", ["admin", "approvals:decide"])
def test_a_powerful_key_that_is_revoked_elsewhere_ends_at_once_but_for_heartbeats(
    engine: Engine, scope: str
) -> None:
    make(engine, scopes=["admin"])
    key_id, key = make(engine, scopes=[scope, "heartbeats:write"])
    ring = Keyring(engine, PEPPER, clock=Clock())
    ring.authenticate(key, now=NOW, anew=True)
    in_transaction(engine, lambda s: access.revoke(s, key_id=key_id, actor=ACTOR, now=NOW))
    ring.authenticate(key, now=NOW)
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=NOW, anew=True)


def test_other_keys_are_taken_from_the_cache_whoever_asks(engine: Engine) -> None:
    key_id, key = make(engine, scopes=["services:write"])
    in_transaction(engine, lambda s: last_use.write(s, [key_id]))
    ring = Keyring(engine, PEPPER, clock=Clock())
    ring.authenticate(key, now=NOW, anew=True)
    with statements(engine) as seen:
        ring.authenticate(key, now=NOW, anew=True)
    assert seen == []


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


def test_a_narrowed_admin_key_makes_no_others_and_so_does_not_count(engine: Engine) -> None:
    first, _ = make(engine, scopes=["admin"])
    narrow, _ = make(engine, scopes=["admin"], service_patterns=["db-*"])
    with pytest.raises(Conflict):
        in_transaction(engine, lambda s: access.revoke(s, key_id=first, actor=ACTOR, now=NOW))
    in_transaction(engine, lambda s: access.revoke(s, key_id=narrow, actor=ACTOR, now=NOW))


def test_a_digest_is_compared_whatever_the_id_and_at_each_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that neither the time of an answer nor the cache tells anything of a key."""
    key_id, key = make(engine)
    unknown = api_keys.mint(random=bytes(api_keys.RANDOM_BYTES)).text.get_secret_value()
    compared: list[bytes] = []
    genuine = hmac.compare_digest

    def compare(computed: bytes, stored: bytes) -> bool:
        compared.append(computed)
        return genuine(computed, stored)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ring = Keyring(engine, PEPPER, clock=Clock())
    for _ in range(2):
        ring.authenticate(key, now=NOW)
    with pytest.raises(Unauthenticated):
        ring.authenticate(unknown, now=NOW)
    in_transaction(engine, lambda s: access.revoke(s, key_id=key_id, actor=ACTOR, now=NOW))
    ring.forget(key_id)
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=NOW)
    own, other = api_keys.digest(PEPPER, key), api_keys.digest(PEPPER, unknown)
    assert compared == [own, own, other, own]


def test_a_made_up_key_costs_no_look_into_the_database(engine: Engine) -> None:
    _, key = make(engine)
    ring = Keyring(engine, PEPPER, clock=Clock())
    with statements(engine) as seen, pytest.raises(Unauthenticated):
        ring.authenticate(key[:-1] + ("A" if key[-1] != "A" else "B"), now=NOW)
    assert seen == []


def test_a_known_key_costs_no_look_into_the_database(engine: Engine) -> None:
    key_id, key = make(engine)
    in_transaction(engine, lambda s: last_use.write(s, [key_id]))
    ring = Keyring(engine, PEPPER, clock=Clock())
    first = ring.authenticate(key, now=NOW)
    with statements(engine) as seen:
        assert all(ring.authenticate(key, now=NOW) is first for _ in range(100))
    assert seen == []


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
    policy = Policy(every_s=60)
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


def rotate(engine: Engine, key_id: str, *, now: datetime = NOW, **rest: Any) -> Rotated:
    given: dict[str, Any] = {"overlap": timedelta(hours=24), **rest}
    return in_transaction(
        engine, lambda s: access.rotate(s, key_id=key_id, pepper=PEPPER, actor=ACTOR, now=now, **given)
    )


def test_a_rotated_key_and_its_successor_work_until_the_overlap_ends(engine: Engine) -> None:
    key_id, key = make(engine, scopes=["services:read", "alerts:write"], service_patterns=["db-*"])
    new = rotate(engine, key_id, overlap=timedelta(hours=2))
    assert new.old_ends_at == NOW + timedelta(hours=2)
    ring = Keyring(engine, PEPPER)
    just_before = new.old_ends_at - timedelta(microseconds=1)
    old, successor = (ring.authenticate(t, now=just_before) for t in (key, new.text.get_secret_value()))
    assert (successor.key_id, old.key_id) == (new.key_id, key_id)
    assert (successor.name, successor.scopes, successor.service_patterns) == (
        old.name, old.scopes, old.service_patterns
    )  # fmt: skip
    with pytest.raises(Unauthenticated):
        ring.authenticate(key, now=new.old_ends_at)
    ring.authenticate(new.text.get_secret_value(), now=NOW + timedelta(days=3660))


def test_a_rotation_without_overlap_ends_the_old_key_at_once(engine: Engine) -> None:
    key_id, key = make(engine)
    rotate(engine, key_id, overlap=timedelta(0))
    with pytest.raises(Unauthenticated):
        Keyring(engine, PEPPER).authenticate(key, now=NOW)


@pytest.mark.parametrize(
    ("old", "wanted", "old_ends", "new_ends"),
    [
        (None, None, timedelta(hours=25), None),
        (None, timedelta(days=7), timedelta(hours=25), timedelta(days=7)),
        (timedelta(days=90), None, timedelta(hours=25), timedelta(days=90, hours=1)),
        (timedelta(hours=3), None, timedelta(hours=3), timedelta(hours=4)),
        (timedelta(hours=3), timedelta(days=7), timedelta(hours=3), timedelta(days=7)),
    ],
)
def test_a_rotation_never_prolongs_the_old_key_and_keeps_the_lifetime_of_the_new(
    engine: Engine,
    old: timedelta | None,
    wanted: timedelta | None,
    old_ends: timedelta,
    new_ends: timedelta | None,
) -> None:
    key_id, _ = make(engine, expires_at=old and NOW + old)
    new = rotate(engine, key_id, now=NOW + timedelta(hours=1), expires_at=wanted and NOW + wanted)
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT id, expires_at, replaces FROM api_keys ORDER BY created_at")
        ).all()
    assert found == [(key_id, NOW + old_ends, None), (new.key_id, new_ends and NOW + new_ends, key_id)]


def test_a_key_that_never_ends_in_effect_is_rotated_too(engine: Engine) -> None:
    key_id, _ = make(engine, expires_at=datetime.max.replace(tzinfo=UTC))
    rotate(engine, key_id, now=NOW + timedelta(days=1))


def test_what_has_ended_or_was_rotated_is_not_rotated(engine: Engine) -> None:
    revoked, _ = make(engine)
    in_transaction(engine, lambda s: access.revoke(s, key_id=revoked, actor=ACTOR, now=NOW))
    expired, _ = make(engine, expires_at=NOW + timedelta(seconds=1))
    rotated, _ = make(engine)
    successor = rotate(engine, rotated).key_id
    later = NOW + timedelta(seconds=1)
    for key_id in (revoked, expired):
        with pytest.raises(Conflict, match="has ended"):
            rotate(engine, key_id, now=later)
    with pytest.raises(Conflict, match=successor):
        rotate(engine, rotated, now=later)
    with pytest.raises(NotFound):
        rotate(engine, "0" * 12)
    with pytest.raises(Invalid, match="expires_at"):
        rotate(engine, successor, expires_at=NOW)
    rotate(engine, successor)


def test_of_rotations_at_once_exactly_one_wins(engine: Engine) -> None:
    key_id, _ = make(engine)
    start = Barrier(6)

    def attempt(_: int) -> bool:
        start.wait(10)
        try:
            rotate(engine, key_id, overlap=timedelta(0))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(attempt, range(6)))
    assert won.count(True) == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM api_keys")).scalar_one() == 2


def test_the_last_admin_key_is_rotated_and_its_successor_is_the_last_one(engine: Engine) -> None:
    key_id, _ = make(engine, scopes=["admin"])
    new = rotate(engine, key_id, overlap=timedelta(0))
    with pytest.raises(Conflict, match="last key"):
        in_transaction(engine, lambda s: access.revoke(s, key_id=new.key_id, actor=ACTOR, now=NOW))


def test_a_rotation_is_in_the_audit_log_without_a_text(engine: Engine) -> None:
    key_id, key = make(engine, service_patterns=["db-*"])
    new = rotate(engine, key_id)
    with engine.connect() as connection:
        entries = connection.execute(
            text("SELECT action, object_id, detail FROM audit_entries ORDER BY id OFFSET 1")
        ).all()
        rows = str(connection.execute(text("SELECT array_agg(e::text) FROM audit_entries e")).scalar())
    made = {"name": "ci", "scopes": ["heartbeats:write"], "service_patterns": ["db-*"], "replaces": key_id}
    ended = {"successor": new.key_id, "ends_at": "2026-03-03T00:00:00Z"}
    assert entries == [("key.create", new.key_id, made), ("key.rotate", key_id, ended)]
    for secret in (key, new.text.get_secret_value()):
        assert secret[17:] not in rows


def used(engine: Engine, key_id: str) -> datetime | None:
    with engine.connect() as connection:
        at: datetime | None = connection.execute(
            text("SELECT last_used_at FROM api_keys WHERE id = :id"), {"id": key_id}
        ).scalar_one()
    return at


def set_used(engine: Engine, key_id: str, *, seconds_ago: int) -> datetime | None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE api_keys SET last_used_at = now() - make_interval(secs => :ago) WHERE id = :id"),
            {"id": key_id, "ago": seconds_ago},
        )
    return used(engine, key_id)


def test_a_use_is_written_behind_the_request(engine: Engine) -> None:
    key_id, key = make(engine)
    idle, _ = make(engine)
    ring = Keyring(engine, PEPPER)
    before = datetime.now(UTC)
    with statements(engine) as seen:
        ring.authenticate(key, now=NOW)
        at = eventually(lambda: used(engine, key_id))
    assert not any("UPDATE" in statement for statement in seen)
    assert at is not None
    assert before - timedelta(seconds=1) < at < datetime.now(UTC) + timedelta(seconds=1)
    assert used(engine, idle) is None


def test_a_use_is_written_anew_after_a_minute_and_not_before(engine: Engine) -> None:
    fresh, fresh_key = make(engine)
    stale, stale_key = make(engine)
    was, long_ago = set_used(engine, fresh, seconds_ago=50), set_used(engine, stale, seconds_ago=61)
    ring = Keyring(engine, PEPPER)
    for key in (fresh_key, stale_key):
        ring.authenticate(key, now=NOW)
    assert long_ago is not None
    eventually(lambda: (used(engine, stale) or long_ago) > long_ago)
    assert used(engine, fresh) == was


def test_a_use_never_moves_back_and_never_waits_for_a_row_that_is_held(engine: Engine) -> None:
    first, _ = make(engine)
    second, _ = make(engine)
    ahead = set_used(engine, first, seconds_ago=-30)
    with engine.begin() as holder:
        holder.execute(text("SELECT 1 FROM api_keys WHERE id = :id FOR UPDATE"), {"id": second})
        in_transaction(engine, lambda s: last_use.write(s, [first, second]))
    assert used(engine, first) == ahead
    assert used(engine, second) is None
    in_transaction(engine, lambda s: last_use.write(s, [first, second]))
    assert used(engine, second) is not None


def test_what_is_refused_is_no_use(engine: Engine) -> None:
    key_id, key = make(engine)
    known, known_key = make(engine)
    wrong = key[:17] + known_key[17:49]
    wrong += api_keys._checksum(wrong)
    ring = Keyring(engine, PEPPER)
    with pytest.raises(Unauthenticated):
        ring.authenticate(wrong, now=NOW)
    ring.authenticate(known_key, now=NOW)  # noted later, so written no earlier
    eventually(lambda: used(engine, known))
    assert used(engine, key_id) is None


def test_a_database_that_takes_no_writes_refuses_nobody(engine: Engine, database_url: str) -> None:
    key_id, key = make(engine)
    reader = make_engine(database_url)

    @event.listens_for(reader, "connect")
    def _read_only(connection: Any, _record: Any) -> None:
        connection.set_session(readonly=True)

    try:
        clock = Clock()
        ring = Keyring(reader, PEPPER, clock=clock)
        ring.authenticate(key, now=NOW)
        eventually(lambda: not ring._last_use._thread)
        clock.at += CACHE_SECONDS
        ring.authenticate(key, now=NOW)
        in_transaction(engine, lambda s: access.revoke(s, key_id=key_id, actor=ACTOR, now=NOW))
        clock.at += CACHE_SECONDS
        with pytest.raises(Unauthenticated):
            ring.authenticate(key, now=NOW)
        eventually(lambda: not ring._last_use._thread)
    finally:
        reader.dispose()
    assert used(engine, key_id) is None
