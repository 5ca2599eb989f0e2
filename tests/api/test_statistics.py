"""What a service was like, by API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from tests.api.caller import Api, MakeApi, problem


def test_a_service_is_shown_day_by_day_with_its_runs(web: Api, engine: Engine) -> None:
    now = datetime.now(UTC)
    with engine.begin() as connection:
        service_id = connection.execute(
            text("UPDATE services SET created_at = :at RETURNING id"), {"at": now - timedelta(days=3)}
        ).scalar_one()
        connection.execute(
            text("INSERT INTO service_days VALUES (:id, :day, 85000, 400, 1000, 2, 288)"),
            {"id": service_id, "day": (now - timedelta(days=2)).date()},
        )
    for kind in ("start", "complete"):
        sent = web("POST", "/v1/heartbeats", {"service": "web", "status": kind, "run_id": "r1"})
        assert sent.status_code == 202
    found = web("GET", "/v1/services/web/stats?days=3").get_json()
    assert (found["service"], found["alerts"]) == ("web", 2)
    assert (found["runs"]["count"], found["runs"]["success_ratio"]) == (1, 1.0)
    assert found["runs"]["p99_ms"] == found["runs"]["min_ms"] is not None
    oldest = found["days"][0]
    assert oldest == {
        "day": (now - timedelta(days=2)).date().isoformat(), "uptime_percent": 99.531, "up_s": 85_000,
        "down_s": 400, "unknown_s": 1000, "alerts": 2, "heartbeats": 288,
    }  # fmt: skip
    # Yesterday and today are counted now; at midnight the two heartbeats may be of either.
    assert len(found["days"]) == 3
    assert sum(day["heartbeats"] for day in found["days"][1:]) == 2
    assert found["heartbeats"] == 290
    assert len(web("GET", "/v1/services/web/stats?days=1").get_json()["days"]) == 1


def test_a_narrow_key_sees_its_own_services_alone(web: Api, api_with: MakeApi) -> None:
    assert api_with("services:read", patterns=["web*"])("GET", "/v1/services/web/stats").status_code == 200
    narrow = api_with("services:read", patterns=["db-*"])
    for name in ("web", "nothing"):
        problem(narrow("GET", f"/v1/services/{name}/stats"), 403)
    problem(narrow("GET", "/v1/services/db-1/stats"), 404)


def test_the_days_asked_for_have_bounds(web: Api) -> None:
    for days in ("0", "401", "x", "1e2"):
        problem(web("GET", f"/v1/services/web/stats?days={days}"), 422, "days")
