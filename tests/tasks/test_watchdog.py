"""Watching the watcher: the ping leaves only while Medic itself works."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import text

from medic import settings as settings_
from medic.cli.checks import check_egress
from medic.cli.settings_table import in_force
from medic.errors import Misconfigured
from medic.settings import Settings
from medic_tasks.schedule import schedule
from medic_tasks.watchdog import ping
from tests.recorder import Recorder
from tests.tasks.house import House

PATH = "/ping/5b1c0a52-secret"


@pytest.fixture
def watched(house: House, outside: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A house that sweeps, and whose watchdog listens."""
    monkeypatch.setenv("MEDIC_WATCHDOG_URL", outside.url + PATH)
    settings_.current.cache_clear()
    tick(house, "0 s")
    return outside


def tick(house: House, age: str) -> None:
    """A sweep began so long ago."""
    house.run(
        "INSERT INTO ticks (job, last_at) VALUES ('sweep-services', now() - CAST(:age AS interval))"
        " ON CONFLICT (job) DO UPDATE SET last_at = excluded.last_at",
        age=age,
    )


def again(house: House) -> str:
    house.run("DELETE FROM ticks WHERE job = 'watchdog'")
    return ping()


def test_it_is_pinged_while_sweeps_move_on_and_deliveries_leave(house: House, watched: Recorder) -> None:
    assert again(house) == "sent"
    (seen,) = watched.of(PATH)
    assert seen.method == "GET"
    assert ping() == "surplus tick"
    assert len(watched.requests) == 1


def test_a_sweep_that_stands_still_keeps_the_ping_back(house: House, watched: Recorder) -> None:
    tick(house, "10 min")
    assert again(house) == "withheld: no sweep began lately"
    house.run("DELETE FROM ticks")
    assert again(house) == "withheld: no sweep ran yet"
    tick(house, "0 s")
    house.service("late")
    house.run("UPDATE service_states SET due_at = now() - interval '10 min'")
    assert again(house) == "withheld: services that are due are not judged"
    assert watched.requests == []
    house.run("UPDATE service_states SET due_at = now() - interval '10 s'")
    assert again(house) == "sent"


def test_deliveries_that_do_not_leave_keep_the_ping_back_and_one_that_waits_for_its_next_try_does_not(
    house: House, watched: Recorder
) -> None:
    with house.engine.begin() as connection:
        target = connection.execute(
            text("INSERT INTO targets (name, kind, config, created_at, version) VALUES ('t', 'webhook', '{}', now(), 1)"
                 " RETURNING id")
        ).scalar_one()  # fmt: skip
    house.run(
        "INSERT INTO deliveries (uuid, target_id, kind, position, payload, due_at, created_at)"
        " VALUES (gen_random_uuid(), :target, 'notice', 0, '{}', now() - interval '10 min', now())",
        target=target,
    )
    assert again(house) == "withheld: deliveries that are due do not leave"
    house.run("UPDATE deliveries SET due_at = now() + interval '1 h', tries = 3")
    assert again(house) == "sent"


def test_its_own_failure_is_a_line_and_never_more(
    house: House, watched: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.answer = lambda _: (500, b"")
    assert again(house) == "failed: it answered 500"
    monkeypatch.setenv("MEDIC_WATCHDOG_URL", "http://127.0.0.1:1/secret-path")
    settings_.current.cache_clear()
    assert again(house) == "failed: egress_refused"
    assert "secret" not in capsys.readouterr().out


def test_beat_asks_for_it_only_where_it_is_set(watched: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert schedule()["ping-watchdog"]["options"]["queue"] == "medic.deliveries"
    monkeypatch.delenv("MEDIC_WATCHDOG_URL")
    settings_.current.cache_clear()
    assert "ping-watchdog" not in schedule()
    assert ping() == "no MEDIC_WATCHDOG_URL"


def test_doctor_shows_no_more_of_it_than_its_host_and_says_whether_it_may_be_pinged(
    outside: Recorder, task_environ: dict[str, str]
) -> None:
    environ = task_environ | {"MEDIC_WATCHDOG_URL": outside.url + PATH}
    settings = Settings.from_env(environ)
    (shown,) = [item for item in in_force(settings, environ) if item.variable.name == "MEDIC_WATCHDOG_URL"]
    assert shown.value == f"{outside.url}/[redacted]"
    verdicts = {found.name: found for found in check_egress(settings)}
    assert verdicts["watchdog"].verdict == "ok"
    closed: Any = settings.model_copy(update={"watchdog_url": SecretStr("http://127.0.0.1:1" + PATH)})
    (refused,) = [found for found in check_egress(closed) if found.name == "watchdog"]
    assert refused.verdict == "fail"
    assert "secret" not in refused.text


def test_a_url_that_is_none_stops_the_start() -> None:
    with pytest.raises((Misconfigured, ValidationError), match="MEDIC_WATCHDOG_URL"):
        Settings.from_env({"MEDIC_WATCHDOG_URL": "hc-ping.com/secret"})
