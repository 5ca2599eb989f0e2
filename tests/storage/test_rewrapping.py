"""A change of MEDIC_SECRETS_KEY: everything sealed moves to the new key, and the old one can go."""

from __future__ import annotations

import base64
import threading
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from medic import hook_store, startup, target_store, vault
from medic.audit import Actor
from medic.crypto.key_ring import KeyRing
from medic.db import in_transaction
from medic.errors import Conflict, Invalid, Misconfigured
from medic.models.access import AuditEntry
from medic.models.playbooks import Hook
from medic.rewrapping import Batch, rewrap_batch
from medic.target_store import Wish

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ACTOR = Actor("key", "abc")
PEPPER = b"p" * 32
ONE = base64.b64encode(b"1" * 32).decode()
TWO = base64.b64encode(b"2" * 32).decode()
OLD = KeyRing.parse(SecretStr(f"old:{ONE}"))
BOTH = KeyRing.parse(SecretStr(f"new:{TWO},old:{ONE}"))
NEW = KeyRing.parse(SecretStr(f"new:{TWO}"))
SIGNING = "whsec_" + base64.b64encode(b"s" * 32).decode()


def put(engine: Engine, name: str, value: str, ring: KeyRing = OLD) -> None:
    in_transaction(
        engine, lambda s: vault.put(s, ring, name=name, value=SecretStr(value), actor=ACTOR, now=NOW)
    )


def reveal(engine: Engine, name: str, ring: KeyRing) -> str:
    return in_transaction(engine, lambda s: vault.reveal(s, ring, name)).get_secret_value()


def fill(engine: Engine) -> None:
    """Five secrets, one of two versions; three targets of two secrets each; one hook; all under the old key."""

    def work(session: Session) -> None:
        vault.check_key(session, OLD)
        for number in range(3):
            wish = Wish("webhook", {}, {
                "url": SecretStr("https://hooks.example.com/x"), "signing_secret": SecretStr(SIGNING),
            })  # fmt: skip
            target_store.put(session, lambda: OLD, name=f"hook-{number}", wish=wish, actor=ACTOR, now=NOW)
        session.execute(text(
            "INSERT INTO playbooks (id, name, version) OVERRIDING SYSTEM VALUE VALUES (1, 'fix', 1);"
            "INSERT INTO playbook_versions VALUES (1, 1, 'x', 'me', now());"
            "INSERT INTO triggers (id, playbook_id, kind, origin, service_pattern) OVERRIDING SYSTEM VALUE"
            " VALUES (1, 1, 'hook', 'api', NULL)"
        ))  # fmt: skip
        minted = hook_store.mint(PEPPER, "standard_webhooks", OLD)
        session.add(Hook(trigger_id=1, token_digest=minted.token_digest, verification="standard_webhooks",
                         sealed_secret=minted.sealed_secret))  # fmt: skip

    in_transaction(engine, work)
    for number in range(5):
        put(engine, f"S{number}", f"value-number-{number}")
    put(engine, "S0", "value-number-0-again")


def walk(engine: Engine, ring: KeyRing, *, limit: int = 2) -> list[Batch]:
    done: list[Batch] = []
    while not done or done[-1].next is not None:
        after = done[-1].next if done else None
        done.append(step(engine, ring, after=after, limit=limit))
        assert len(done) < 100
    return done


def step(
    engine: Engine, ring: KeyRing, *, after: str | None, key_id: str | None = None, limit: int = 2
) -> Batch:
    return in_transaction(
        engine, lambda s: rewrap_batch(s, ring, after=after, key_id=key_id, actor=ACTOR, now=NOW, limit=limit)
    )


def check_start(engine: Engine, ring: KeyRing) -> None:
    in_transaction(engine, lambda s: startup._check_keys(s, ring))


def opened(engine: Engine, ring: KeyRing) -> list[str]:
    """Every value there is, opened with these keys."""

    def work(session: Session) -> list[str]:
        found = [vault.reveal(session, ring, f"S{number}").get_secret_value() for number in range(5)]
        for number in range(3):
            view = target_store.view(target_store.find(session, f"hook-{number}"), ring)
            found += [view.secrets[name].get_secret_value() for name in sorted(view.secrets)]
        hook = session.scalars(select(Hook)).one()
        proof = hook_store.Proof(None, "m", "1", "v1,x")
        assert not hook_store.is_proven(hook, proof, b"", pepper=PEPPER, ring=ring, now=NOW)  # it opens
        return found

    return in_transaction(engine, work)


def test_after_a_walk_the_old_key_is_taken_away_and_everything_opens(engine: Engine) -> None:
    fill(engine)
    before = opened(engine, OLD)
    with pytest.raises(Misconfigured):
        check_start(engine, NEW)
    done = walk(engine, BOTH)
    assert sum(batch.rewrapped for batch in done) == 6 + 6 + 1
    assert [batch.in_use for batch in done if batch.in_use is not None] == [("new",)]
    assert opened(engine, NEW) == before
    check_start(engine, NEW)
    with pytest.raises(Misconfigured):
        opened(engine, OLD)


def test_the_canary_of_a_key_that_is_gone_goes_with_it(engine: Engine) -> None:
    fill(engine)
    walk(engine, BOTH)
    with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
        check_start(engine, OLD)
    with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
        check_start(engine, KeyRing.parse(SecretStr(f"new:{ONE}")))  # the right name on the wrong key
    check_start(engine, NEW)


def test_a_walk_that_broke_off_is_done_again_from_its_start(engine: Engine) -> None:
    fill(engine)
    first = step(engine, BOTH, after=None)
    second = step(engine, BOTH, after=first.next)
    assert first.rewrapped + second.rewrapped == 4
    assert opened(engine, BOTH)  # half and half is fine for whoever has both
    assert sum(batch.rewrapped for batch in walk(engine, BOTH)) == 13 - 4
    assert sum(batch.rewrapped for batch in walk(engine, BOTH)) == 0
    check_start(engine, NEW)


def test_each_batch_that_changes_something_is_in_the_audit_log_without_a_value(engine: Engine) -> None:
    fill(engine)
    walk(engine, BOTH, limit=200)
    walk(engine, BOTH, limit=200)
    with Session(engine) as session:
        entries = session.scalars(
            select(AuditEntry).where(AuditEntry.action == "secret.rewrap").order_by(AuditEntry.id)
        ).all()
        assert [(entry.object_id, entry.detail) for entry in entries] == [
            ("new", {"kind": "secret", "count": 6}),
            ("new", {"kind": "target", "count": 6}),
            ("new", {"kind": "hook", "count": 1}),
        ]


def test_a_value_set_under_the_old_key_meanwhile_keeps_that_key_in_use(engine: Engine) -> None:
    fill(engine)
    done = walk(engine, BOTH)[:-1]
    assert done
    put(engine, "LATE", "a late value", OLD)
    last = walk(engine, BOTH)
    assert sum(batch.rewrapped for batch in last) == 1
    put(engine, "LATER", "a later value", OLD)
    end = step(engine, BOTH, after="hook-999999")
    assert (end.next, end.in_use) == (None, ("new", "old"))
    assert reveal(engine, "LATER", BOTH) == "a later value"


def test_what_does_not_open_is_named_left_as_it_is_and_stops_nothing(engine: Engine) -> None:
    fill(engine)
    with engine.begin() as connection:
        connection.execute(text(
            "UPDATE secret_versions SET sealed = overlay(sealed placing '\\x00'::bytea from 30 for 1)"
            " WHERE secret_id = (SELECT id FROM secrets WHERE name = 'S3')"
        ))  # fmt: skip
        connection.execute(text("UPDATE hooks SET sealed_secret = 'no envelope'"))
    done = walk(engine, BOTH)
    broken = [name for batch in done for name in batch.broken]
    assert broken == ["secret S3", "hook of trigger 1"]
    assert sum(batch.rewrapped for batch in done) == 5 + 6
    assert done[-1].in_use == ("new", "old")  # S3 names it still
    put(engine, "S3", "set again", BOTH)
    assert walk(engine, BOTH)[-1].in_use == ("new",)
    check_start(engine, NEW)


def test_a_process_whose_keys_begin_otherwise_does_not_turn_the_walk_back(engine: Engine) -> None:
    fill(engine)
    first = step(engine, BOTH, after=None)
    with pytest.raises(Conflict, match="old here"):
        step(engine, KeyRing.parse(SecretStr(f"old:{ONE},new:{TWO}")), after=first.next, key_id=first.key_id)


def test_keys_of_another_database_rewrap_nothing(engine: Engine) -> None:
    fill(engine)
    with pytest.raises(Misconfigured):
        step(engine, NEW, after=None)
    assert opened(engine, OLD)


@pytest.mark.parametrize(
    "after", ["", "secrets", "secret-1", "target-1-2", "hook-x", "hook-1234567890123456789"]
)
def test_a_place_that_no_batch_gave_is_refused(engine: Engine, after: str) -> None:
    with pytest.raises(Invalid, match="after"):
        step(engine, BOTH, after=after)


def test_two_walks_at_once_do_the_work_once(engine: Engine) -> None:
    fill(engine)
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(sum(b.rewrapped for b in walk(engine, BOTH))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == 13
    check_start(engine, NEW)
