"""Pools of workers on one broker: each counts what it runs by itself, loses nothing of another's, and is scaled on
what the rendered triggers read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from medic import broker
from medic.errors import Misconfigured
from medic.settings import Settings
from tests.recorder import Received, Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers
from tests.waiting import eventually

PREFIX = "prod:"


def pool(own: Workers, name: str, folder: Path, **environ: str) -> Workers:
    """Workers of a pool; `own` ends them too."""
    made = Workers(own.environ | {"MEDIC_WORKER_POOL": name} | environ, folder / f"{name}.log", own.running)
    made.log.touch()
    return made


def one_step(url: str) -> str:
    return f"{{name: one, steps: [{{name: call, type: webhook, url: '{url}/call'}}]}}"


def grow_old(client: redis.Redis, index: str) -> None:
    """Let more than the visibility timeout pass for what a dead worker held."""
    for tag in client.zrange(index, 0, -1):
        client.zadd(index, {tag: 1})


def test_a_killed_workers_message_is_found_again_though_only_another_pool_lived(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis, tmp_path: Path
) -> None:
    of_a, of_b = pool(own, "a", tmp_path), pool(own, "b", tmp_path)
    house.playbook(one_step(outside.url))
    execution = house.start("one")
    with house.engine.connect() as holder:
        # The worker takes the message and cannot claim the row: nothing but the broker knows of it.
        holder.execute(text("SELECT 1 FROM executions WHERE id = :id FOR UPDATE"), {"id": execution})
        victim = of_a.steps("a")
        eventually(lambda: broker_client.hlen("unacked.a") == 1, within=60)
        of_a.kill(victim)
        holder.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                 " WHERE datname = current_database() AND wait_event_type = 'Lock'")
        )  # fmt: skip
    grow_old(broker_client, "unacked_index.a")

    # Pool B has lost a message of its own just so, and finds it as it starts: it looked for what is lost.
    assert broker.publish_delivery(999_999)
    raw = broker_client.rpop(broker.DELIVERIES)
    assert isinstance(raw, bytes)
    message = json.loads(raw)
    where = message["properties"]["delivery_info"]
    broker_client.hset(
        "unacked.b", message["properties"]["delivery_tag"], json.dumps([message, where["exchange"], where["routing_key"]])
    )  # fmt: skip
    broker_client.zadd("unacked_index.b", {message["properties"]["delivery_tag"]: 1})
    of_b.deliveries("b")
    eventually(
        lambda: broker_client.hlen("unacked.b") + broker_client.llen(broker.DELIVERIES) == 0, within=30
    )
    assert broker_client.hlen("unacked.a") == broker_client.zcard("unacked_index.a") == 1
    assert outside.requests == []

    of_a.steps("a")
    assert house.ended(execution) == "completed"
    eventually(lambda: broker_client.hlen("unacked.a") == 0, within=60)
    assert len(outside.requests) == 1
    assert house.attempts(execution)[0]["epoch"] == 1, "the message did it, not the sweep"


def read_as_keda(client: redis.Redis, key: str) -> int:
    """What KEDA's scaler reads: the kind of the key says with which command."""
    commands = {b"list": client.llen, b"hash": client.hlen, b"zset": client.zcard, b"set": client.scard}
    kind = client.type(key)
    return int(commands[kind](key)) if kind in commands else 0


def test_the_rendered_triggers_read_what_waits_and_what_runs(
    house: House, own: Workers, outside: Recorder, broker_client: redis.Redis, tmp_path: Path
) -> None:
    pytest.importorskip("helm_python")
    from tests.chart.rendering import SCALED, render

    rendered = render(SCALED, {"config": {"MEDIC_BROKER_PREFIX": PREFIX}})
    scaled = rendered.one("ScaledObject", "medic-worker-steps")["spec"]
    (container,) = rendered.one("Deployment", "medic-worker-steps")["spec"]["template"]["spec"]["containers"]
    names = {variable["name"]: variable["value"] for variable in container["env"]}
    config = rendered.one("ConfigMap", "medic-config")["data"]
    prefix = {"MEDIC_BROKER_PREFIX": config["MEDIC_BROKER_PREFIX"]}

    def depths() -> dict[str, int]:
        return {
            trigger["name"]: read_as_keda(broker_client, trigger["metadata"]["listName"])
            for trigger in scaled["triggers"]
        }

    def in_a_process(code: str) -> str:
        """Of a process with the chart's prefix; Celery reads it once."""
        done = subprocess.run(
            [sys.executable, "-c", code], env=own.environ | prefix, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    let_go = threading.Event()

    def answer(_: Received) -> tuple[int, bytes]:
        let_go.wait(60)
        return 200, b"{}"

    outside.answer = answer
    house.playbook(one_step(outside.url))
    executions = [house.start("one", publish=False) for _ in range(5)]
    try:
        in_a_process("from medic_tasks.sweeps import sweep_executions; sweep_executions()")
        assert depths() == {"queued_0": 5, "queued_1": 0, "running": 0}
        assert not broker_client.exists(broker.STEPS), "the prefix is on every key"
        asked = in_a_process(
            "from medic_tasks.sweeps import oldest_dispatch; print(oldest_dispatch('webhook') is not None)"
        )
        assert asked.endswith("True\n"), "the sweep's backlog guard reads the same list"

        workers = pool(own, names["MEDIC_WORKER_POOL"], tmp_path, **prefix)
        queues = container["args"][container["args"].index("--queues") + 1]
        workers._start("steps", "worker", "--name", "steps", "--queues", queues, "--concurrency", "2")
        eventually(lambda: depths() == {"queued_0": 3, "queued_1": 0, "running": 2}, within=60)
        assert len(outside.requests) <= 2
        let_go.set()
        for execution in executions:
            assert house.ended(execution) == "completed"
        eventually(lambda: set(depths().values()) == {0}, within=60)
    finally:
        let_go.set()
        own.stop()
        for key in broker_client.scan_iter(f"{PREFIX}*"):
            broker_client.delete(key)


def test_the_queries_of_the_pools_are_ones_that_the_database_answers(engine: Engine) -> None:
    pytest.importorskip("helm_python")
    from tests.chart.rendering import SCALED, render

    values: dict[str, Any] = {"workers": {"autoscaling": {"trigger": "postgresql"}}}
    queries = [
        trigger["metadata"]["query"]
        for item in render(SCALED, values).of("ScaledObject")
        for trigger in item["spec"]["triggers"]
        if trigger["type"] == "postgresql"
    ]
    assert len(queries) == 3
    with engine.connect() as connection:
        assert [connection.execute(text(query)).scalar_one() for query in queries] == [0, 0, 0]


@pytest.mark.parametrize("name", ["a b", "Steps", "-x", "x" * 41, "steps,scripts"])
def test_a_pools_name_that_would_not_do_in_a_key_stops_the_start(name: str) -> None:
    with pytest.raises(Misconfigured, match="MEDIC_WORKER_POOL"):
        Settings.from_env({"MEDIC_WORKER_POOL": name})
