"""The broker's connection falls silent in the middle of an acknowledgement."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medic.db import make_engine
from medic.local.servers import Servers
from tests.chaos.wire import Wire
from tests.recorder import Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.tasks.test_outages import DISPATCH
from tests.waiting import eventually


@pytest.fixture
def workers(servers: Servers, wire: Wire, task_environ: dict[str, str], tmp_path: Path) -> Iterator[Workers]:
    environ = {
        "MEDIC_DATABASE_URL": servers.database_url,
        "REDIS_URL": wire.url,
        "MEDIC_RUN_DIR": str(tmp_path / "run"),
    }
    made = Workers(task_environ | environ, tmp_path / "workers.log")
    yield made
    made.stop()


def test_a_worker_whose_acknowledgement_is_never_answered_takes_the_next_message(
    servers: Servers, wire: Wire, workers: Workers, world: Recorder
) -> None:
    engine = make_engine(servers.database_url)
    house = House(engine)
    house.playbook(f'name: one\nsteps:\n  - {{name: act, type: webhook, url: "{world.url}/act"}}\n')
    workers.steps(concurrency=1)
    silent = wire.silence(b"HDEL")
    for _ in range(2):
        execution = house.start("one", publish=False)
        subprocess.run(
            [sys.executable, "-c", DISPATCH, str(execution)],
            env=os.environ | workers.environ, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert house.ended(execution, within=60) == "completed"
    assert silent.is_set()
    eventually(lambda: "broker.not_acknowledged" in workers.said())
    engine.dispose()
