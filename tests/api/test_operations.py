"""Health, metrics, limits, proxies."""

from __future__ import annotations

from pathlib import Path

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text

from medic.db import make_engine
from medic.partitions import make_partitions
from medic.settings import Settings
from medic_api.app import create_app
from medic_api.health import Store
from tests.api.caller import Api, MakeKey, problem


def looking(app: APIFlask) -> Api:
    """A prober; each of its looks is fresh."""
    app.extensions.pop("medic.health", None)
    return Api(app.test_client(), None)


def test_live_asks_nothing_and_ready_asks_the_database(
    app: APIFlask, settings: Settings, tmp_path: Path
) -> None:
    nowhere = make_engine(f"postgresql+psycopg2://medic@/medic?host={tmp_path}")
    away = create_app(settings, engine=nowhere)
    assert looking(away)("GET", "/health/live").status_code == 200
    ready = looking(away)("GET", "/health/ready")
    assert (ready.status_code, ready.get_json()["ready"]) == (503, False)
    assert ready.headers["Retry-After"]
    assert looking(away)("GET", "/health").get_json()["components"]["database"]["status"] == "down"
    assert looking(app)("GET", "/health/ready").get_json()["ready"] is True


def test_health_is_no_503_for_what_is_not_set_up(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    bare = settings.model_copy(update={"secrets_key": None})
    response = looking(create_app(bare, engine=engine))("GET", "/health")
    parts = response.get_json()["components"]
    assert response.status_code == 200
    assert (parts["secrets"]["status"], parts["broker"]["status"], parts["sweep"]["status"]) == (
        "off", "ok", "degraded",
    )  # fmt: skip


def test_ready_fails_when_partitions_run_out_and_when_migrations_are_pending(
    app: APIFlask, engine: Engine
) -> None:
    try:
        with engine.begin() as connection:
            for ahead in range(2, 15):
                day = connection.execute(text(f"SELECT current_date + {ahead}")).scalar_one()
                connection.execute(text(f"DROP TABLE heartbeats_p{day:%Y%m%d}"))
        response = looking(app)("GET", "/health/ready")
        assert (response.status_code, looking(app)("GET", "/health").status_code) == (503, 200)
        assert response.get_json()["components"]["partitions"]["status"] == "degraded"
    finally:
        with engine.begin() as connection:
            make_partitions(connection)
    assert looking(app)("GET", "/health/ready").status_code == 200
    with engine.begin() as connection:
        version = connection.execute(text("DELETE FROM alembic_version RETURNING version_num")).scalar_one()
    try:
        response = looking(app)("GET", "/health/ready")
        assert (response.status_code, looking(app)("GET", "/health").status_code) == (503, 503)
        assert response.get_json()["components"]["migrations"]["status"] == "down"
    finally:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": version})


def test_many_probes_ask_the_database_once(app: APIFlask) -> None:
    probe = looking(app)
    probe("GET", "/health/ready")
    store: Store = app.extensions["medic.health"]
    assert store.look() is store.look()


def test_metrics_need_their_scope_unless_they_are_public(
    web: Api, engine: Engine, settings: Settings, outsider: Api
) -> None:
    problem(outsider("GET", "/metrics"), 401)
    web("POST", "/v1/heartbeats", {"service": "web"})
    shown = web("GET", "/metrics")
    assert shown.content_type.startswith("text/plain")
    assert 'medic_services{status="new"} 1.0' in shown.text
    assert 'route="/v1/heartbeats"' in shown.text
    assert "medic_heartbeats_total" in shown.text
    public = create_app(settings.model_copy(update={"metrics_public": True}), engine=engine)
    assert Api(public.test_client(), None)("GET", "/metrics").status_code == 200


@pytest.mark.parametrize(
    ("name", "path", "method"),
    [
        ("rate_limit_management", "/v1/services", "GET"),
        ("rate_limit_trigger", "/v1/playbooks/none/executions", "POST"),
        ("rate_limit_health", "/health/live", "GET"),
        ("rate_limit_metrics", "/metrics", "GET"),
        ("rate_limit_docs", "/openapi.json", "GET"),
    ],
)
def test_each_class_has_its_limit(
    engine: Engine, settings: Settings, make_key: MakeKey, name: str, path: str, method: str
) -> None:
    few = settings.model_copy(update={name: 3, "rate_limiter_type": "memory"})
    api = Api(create_app(few, engine=engine).test_client(), make_key("admin"))
    answers = [api(method, path) for _ in range(4)]
    assert [answer.status_code == 429 for answer in answers] == [False, False, False, True]
    problem(answers[3], 429)
    assert int(answers[3].headers["Retry-After"]) >= 1
    assert "r=2" in answers[0].headers["RateLimit"]


def test_one_service_cannot_use_up_another_ones_limit(
    engine: Engine, settings: Settings, make_key: MakeKey
) -> None:
    few = settings.model_copy(update={"rate_limit_heartbeat": 8, "rate_limiter_type": "memory"})
    api = Api(create_app(few, engine=engine).test_client(), make_key("admin"))
    for name in ("loud", "calm", "third"):
        api("POST", "/v1/services", {"name": name, "every": "5m"})
    loud = [api("POST", "/v1/heartbeats", {"service": "loud"}).status_code for _ in range(5)]
    assert loud == [202] * 4 + [429]
    assert api("POST", "/v1/heartbeats", {"service": "calm"}).status_code == 202


def test_a_forwarded_address_counts_only_behind_as_many_proxies_as_are_trusted(
    engine: Engine, settings: Settings
) -> None:
    few = settings.model_copy(update={"rate_limit_health": 1, "rate_limiter_type": "memory"})
    proxied = few.model_copy(update={"trusted_proxies": 1})
    for chosen, second in ((few, 429), (proxied, 200)):
        api = Api(create_app(chosen, engine=engine).test_client(), None)
        assert api("GET", "/health/live", X_Forwarded_For="192.0.2.1").status_code == 200
        assert api("GET", "/health/live", X_Forwarded_For="192.0.2.2").status_code == second
