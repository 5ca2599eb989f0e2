"""Health, metrics, limits, proxies."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, event, text

from medic.crypto import api_keys
from medic.db import make_engine
from medic.errors import Throttled
from medic.partitions import make_partitions
from medic.settings import Settings
from medic_api.app import create_app
from medic_api.failures import LIMIT, TRUST_S, WINDOW_S, Failures
from medic_api.health import Store
from medic_api.problems import from_medic
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
    bare = settings.model_copy(update={"secrets_key": None, "sandbox": "best-effort"})
    response = looking(create_app(bare, engine=engine))("GET", "/health")
    parts = response.get_json()["components"]
    assert response.status_code == 200
    assert (parts["secrets"]["status"], parts["broker"]["status"], parts["sweep"]["status"]) == (
        "off", "ok", "degraded",
    )  # fmt: skip
    assert (parts["sandbox"]["status"], "best-effort" in parts["sandbox"]["detail"]) == ("off", True)


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


def test_an_api_that_was_rolled_back_to_serves_on_a_later_database(app: APIFlask, engine: Engine) -> None:
    with engine.begin() as connection:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        assert looking(app)("GET", "/health/ready").status_code == 200
    finally:
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE alembic_version SET version_num = :version"), {"version": version}
            )


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
        ("rate_limit_docs", "/docs", "GET"),
        ("rate_limit_docs", "/docs/assets/swagger-ui.css", "GET"),
        ("rate_limit_docs", "/", "GET"),
        ("rate_limit_docs", "/static/console.css", "HEAD"),
    ],
)
@pytest.mark.parametrize("limiter", ["redis", "memory"])
def test_the_call_after_the_limit_is_refused_in_each_class(
    engine: Engine, settings: Settings, make_key: MakeKey, name: str, path: str, method: str, limiter: str
) -> None:
    # Redis outlives a test, and what it counted for this address; its own prefix is a subject of its own.
    address = f"192.0.2.{secrets.randbelow(250)}.{secrets.token_hex(4)}"
    few = settings.model_copy(update={name: 3, "rate_limiter_type": limiter, "trusted_proxies": 1})
    made = create_app(few, engine=engine)
    assert made.extensions["medic"].limiter.backend == limiter
    api = Api(made.test_client(), make_key("admin"))
    answers = [api(method, path, X_Forwarded_For=address) for _ in range(4)]
    assert [answer.status_code == 429 for answer in answers] == [False, False, False, True]
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0"]
    assert answers[3].headers["RateLimit-Policy"].endswith(";q=3;w=60")
    assert 30 <= int(answers[3].headers["Retry-After"]) <= 60
    assert "Retry-After" not in answers[2].headers


def test_retry_after_is_never_too_early(app: APIFlask) -> None:
    for given, told in ((0.0, "1"), (0.2, "1"), (1.2, "2"), (59.2, "60")):
        with app.test_request_context():
            assert from_medic(Throttled("x", retry_after=given)).headers["Retry-After"] == told


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
    # What a client writes before the proxy's own entry is not believed.
    api = Api(create_app(proxied, engine=engine).test_client(), None)
    assert api("GET", "/health/live", X_Forwarded_For="198.51.100.1, 192.0.2.3").status_code == 200
    assert api("GET", "/health/live", X_Forwarded_For="198.51.100.2, 192.0.2.3").status_code == 429


def test_without_a_broker_an_execution_is_accepted_and_left_to_the_sweep(
    restart: Api, engine: Engine, settings: Settings
) -> None:
    alone = create_app(settings.model_copy(update={"redis_url": None}), engine=engine)
    api = Api(alone.test_client(), restart.key)
    assert api("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202
    started = api("POST", "/v1/playbooks/restart/executions", {"service": "web"})
    assert started.status_code == 202
    shared = alone.extensions["medic"]
    shared.hints.close()
    with engine.connect() as connection:
        row = connection.execute(
            text("SELECT due_at <= now() AS due, dispatched_at, owner FROM executions")
        ).one()
    assert (row.due, row.dispatched_at, row.owner) == (True, None, None)
    health = looking(alone)("GET", "/health")
    assert (health.status_code, health.get_json()["components"]["broker"]["status"]) == (200, "off")
    assert looking(alone)("GET", "/health/ready").status_code == 200
    shared.heartbeats.close()


def test_an_address_that_guesses_keys_is_not_looked_up_any_more(
    engine: Engine, settings: Settings, make_key: MakeKey, statements: Callable[[], int]
) -> None:
    one = create_app(settings, engine=engine)
    api, other = Api(one.test_client(), make_key("admin")), Api(one.test_client(), make_key("admin"))
    assert api("GET", "/v1/services").status_code == 200
    # Well-formed and unknown: each costs a look-up, as long as it is looked up.
    strangers = [Api(one.test_client(), unknown_key()) for _ in range(LIMIT + 3)]
    codes = [stranger("GET", "/v1/services").status_code for stranger in strangers[:LIMIT]]
    assert codes == [401] * LIMIT
    before = statements()
    for stranger in strangers[LIMIT:]:
        refused = stranger("GET", "/v1/services")
        problem(refused, 429)
        assert 1 <= int(refused.headers["Retry-After"]) <= WINDOW_S
    assert statements() == before
    assert api("GET", "/v1/services").status_code == 200  # who passed before, goes on
    problem(other("GET", "/v1/services"), 429)


def test_a_key_that_failed_is_not_trusted_for_having_passed_once() -> None:
    failures = Failures()
    failures.passed("key", now=0.0)
    for _ in range(LIMIT):
        failures.count("192.0.2.1", now=1.0)
    assert failures.wait("192.0.2.1", "other", now=2.0) == WINDOW_S - 1.0
    assert failures.wait("192.0.2.1", "key", now=2.0) == 0.0
    assert failures.wait("192.0.2.2", "other", now=2.0) == 0.0
    failures.count("192.0.2.1", now=2.0, key="key")  # it was revoked
    assert failures.wait("192.0.2.1", "key", now=3.0) > 0
    assert failures.wait("192.0.2.1", "key", now=1.0 + WINDOW_S) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("no:address", "no:address", True),
    ],
)
def test_one_host_cannot_guess_from_all_its_addresses(one: str, other: str, alike: bool) -> None:
    failures = Failures()
    for _ in range(LIMIT):
        failures.count(one, now=0.0)
    assert (failures.wait(other, "key", now=1.0) > 0) == alike


def test_trust_in_a_key_lasts_from_one_daily_job_to_the_next() -> None:
    failures = Failures()
    failures.passed("key", now=0.0)
    for at in (86_400.0, TRUST_S):
        for _ in range(LIMIT):
            failures.count("192.0.2.1", now=at)
        assert (failures.wait("192.0.2.1", "key", now=at) == 0.0) == (at < TRUST_S)


def unknown_key() -> str:
    return api_keys.mint(random=secrets.token_bytes(api_keys.RANDOM_BYTES)).text.get_secret_value()


@pytest.fixture
def statements(engine: Engine) -> Iterator[Callable[[], int]]:
    """How many statements the database was sent."""
    sent = 0

    def count(*_: object) -> None:
        nonlocal sent
        sent += 1

    event.listen(engine, "before_cursor_execute", count)
    yield lambda: sent
    event.remove(engine, "before_cursor_execute", count)
