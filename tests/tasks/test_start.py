"""What stops a worker's start: a wrong setting, with one line."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import pytest
from sqlalchemy import Engine

from medic import vault
from medic.db import in_transaction
from medic.settings import Settings

OTHER = base64.b64encode(b"o" * 32).decode()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"MEDIC_ADDITIONAL_SCRIPT_ENV_VARS": "EDITOR,MEDIC_SECRETS_KEY"}, "MEDIC_ADDITIONAL_SCRIPT_ENV_VARS: MEDIC_SECRETS_KEY "),
        ({"MEDIC_SECRETS_KEY": OTHER}, "MEDIC_SECRETS_KEY: is not the key that this database was sealed with"),
    ],
)  # fmt: skip
def test_a_wrong_setting_stops_a_worker_with_one_line(
    engine: Engine, environ: dict[str, str], wrong: dict[str, str], line: str
) -> None:
    ring = vault.key_ring(Settings.from_env(environ))
    in_transaction(engine, lambda session: vault.check_key(session, ring))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "medic",
            "worker",
            "--name",
            "wrong",
            "--queues",
            "medic.scripts",
            "--concurrency",
            "1",
        ],
        env=os.environ | environ | {"METRICS_PORT": "0"} | wrong,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78, done.stderr[-3000:]
    assert f"medic: {line}" in done.stderr
    assert "Traceback" not in done.stderr
