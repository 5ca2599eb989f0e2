"""Medic's own processes under `medic up`: what is run, and how each is known to be ready."""

from __future__ import annotations

import http.client
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import medic
from medic.local.ports import answers, reachable
from medic.local.program import Program
from medic.settings import Settings

COMPONENTS = ("api", "system", "deliveries", "steps", "beat", "flower")

QUEUES = ("medic.system", "medic.steps", "medic.scripts", "medic.deliveries", "medic.housekeeping")
"""The queues of `medic.broker`, which is not imported here: it brings all of Celery."""

_WORKERS = {
    # The sweep never waits for anything else: its worker does nothing but sweep.
    "system": (QUEUES[:1], 1),
    # A target that hangs holds up neither steps nor, with two messages to each at the most, all other targets.
    "deliveries": (("medic.deliveries",), 4),
    "steps": (("medic.steps", "medic.scripts", "medic.housekeeping"), 4),
}
_BEAT, _WORKING, _FLOWER, _API = range(4)
"""Stages of the stop: nothing new falls due, what runs ends, then nobody needs to look."""


def program(name: str, settings: Settings, environ: Mapping[str, str]) -> Program:
    """How one of `COMPONENTS` is run.

    :param environ: the whole environment that it gets; ``settings`` are read from it.
    """
    if name in _WORKERS:
        return _worker(name, settings, environ)
    if name == "beat":
        return Program(
            name=name,
            argv=_medic("beat"),
            env=environ,
            stage=_BEAT,
            announces=re.compile(r"\bbeat: Starting"),
            probe=_lives(settings.run_dir, name),
        )
    if name == "flower":
        host = flower_host(settings)
        return Program(
            name=name,
            argv=_medic("flower"),
            env=environ,
            stage=_FLOWER,
            probe=lambda: answers(host, settings.flower_port),
        )
    assert name == "api", name
    return Program(
        name=name,
        argv=_medic("api"),
        env=environ,
        stage=_API,
        stop_within=20.0,
        probe=lambda: _healthy(reachable(settings.host), settings.port),
    )


def flower_host(settings: Settings) -> str:
    """Flower shows everything: without a password it listens on loopback only."""
    return settings.host if settings.flower_basic_auth else "127.0.0.1"


def _worker(name: str, settings: Settings, environ: Mapping[str, str]) -> Program:
    queues, concurrency = _WORKERS[name]
    return Program(
        name=name,
        argv=_medic(
            "worker", "--name", name, "--queues", ",".join(queues), "--concurrency", str(concurrency)
        ),
        # Who starts `medic up` as root means it; the message is Celery's, a dozen lines long.
        env={**environ, "PYTHONWARNINGS": "ignore:You're running the worker with superuser"},
        stage=_WORKING,
        stop_within=settings.step_timeout_cap + 30.0,  # SIGTERM is warm: what runs may end
        orphan_signal=signal.SIGQUIT,  # cold: without its servers it could record nothing
        announces=re.compile(rf"\b{name}@\S+ ready"),
        probe=_lives(settings.run_dir, name),
    )


def _medic(*arguments: str) -> tuple[str, ...]:
    # -P: the folder we stand in is not searched for modules; PYTHONPATH is (see `import_path`).
    return (sys.executable, "-P", "-m", "medic", *arguments)


def import_path(environ: Mapping[str, str]) -> dict[str, str]:
    """``PYTHONPATH`` with the folder that holds our packages, where they are not installed."""
    root = Path(medic.__file__).resolve().parent.parent
    if "site-packages" in root.parts:
        return {}
    return {"PYTHONPATH": ":".join(filter(None, (str(root), environ.get("PYTHONPATH"))))}


def _lives(run_dir: Path | None, name: str) -> Callable[[], bool]:
    """A liveness file of this component that is newer than this moment, whatever the log level is."""
    since = time.time()

    def probe() -> bool:
        if run_dir is None:
            return False
        with suppress(OSError):
            return any(file.stat().st_mtime >= since for file in run_dir.glob(f"*{name}*") if file.is_file())
        return False

    return probe


def _healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
