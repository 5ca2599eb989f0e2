"""What stops the start: a wrong setting, with one line.  A server that is away does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from medic.db import make_engine
from medic.errors import Misconfigured
from medic.settings import Settings
from medic.startup import check


def started(environ: dict[str, str], **changed: str) -> subprocess.CompletedProcess[str]:
    """The application as a WSGI server loads it."""
    return subprocess.run(
        [sys.executable, "-c", "import medic_api.wsgi"],
        env=os.environ | environ | changed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"MEDIC_ALLOWED_WEBHOOK_HOSTS": "http://x/y z"}, "MEDIC_ALLOWED_WEBHOOK_HOSTS: "),
        ({"MEDIC_ADDITIONAL_SCRIPT_ENV_VARS": "EDITOR, ,MEDIC_AUDIT_KEY"}, "MEDIC_ADDITIONAL_SCRIPT_ENV_VARS: MEDIC_AUDIT_KEY "),
        ({"MEDIC_RATE_LIMITER_TYPE": "Redis", "REDIS_URL": ""}, "MEDIC_RATE_LIMITER_TYPE is redis: set REDIS_URL"),
        ({"MEDIC_RATE_LIMITER_TYPE": "Redis", "REDIS_URL": "http://r"}, "REDIS_URL: must start with redis://"),
    ],
)  # fmt: skip
def test_a_wrong_setting_stops_the_start_with_one_clear_line(
    environ: dict[str, str], wrong: dict[str, str], line: str
) -> None:
    done = started(environ, **wrong)
    assert done.returncode == 78
    assert done.stderr.startswith(f"medic: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("chosen", "levels"), [("AUTO", ["INFO"]), ("memory", ["INFO"]), ("memcached", ["WARNING", "INFO"])]
)
def test_without_a_broker_it_starts_and_one_line_names_the_limiter(
    engine: Engine, environ: dict[str, str], chosen: str, levels: list[str]
) -> None:
    done = started(environ, MEDIC_RATE_LIMITER_TYPE=chosen, REDIS_URL="", MEDIC_LOG_FORMAT="json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if "ratelimit." in line]
    assert [line["SeverityText"] for line in lines] == levels
    assert lines[-1]["Attributes"]["backend"] == "memory"


def named(settings: Settings, key: str) -> Settings:
    return settings.model_copy(update={"secrets_key": SecretStr(key)})


def test_another_key_under_the_same_name_stops_the_start(engine: Engine, settings: Settings) -> None:
    check(named(settings, "k1:" + "A" * 43 + "="), engine)
    check(named(settings, "k1:" + "A" * 43 + "="), engine)
    with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
        check(named(settings, "k1:" + "B" * 42 + "A="), engine)


def test_a_database_that_is_away_does_not_stop_the_start(settings: Settings, tmp_path: Path) -> None:
    check(settings, make_engine(f"postgresql+psycopg2://medic@/medic?host={tmp_path}"))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"api_key_pepper": None}, "MEDIC_API_KEY_PEPPER"),
        ({"redis_url": None, "rate_limiter_type": "redis"}, "REDIS_URL"),
    ],
)
def test_what_is_missing_is_named(
    engine: Engine, settings: Settings, wrong: dict[str, str | None], named: str
) -> None:
    with pytest.raises(Misconfigured, match=named):
        check(settings.model_copy(update=wrong), engine)
