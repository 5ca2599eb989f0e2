"""The doctor on real servers: what is fine, what is not, and the probes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from medic import vault
from medic.crypto.key_ring import KeyRing
from medic.db import transaction
from medic.liveness import MAX_AGE_S
from medic.local.servers import Servers
from medic.settings import Settings


@pytest.fixture
def bare_database(database_url: str) -> Any:
    """A database without Medic's schema."""
    admin = create_engine(database_url, isolation_level="AUTOCOMMIT")
    name = "medic_bare_" + make_url(database_url).database[-8:]  # type: ignore[index]
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    yield make_url(database_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


def verdicts(result: Result) -> dict[str, tuple[str, str]]:
    """Each check's verdict and text; of several of one name, the last."""
    return {item["name"]: (item["verdict"], item["text"]) for item in json.loads(result.stdout)["checks"]}


def alive(environ: dict[str, str], name: str, *, age_s: float = 0.0) -> None:
    folder = Path(environ["MEDIC_RUN_DIR"])
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.alive").touch()
    then = time.time() - age_s
    os.utime(folder / f"{name}.alive", (then, then))


def test_everything_that_answers_is_ok_and_no_secret_is_shown(
    medic: Any, api: Any, admin: Any, environ: dict[str, str], engine: Engine
) -> None:
    alive(environ, "steps@here", age_s=3)
    alive(environ, "beat")
    result = admin("doctor", "--output", "json", **(environ | {"MEDIC_BASE_URL": api.url}))
    found = verdicts(result)
    assert result.exit_code == 0, result.output
    assert (
        found["database"][0]
        == found["migrations"][0]
        == found["partitions"][0]
        == found["secrets"][0]
        == "ok"
    )
    assert found["API"] == ("ok", f"ready at {api.url}")
    assert found["API key"] == ("ok", "taken")
    assert found["worker steps@here"][0] == found["beat"][0] == "ok"
    assert found["webhooks"][0] == "ok"
    assert "PostgreSQL" in found["database"][1]
    assert found["audit log"][0] == "ok"
    assert "settings" not in found
    for name in ("MEDIC_SECRETS_KEY", "MEDIC_API_KEY_PEPPER", "MEDIC_AUDIT_KEY"):
        assert environ[name] not in result.output


def test_people_see_the_settings_and_the_checks_as_lines(
    medic: Any, environ: dict[str, str], engine: Engine
) -> None:
    result = medic("doctor", **environ, PORT="8181", MEDIC_SANDBOX="best-effort")
    lines = result.output.splitlines()
    assert "  PORT = 8181" in lines
    assert "  DB_PORT = 5432 (default)" in lines
    assert "  MEDIC_SECRETS_KEY = (set, not shown)" in lines
    assert "  MEDIC_AUDIT_KEY = (set, not shown)" in lines
    assert any(line.startswith("  ok    database: PostgreSQL ") for line in lines)
    assert any(line.startswith("  FAIL  API: No server") for line in lines)
    assert result.exit_code == 1


def test_without_anything_it_says_what_is_missing(medic: Any) -> None:
    result = medic("doctor", "--output", "json")
    found = verdicts(result)
    assert result.exit_code == 1
    assert found["database"][0] == found["redis"][0] == found["API keys"][0] == found["API"][0] == "fail"


def test_pending_migrations_are_a_failure(medic: Any, environ: dict[str, str], bare_database: str) -> None:
    result = medic("doctor", "--output", "json", **environ | {"MEDIC_DATABASE_URL": bare_database})
    assert verdicts(result)["migrations"][0] == "fail"
    assert "run `medic migrate`" in verdicts(result)["migrations"][1]


def test_a_database_that_is_away_is_told_without_its_password(medic: Any, environ: dict[str, str]) -> None:
    away = environ | {"MEDIC_DATABASE_URL": "postgresql://medic:hunter2@127.0.0.1:1/medic"}
    result = medic("doctor", "--output", "json", **away)
    verdict, words = verdicts(result)["database"]
    assert (verdict, result.exit_code) == ("fail", 1)
    assert "Connection refused" in words
    assert "hunter2" not in result.output


def test_a_broker_that_is_away_is_told_without_its_password(medic: Any, environ: dict[str, str]) -> None:
    result = medic("doctor", "--output", "json", **environ | {"REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"})
    assert verdicts(result)["redis"][0] == "fail"
    assert "hunter2" not in result.output


def test_another_secrets_key_is_a_failure_and_looking_changes_nothing(
    medic: Any, environ: dict[str, str], engine: Engine
) -> None:
    canaries = text("SELECT count(*) FROM canaries")
    assert verdicts(medic("doctor", "--output", "json", **environ))["secrets"][0] == "ok"
    with engine.connect() as connection:
        assert connection.execute(canaries).scalar_one() == 0
    ring = vault.key_ring(Settings.from_env(environ))
    with transaction(engine) as session:
        vault.check_key(session, ring)
        session.execute(text("UPDATE canaries SET sealed = :noise"), {"noise": b"no seal of this key" * 4})
    assert isinstance(ring, KeyRing)
    result = medic("doctor", "--output", "json", **environ)
    assert (verdicts(result)["secrets"][0], result.exit_code) == ("fail", 1)


def test_a_wrong_allow_list_is_a_failure(medic: Any, environ: dict[str, str], engine: Engine) -> None:
    result = medic(
        "doctor", "--output", "json", **environ, MEDIC_ALLOWED_WEBHOOK_HOSTS="ops.example,10.0.0.0/8"
    )
    assert verdicts(result)["webhooks"][0] == "fail"
    assert "entry 2 needs a port" in verdicts(result)["webhooks"][1]


def test_an_unknown_limiter_is_a_hint(medic: Any) -> None:
    found = verdicts(medic("doctor", "--output", "json", MEDIC_RATE_LIMITER_TYPE="redsi"))
    assert found["rate limiter"][0] == "warn"


def test_the_limiter_that_would_stop_the_start_is_a_failure(medic: Any) -> None:
    found = verdicts(medic("doctor", "--output", "json", MEDIC_RATE_LIMITER_TYPE="Redis"))
    assert found["rate limiter"][0] == "fail"
    assert "REDIS_URL" in found["rate limiter"][1]
    found = verdicts(medic("doctor", "--output", "json", MEDIC_RATE_LIMITER_TYPE="Memory"))
    assert found["rate limiter"] == ("ok", "MEDIC_RATE_LIMITER_TYPE is memory")


def test_routes_without_a_key_are_shown(medic: Any) -> None:
    assert "keyless" not in verdicts(medic("doctor", "--output", "json"))
    opened = medic("doctor", MEDIC_LEGACY_KEYLESS="true").output.splitlines()
    assert "  MEDIC_LEGACY_KEYLESS = true" in opened
    assert any(line.startswith("  warn  keyless: MEDIC_LEGACY_KEYLESS is true") for line in opened)


def test_the_servers_of_a_local_medic_are_found_in_its_folder(
    medic: Any, canned: Any, keys: dict[str, str], tmp_path: Path
) -> None:
    with Servers(tmp_path / "data", durable=False) as servers:
        folder = servers.folder
        folder.keys.mkdir()
        (folder.keys / "api_key_pepper").write_text(keys["MEDIC_API_KEY_PEPPER"])
        folder.admin_key.write_text("mdk_local")
        folder.client.write_text(json.dumps({"url": canned.url, "key_file": str(folder.admin_key)}))
        (folder.run / "beat.alive").touch()
        canned.answer(200, {})
        canned.answer(200, {"items": [], "next": None})
        result = medic("doctor", "--output", "json", "--data-dir", str(folder.path))
    found = verdicts(result)
    assert found["database"][0] == found["redis"][0] == found["API keys"][0] == found["API key"][0] == "ok"
    assert found["beat"][0] == "ok"
    assert found["migrations"][0] == "fail"
    assert canned.requests[1][2]["Authorization"] == "Bearer mdk_local"


def test_a_wrong_setting_stops_it_as_it_stops_the_start(medic: Any) -> None:
    result = medic("doctor", PORT="eighty")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.startswith("medic: PORT: ")


@pytest.mark.parametrize("kind", ["worker", "beat"])
def test_a_probe_fails_when_nothing_has_shown_itself(medic: Any, environ: dict[str, str], kind: str) -> None:
    result = medic("doctor", f"--{kind}", MEDIC_RUN_DIR=environ["MEDIC_RUN_DIR"])
    assert result.exit_code == 1
    assert f"no {kind} has shown itself in {environ['MEDIC_RUN_DIR']}" in result.output


@pytest.mark.parametrize(("flag", "file"), [("--worker", "steps@here"), ("--beat", "beat")])
def test_a_probe_fails_when_the_process_is_stuck(
    medic: Any, environ: dict[str, str], flag: str, file: str
) -> None:
    alive(environ, file, age_s=MAX_AGE_S - 20)
    assert medic("doctor", flag, MEDIC_RUN_DIR=environ["MEDIC_RUN_DIR"]).exit_code == 0
    alive(environ, file, age_s=MAX_AGE_S + 5)
    result = medic("doctor", flag, MEDIC_RUN_DIR=environ["MEDIC_RUN_DIR"])
    assert result.exit_code == 1
    assert "no sign of life for 125 s (allowed: 120 s)" in result.output


def test_a_probe_of_one_worker_does_not_look_at_its_neighbours(medic: Any, environ: dict[str, str]) -> None:
    alive(environ, "steps@here")
    alive(environ, "system@here", age_s=900)
    run_dir = environ["MEDIC_RUN_DIR"]
    assert medic("doctor", "--worker", "--name", "steps", MEDIC_RUN_DIR=run_dir).exit_code == 0
    assert medic("doctor", "--worker", "--name", "system", MEDIC_RUN_DIR=run_dir).exit_code == 1
    assert medic("doctor", "--worker", "--name", "step", MEDIC_RUN_DIR=run_dir).exit_code == 1
    assert medic("doctor", "--worker", MEDIC_RUN_DIR=run_dir).exit_code == 1
    assert medic("doctor", "--beat", "--name", "steps", MEDIC_RUN_DIR=run_dir).exit_code == 2


def test_a_probe_is_light() -> None:
    """It runs every few seconds beside the worker that it watches."""
    code = (
        "import contextlib, sys; from medic.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):\n"
        "    main(['doctor', '--worker'])\n"
        "print([name for name in ('sqlalchemy', 'redis', 'requests', 'rich', 'celery') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
                          cwd=Path(__file__).resolve().parents[2])  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_migrate_tells_what_is_pending_and_does_it(medic: Any, bare_database: str) -> None:
    url = {"MEDIC_DATABASE_URL": bare_database}
    before = medic("migrate", "--check", **url)
    assert (before.exit_code, before.stdout) == (1, "")
    assert "migrations are pending" in before.stderr
    done = medic("migrate", **url)
    assert done.exit_code == 0, done.output
    assert medic("migrate", "--check", **url).exit_code == 0
    assert "(0 migrations run)" in medic("migrate", **url).output


def test_migrate_without_a_database_says_what_to_do(medic: Any) -> None:
    assert medic("migrate").exit_code == 78
    away = medic("migrate", "--check", MEDIC_DATABASE_URL="postgresql://medic:hunter2@127.0.0.1:1/medic")
    assert away.exit_code == 5
    assert "Connection refused" in away.stderr
    assert "hunter2" not in away.output
