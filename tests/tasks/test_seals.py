"""The sealer as beat sends it, in this process and in a worker."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import audit, audit_seals, audit_verify, broker
from medic import settings as settings_
from medic.audit_seals import LOCK
from medic.db import database_now, in_transaction
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually


def note(session: Session, count: int = 1) -> None:
    for number in range(count):
        audit.append(
            session,
            now=database_now(session),
            actor=audit.MEDIC,
            action="a.b",
            object_kind="a",
            object_id=number,
        )


def rows(house: House, sql: str) -> Any:
    with house.engine.connect() as connection:
        return connection.execute(text(sql)).all()


@pytest.fixture
def tick(house: House, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The task, with nothing in its memory."""
    from medic_tasks import seals

    monkeypatch.setattr(seals, "MEMORY", seals.Memory())
    return seals.sweep_seals


def found(house: House) -> audit_verify.Verified:
    keys = settings_.current().audit_keys
    return in_transaction(house.engine, lambda session: audit_verify.verify(session, keys))


def test_a_tick_seals_batch_after_batch_and_the_chain_holds(
    house: House, tick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medic_tasks import seals

    monkeypatch.setattr(seals, "BATCH", 4)
    monkeypatch.setattr(seals, "TIME_S", 60.0)
    monkeypatch.setattr(seals.audit_seals, "seal", partial(audit_seals.seal, limit=4))
    in_transaction(house.engine, partial(note, count=10))
    assert tick() == "sealed 10"
    assert tick() == "sealed 0"
    verified = found(house)
    assert (verified.broken, verified.sealed, verified.unsealed) == (None, 10, 0)


def test_a_tick_ends_when_its_time_is_over_and_the_next_goes_on(
    house: House, tick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medic_tasks import seals

    monkeypatch.setattr(seals, "TIME_S", 0.0)
    in_transaction(house.engine, partial(note, count=audit_seals.BATCH + 1))
    assert (tick(), tick()) == (f"sealed {audit_seals.BATCH}", "sealed 1")


def test_it_waits_for_no_other_sealer_and_does_nothing_without_a_key(
    house: House, tick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_transaction(house.engine, note)
    with house.engine.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": LOCK})
        assert tick() == "another sealer is at work"
    monkeypatch.delenv("MEDIC_AUDIT_KEY")
    settings_.current.cache_clear()
    assert tick() == "MEDIC_AUDIT_KEY is not set"
    assert rows(house, "SELECT count(*) FROM audit_seals") == [(0,)]


def test_the_end_of_the_chain_is_logged_and_its_loss_is_an_error(
    house: House, tick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medic_tasks import seals

    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(seals.log, "info", lambda event, **more: said.append((event, more)), raising=False)
    monkeypatch.setattr(seals.log, "error", lambda event, **more: said.append((event, more)), raising=False)
    in_transaction(house.engine, partial(note, count=2))
    tick()
    head = found(house).head
    assert said == [("audit.anchor", {"number": 2, "digest": head.digest.hex()})]
    in_transaction(house.engine, note)
    tick()
    assert len(said) == 1  # not more often than every five minutes
    house.run("DELETE FROM audit_seals WHERE number = 3")
    tick()
    assert said[-1][0] == "audit.seals_changed"
    assert said[-1][1]["number"] == 3
    assert found(house).sealed == 3


def test_after_an_hour_the_whole_log_is_looked_at_again(
    house: House, tick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medic_tasks import seals

    stray = rows(house, "SELECT nextval(pg_get_serial_sequence('audit_entries', 'id')) AS id")[0].id
    in_transaction(house.engine, note)
    newest = rows(house, "SELECT max(id) AS id FROM audit_entries")[0].id

    def is_behind() -> bool:
        tick()
        return seals.MEMORY.horizon.below == newest

    eventually(is_behind)
    # As if its id had been taken before its transaction began, and all the others had overtaken it.
    house.run(
        "INSERT INTO audit_entries (id, at, actor_kind, actor, action, object_kind, object_id) OVERRIDING SYSTEM VALUE"
        " VALUES (:id, now(), 'medic', 'medic', 'a.b', 'a', 'stray')",
        id=stray,
    )
    assert tick() == "sealed 0"
    assert found(house).unsealed == 1
    monkeypatch.setattr(seals, "WHOLE_EVERY_S", 0.0)
    assert tick() == "sealed 1"
    assert found(house).broken is None


def test_workers_seal_as_beat_ticks(house: House, own: Workers) -> None:
    from medic_tasks.app import app

    entry = app.conf.beat_schedule["sweep-seals"]
    assert (entry["schedule"], entry["options"]["queue"]) == (1.0, broker.SYSTEM)
    in_transaction(house.engine, partial(note, count=5))
    own.system()
    eventually(lambda: found(house).sealed == 5, within=30)
    assert found(house).broken is None
