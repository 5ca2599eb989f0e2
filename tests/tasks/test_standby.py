"""Beat sweeps by itself while nobody else does: a broker that is away delays no alert."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from medic import broker
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually

if TYPE_CHECKING:
    from medic_tasks.standby import Standby

PLAYBOOK = """
name: fix
trigger: {service_pattern: "web"}
steps:
  - {name: pause, type: wait, duration: 1m}
"""


@pytest.fixture
def alone(task_environ: dict[str, str], tmp_path: Path) -> Iterator[Workers]:
    """Processes whose broker is away for good."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: whoever calls is refused
        environ = task_environ | {
            "REDIS_URL": f"redis://127.0.0.1:{nobody.getsockname()[1]}/0",
            "MEDIC_RUN_DIR": str(tmp_path / "run"),
        }
        made = Workers(environ, tmp_path / "beat.log")
        yield made
        made.stop()


def standby_of(house: House, every_s: float) -> Standby:
    # Here, as the application of the tasks is made with the settings of the test.
    from medic_tasks.standby import Standby

    return Standby(house.engine, every_s=every_s)


def last_tick(house: House) -> datetime | None:
    rows = house.rows("SELECT last_at FROM ticks WHERE job = 'sweep-services'")
    return rows[0]["last_at"] if rows else None


def age_tick(house: House, seconds: float) -> None:
    house.run(
        "INSERT INTO ticks (job, last_at) VALUES ('sweep-services', now() - make_interval(secs => :s))"
        " ON CONFLICT (job) DO UPDATE SET last_at = excluded.last_at",
        s=seconds,
    )


def test_without_a_broker_a_silent_service_opens_its_alert_and_the_execution_waits_for_the_broker(
    house: House, alone: Workers
) -> None:
    house.playbook(PLAYBOOK)
    beat = alone.beat()
    house.service("web", every_s=1, grace_s=0)
    eventually(lambda: house.rows("SELECT 1 FROM alerts WHERE service_name = 'web'"))
    # Its dispatch failed, and so it is due at once.
    left = "SELECT 1 FROM executions WHERE epoch = 1 AND owner IS NULL AND dispatched_at IS NULL AND due_at <= now()"
    eventually(lambda: house.rows(left))
    # It goes on tick by tick, and beat's own loop, which waits for the broker, is no dead one.
    before = last_tick(house)
    assert before is not None
    ages = []
    for _ in range(3):
        now = eventually(
            lambda before=before: (last_tick(house) or before) > before and last_tick(house), within=5
        )
        ages.append((now - before).total_seconds())
        before = now
    assert max(ages) < 3
    began = time.time()
    alive = Path(alone.environ["MEDIC_RUN_DIR"]) / "beat.alive"
    eventually(lambda: alive.stat().st_mtime > began)
    assert beat.poll() is None


def test_beat_stands_by_while_another_takes_the_ticks_and_steps_back_when_it_does_again(house: House) -> None:
    standby = standby_of(house, 10)
    assert not standby.look()  # a new database: nobody has had the time to tick
    assert last_tick(house) is None
    age_tick(house, 29)
    assert not standby.look()
    age_tick(house, 31)
    assert standby.look()
    assert not standby.look()  # too soon
    mine = last_tick(house)
    eventually(standby_of(house, 0.1).look)  # another one takes a tick
    assert last_tick(house) != mine
    assert not standby.look()
    age_tick(house, 31)
    assert standby.look()
    age_tick(house, 6)  # another one's tick
    assert not standby.look()


def test_while_only_the_worker_of_sweeps_is_away_messages_leave_all_the_same(
    house: House, broker_client: redis.Redis
) -> None:
    house.run("INSERT INTO targets (name, kind) VALUES ('chat', 'webhook')")
    house.run("INSERT INTO routes (name, is_default) VALUES ('rest', true)")
    house.run("INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM routes r, targets t")
    house.service("web", every_s=1, grace_s=0)
    house.run("UPDATE services SET policy_since = now() - interval '1 minute'")
    age_tick(house, 31)
    assert standby_of(house, 10).look()
    assert house.rows("SELECT kind FROM deliveries") == [{"kind": "opened"}]
    assert broker_client.llen(broker.DELIVERIES) == 1


def test_the_end_of_a_window_is_noticed_too(house: House) -> None:
    house.run("INSERT INTO targets (name, kind) VALUES ('chat', 'webhook')")
    house.run("INSERT INTO routes (name, is_default) VALUES ('rest', true)")
    house.run("INSERT INTO route_targets (route_id, target_id) SELECT r.id, t.id FROM routes r, targets t")
    house.service("web", every_s=60, grace_s=0)
    house.run("UPDATE services SET policy_since = now() - interval '10 minutes'")
    house.run(
        "INSERT INTO windows (name, starts_at, ends_at, selector, due_at, created_by) SELECT 'w',"
        " now() - interval '1 hour', now() + interval '1 hour', '{\"all\": true}', now() + interval '1 hour', 'shell:test'"
    )
    standby = standby_of(house, 10)
    age_tick(house, 31)
    assert standby.look()
    assert house.rows("SELECT resolved_at FROM alerts") == [{"resolved_at": None}]
    assert house.rows("SELECT kind FROM deliveries") == []
    house.run("UPDATE service_states SET due_at = now() + interval '1 day'")
    house.run(
        "UPDATE windows SET ends_at = now() - interval '1 second', due_at = now() - interval '1 second'"
    )
    for _ in range(2):  # the first wakes what it kept quiet, the second tells
        age_tick(house, 31)
        assert standby_of(house, 10).look()
    assert house.rows("SELECT due_at FROM windows") == [{"due_at": None}]
    assert house.rows("SELECT kind FROM deliveries") == [{"kind": "opened"}]


def test_of_two_beats_that_stand_by_one_sweeps(house: House) -> None:
    one, other = standby_of(house, 10), standby_of(house, 10)
    age_tick(house, 60)
    assert [one.look(), other.look()] == [True, False]


def test_a_tick_of_ones_own_is_followed_at_the_usual_pace(house: House) -> None:
    standby = standby_of(house, 0.1)
    age_tick(house, 60)
    assert standby.look()
    eventually(standby.look, within=2, every=0.06)
