"""What Medic needs of a machine: memory, and the time until it is ready."""

from __future__ import annotations

import os
import re
import time

from bench.result import Finding, Measured, Row
from bench.rows import engine, ingest
from bench.stage import ROOT, Stage

STARTS = 2
_READY = re.compile(r"^Medic is ready", re.MULTILINE)


def api(stage: Stage) -> Finding:
    sizes = ingest.resident(stage)
    return Measured(sizes[:1], note=f"after the load of ingest.single; with its parent: {_list(sizes)} MB")


def worker(stage: Stage) -> Finding:
    sizes = engine.resident(stage)
    return Measured(sizes[:1], note=f"after the load of engine.steps; with its parent: {_list(sizes)} MB")


def ready(stage: Stage) -> Finding:
    """A first start: the cluster is made, the schema migrated, every process started."""
    seconds = []
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environ["PYTHONPATH"] = str(ROOT)
    for number in range(STARTS):
        data = stage.folder / f"up-{number}"
        arguments = ("-m", "medic", "up", "--data-dir", str(data), "--port", "0", "--flower-port", "0")
        began = time.monotonic()
        with stage.process(f"up-{number}", *arguments, environ=environ) as process:
            process.await_(lambda log=process.log: _READY.search(log.read_text()) is not None)  # type: ignore[misc]
            seconds.append(time.monotonic() - began)
    return Measured(seconds, note="first start on an empty folder, from the command to the ready line")


def _list(sizes: list[float]) -> str:
    return ", ".join(f"{size:.0f}" for size in sizes)


ROWS = (
    Row("memory.api", "resident memory of an API process", "MB", api, at_most=150),
    Row("memory.worker", "resident memory of a worker's process", "MB", worker, at_most=150),
    Row("up.ready", "`medic up` to ready", "s", ready, at_most=10),
)
