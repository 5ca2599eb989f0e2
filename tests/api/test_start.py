"""What stops the start: a wrong setting, with one line.  A server that is away does not."""

from __future__ import annotations

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


def test_a_wrong_setting_stops_the_start_with_one_clear_line(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import medic_api.wsgi"],
        env=os.environ | environ | {"MEDIC_ALLOWED_WEBHOOK_HOSTS": "http://x/y z"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.startswith("medic: MEDIC_ALLOWED_WEBHOOK_HOSTS: ")
    assert done.stderr.count("\n") == 1


def named(settings: Settings, key: str) -> Settings:
    return settings.model_copy(update={"secrets_key": SecretStr(key)})


def test_another_key_under_the_same_name_stops_the_start(engine: Engine, settings: Settings) -> None:
    check(named(settings, "k1:" + "A" * 43 + "="), engine)
    check(named(settings, "k1:" + "A" * 43 + "="), engine)
    with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
        check(named(settings, "k1:" + "B" * 42 + "A="), engine)


def test_a_database_that_is_away_does_not_stop_the_start(settings: Settings, tmp_path: Path) -> None:
    check(settings, make_engine(f"postgresql+psycopg2://medic@/medic?host={tmp_path}"))


@pytest.mark.parametrize("missing", ["redis_url", "api_key_pepper"])
def test_what_is_missing_is_named(engine: Engine, settings: Settings, missing: str) -> None:
    with pytest.raises(Misconfigured):
        check(settings.model_copy(update={missing: None}), engine)
