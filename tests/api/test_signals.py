"""What a signal may say, whichever way it comes in: kinds, runs, times, messages, and at most once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from tests.api.caller import Api, problem

LIMIT = 10_000


def sent(api: Api, **body: Any) -> TestResponse:
    return api("POST", "/v1/heartbeats", {"service": "web"} | body)


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(sql)).mappings()]


def last(engine: Engine) -> dict[str, Any]:
    return rows(engine, "SELECT * FROM heartbeats ORDER BY id DESC LIMIT 1")[0]


def runs(engine: Engine) -> list[tuple[Any, ...]]:
    return [
        (row["run_id"], row["state"]) for row in rows(engine, "SELECT * FROM runs ORDER BY started_at, id")
    ]


def stamp(at: datetime) -> str:
    return at.isoformat()


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({}, "ok"),
        ({"exit_code": 0}, "complete"),
        ({"exit_code": 1}, "fail"),
        ({"exit_code": -9}, "fail"),
        ({"status": "ok", "exit_code": 0}, "ok"),
        ({"status": "complete", "exit_code": 2}, "fail"),
        ({"status": "log", "exit_code": 2}, "fail"),
        ({"status": "fail", "exit_code": 0}, "fail"),
    ],
)
def test_a_code_other_than_0_fails_whatever_else_is_said(
    web: Api, engine: Engine, said: dict[str, Any], kind: str
) -> None:
    assert sent(web, **said).status_code == 202
    assert (last(engine)["kind"], last(engine)["exit_code"]) == (kind, said.get("exit_code"))


def test_a_failure_makes_the_service_due_at_once_and_a_log_does_not(web: Api, engine: Engine) -> None:
    sent(web)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE service_states SET status = 'up', quiet = true, due_at = now() + interval '5 minutes'"
            )
        )
    due = "SELECT due_at <= now() AS due FROM service_states"
    sent(web, status="log")
    assert rows(engine, due) == [{"due": False}]
    sent(web, exit_code=3)
    assert rows(engine, due) == [{"due": True}]


def test_an_end_without_a_run_id_ends_the_newest_open_run_without_one_by_event_time(
    web: Api, engine: Engine
) -> None:
    at = now() - timedelta(seconds=50)
    sent(web, status="start", run_id="named")
    sent(web, status="start", duration_ms=None, occurred_at=stamp(at + timedelta(seconds=20)))
    sent(web, status="start", occurred_at=stamp(at))  # arrives later, began earlier
    assert [state for _, state in runs(engine)] == ["open"] * 3
    sent(web, status="ok")  # a sign of life, and no end
    assert [state for _, state in runs(engine)] == ["open"] * 3
    sent(web, status="complete")
    assert runs(engine) == [(None, "open"), (None, "completed"), ("named", "open")]
    sent(web, exit_code=4)
    assert runs(engine) == [(None, "failed"), (None, "completed"), ("named", "open")]
    sent(web, status="fail", run_id="named", duration_ms=1234)
    ended = rows(engine, "SELECT state, duration_ms FROM runs WHERE run_id = 'named'")
    assert ended == [{"state": "failed", "duration_ms": 1234}]


def test_the_duration_is_that_from_the_start_unless_it_is_sent(web: Api, engine: Engine) -> None:
    sent(web, status="start", run_id="a", occurred_at=stamp(now() - timedelta(seconds=30)))
    sent(web, status="complete", run_id="a")
    (run,) = rows(engine, "SELECT duration_ms FROM runs")
    assert 29_000 <= run["duration_ms"] <= 45_000


@pytest.mark.parametrize(
    ("written", "microsecond"),
    [
        ("2026-11-23T10:00:00Z", 0),
        ("2026-11-23t10:00:00z", 0),
        ("2026-11-23T12:30:00+02:30", 0),
        ("2026-11-23T05:00:00.5-05:00", 500_000),
        ("2026-11-23T10:00:00.123456789Z", 123_456),
    ],
)
def test_every_spelling_of_a_moment_is_that_moment(
    web: Api, engine: Engine, written: str, microsecond: int
) -> None:
    # The age is the client's own difference, so that this test may name any day.
    assert sent(web, occurred_at=written, sent_at="2026-11-23T10:00:30Z").status_code == 202
    beat = last(engine)
    age = (beat["received_at"] - beat["event_at"]).total_seconds()
    assert age == pytest.approx(30 - microsecond / 1e6, abs=1e-5)


@pytest.mark.parametrize("field", ["occurred_at", "sent_at"])
@pytest.mark.parametrize(
    "naive", ["2026-11-23T10:00:00", "2026-11-23 10:00:00.5", "2026-11-23", 1_795_000_000]
)
def test_a_time_without_an_offset_is_refused(web: Api, engine: Engine, field: str, naive: object) -> None:
    problem(sent(web, **{field: naive}), 422, field)
    assert rows(engine, "SELECT 1 FROM heartbeats") == []


@pytest.mark.parametrize(
    ("age", "accepted"),
    [(timedelta(seconds=-55), True), (timedelta(seconds=-65), False), (timedelta(days=30, minutes=-1), True),
     (timedelta(days=30, minutes=1), False)],
)  # fmt: skip
@pytest.mark.parametrize("by_client", [False, True])
def test_a_signal_may_be_60_seconds_ahead_and_as_old_as_heartbeats_are_kept(
    web: Api, engine: Engine, age: timedelta, accepted: bool, by_client: bool
) -> None:
    # By the client's own clock, which may be years wrong.
    base = datetime(2031, 5, 1, tzinfo=UTC) if by_client else now()
    response = sent(web, occurred_at=stamp(base - age), **({"sent_at": stamp(base)} if by_client else {}))
    if accepted:
        assert response.status_code == 202
        beat = last(engine)
        assert beat["event_at"] <= beat["received_at"]  # never later than its arrival
        assert (beat["received_at"] - beat["event_at"] - max(age, timedelta())) < timedelta(seconds=20)
    else:
        problem(response, 422, "occurred_at")
        assert rows(engine, "SELECT 1 FROM heartbeats") == []


def test_one_id_counts_once_whichever_way_it_comes(web: Api, engine: Engine) -> None:
    first = sent(web, id="backup-7")
    assert first.status_code == 202
    before = rows(engine, "SELECT * FROM service_states")
    repeats = [
        sent(web, id="backup-7", status="fail", message="other"),
        web("GET", "/v1/heartbeats/web/fail?id=backup-7"),
        web("POST", "/v1/heartbeats/web/3?id=backup-7"),
    ]
    for repeat in repeats:
        assert repeat.status_code == 200
        body = repeat.get_json()
        assert (body["id"], body["repeat"]) == (first.get_json()["id"], True)
        assert body["received_at"] == first.get_json()["received_at"]
    (item,) = web("POST", "/v1/heartbeats/batch", [{"service": "web", "id": "backup-7"}]).get_json()["items"]
    assert (item["status"], item["id"]) == (200, first.get_json()["id"])
    assert len(rows(engine, "SELECT 1 FROM heartbeats")) == 1
    assert rows(engine, "SELECT * FROM service_states") == before
    web("POST", "/v1/services", {"name": "db", "every": "5m"})
    assert web("POST", "/v1/heartbeats", {"service": "db", "id": "backup-7"}).status_code == 202


def by_json(api: Api, message: str) -> bool:
    return bool(sent(api, message=message).get_json()["message_cut"])


def by_path(api: Api, message: str) -> bool:
    return bool(api("POST", "/v1/heartbeats/web/log", raw=message.encode()).get_json()["message_cut"])


def by_batch(api: Api, message: str) -> bool:
    (item,) = api("POST", "/v1/heartbeats/batch", [{"service": "web", "message": message}]).get_json()[
        "items"
    ]
    return bool(item["message_cut"])


def by_ping(api: Api, message: str) -> bool:
    uuid = api("GET", "/v1/services/web").get_json()["uuid"]
    response = Api(api.client, None)("POST", f"/ping/{uuid}/log", raw=message.encode())
    assert (response.status_code, response.text) == (200, "OK")
    return response.headers.get("Ping-Body-Cut") == "1"


def by_the_originals_route(api: Api, message: str) -> bool:
    response = api("POST", "/heartbeat", {"heartbeat_name": "web", "status": message})
    assert response.status_code == 201, response.text
    return "is cut" in response.get_json()["message"]


@pytest.mark.parametrize("way", [by_json, by_path, by_batch, by_ping, by_the_originals_route])
def test_a_message_is_kept_up_to_10_kb_and_a_cut_is_told(
    web: Api, engine: Engine, way: Callable[[Api, str], bool]
) -> None:
    assert way(web, "x" * LIMIT) is False
    assert last(engine)["message"] == "x" * LIMIT
    # A character of two bytes that the limit divides goes whole.
    assert way(web, "x" * (LIMIT - 1) + "ä") is True
    assert last(engine)["message"] == "x" * (LIMIT - 1)


@pytest.mark.parametrize(
    ("metrics", "path"),
    [({"rows": "7"}, "metrics.rows"), ({"rows": True}, "metrics.rows"), ({"rows": {"a": 1}}, "metrics.rows"),
     ({"rows": None}, "metrics.rows"), ([1], "metrics"), ({str(n): n for n in range(51)}, "metrics")],
)  # fmt: skip
def test_metrics_are_a_flat_map_of_names_to_numbers(
    web: Api, engine: Engine, metrics: Any, path: str
) -> None:
    problem(sent(web, metrics=metrics), 422, path)
    assert rows(engine, "SELECT 1 FROM heartbeats") == []
    sent(web, metrics={"rows": 7, "seconds": -0.5})
    assert last(engine)["metrics"] == {"rows": 7, "seconds": -0.5}
