"""The servers go away and come back: a whole Medic on servers of its own goes on where it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medic.db import make_engine
from medic.local.servers import Servers
from medic.migrate import upgrade
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually

DISPATCH = """
import sys
from uuid import UUID
from medic.db import engine
from medic.executions.dispatch import dispatch
print(dispatch(engine(), execution_id=UUID(sys.argv[1]), epoch=0))
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("outage"), durable=True) as made:
        upgrade(made.database_url)
        yield made


@pytest.fixture(scope="module")
def workers(
    servers: Servers, task_environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("outage-workers")
    environ = task_environ | {
        "MEDIC_DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "MEDIC_RUN_DIR": str(folder / "run"),
    }
    made = Workers(environ, folder / "workers.log")
    made.steps()
    made.system()
    yield made
    made.stop()


@pytest.fixture
def there(servers: Servers, workers: Workers) -> Iterator[House]:
    engine = make_engine(servers.database_url)
    yield House(engine)
    engine.dispose()


def comes_back(servers: Servers, name: str) -> None:
    """The supervisor starts what exited, as `medic up` does."""

    def ready() -> bool:
        servers.supervisor.tick()
        process = servers.supervisor.process(name)
        return process.exit_code() is None and process.is_ready()

    eventually(ready, within=60)


def test_an_execution_that_starts_while_the_broker_is_away_runs_when_it_is_back(
    there: House, servers: Servers, workers: Workers, outside: Recorder, tmp_path: Path
) -> None:
    there.playbook(f'name: one\nsteps:\n  - {{name: act, type: webhook, url: "{outside.url}/act"}}\n')
    servers.supervisor.process("valkey").kill_hard()
    eventually(lambda: servers.supervisor.process("valkey").exit_code() is not None)
    execution = there.start("one", publish=False)
    sent = subprocess.run(
        [sys.executable, "-c", DISPATCH, str(execution)],
        env=os.environ | workers.environ, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert sent.stdout.split()[-1] == "False"
    row = there.row(execution)
    assert (row["state"], row["owner"], row["redispatches"], row["dispatched_at"]) == (
        "running",
        None,
        0,
        None,
    )
    assert (row["due_at"] - row["created_at"]).total_seconds() < 50
    comes_back(servers, "valkey")
    assert there.ended(execution, within=60) == "completed"
    assert len(outside.of("/act")) == 1


def test_a_database_that_restarts_in_the_middle_of_a_step_doubles_and_loses_nothing(
    there: House, servers: Servers, workers: Workers, outside: Recorder
) -> None:
    go_on = threading.Event()

    def hold(request: Received) -> tuple[int, bytes]:
        if request.path == "/act":
            assert go_on.wait(60)
        return 200, b'{"id": 7}'

    outside.answer = hold
    there.playbook(f"""
name: two
steps:
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
  - {{name: after, type: webhook, url: "{outside.url}/after", body: {{id: "${{steps.act.body.id}}"}}}}
""")
    execution = there.start("two", publish=False)
    eventually(lambda: outside.of("/act"))
    servers.supervisor.process("postgres").kill()
    eventually(lambda: servers.supervisor.process("postgres").exit_code() is not None)
    go_on.set()
    eventually(lambda: "database.away" in workers.said())
    comes_back(servers, "postgres")
    there.engine.dispose()
    assert there.ended(execution, within=60) == "completed"
    assert [request.path for request in outside.requests] == ["/act", "/after"]
    assert outside.of("/after")[0].json == {"id": 7}
    assert [attempt["outcome"] for attempt in there.attempts(execution)] == ["completed", "completed"]
