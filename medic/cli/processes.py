"""`medic api|worker|beat|flower`: one process each.  The settings are checked, then the program takes over."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import click

from medic import liveness
from medic.local.components import QUEUES
from medic.settings import Settings, current
from medic.telemetry import GRANIAN_LOGS
from medic.telemetry.multiprocess import VARIABLE

_CELERY = ("-m", "celery", "--app", "medic_tasks.app:app", "--quiet")
_LOOPBACK = "127.0.0.1"


@click.command()
def api() -> None:
    """Serve heartbeats, the management API and the console."""
    settings = current()
    from medic import startup  # noqa: PLC0415 - the other commands start without the database's libraries
    from medic.db import make_engine  # noqa: PLC0415

    # Here, where a wrong setting is one line and an exit code; the server would start it again and again.
    engine = make_engine(settings.need_database_url(), component="medic-startup")
    try:
        startup.check(settings, engine)
    finally:
        engine.dispose()
    _become(api_arguments(settings), _metrics_environ(settings, f"api-{settings.port}"))


@click.command()
@click.option("--name", required=True, help="Name of this worker, unique on its machine.")
@click.option(
    "--queues",
    required=True,
    callback=lambda _ctx, _param, value: parse_queues(value),
    help=f"What it works on, separated by commas: {', '.join(QUEUES)}.",
)
@click.option("--concurrency", type=click.IntRange(1, 256), help="Default 4; 1 with medic.system.")
@click.option("--pool", type=click.Choice(["prefork", "solo"]), default="prefork", show_default=True)
def worker(name: str, queues: tuple[str, ...], concurrency: int | None, pool: str) -> None:
    """Work on queues.  medic.system wants a worker of its own, so that a sweep never waits."""
    sweeps = "medic.system" in queues
    if sweeps and (concurrency or 1) > 1:
        # A sweep judges leases by how long its own process has reached the database: it has to be one process.
        raise click.UsageError("medic.system takes --concurrency 1; start a second worker to sweep faster.")
    concurrency = concurrency or (1 if sweeps else 4)
    settings = _settings_of_a_task_process()
    arguments = worker_arguments(settings, name=name, queues=queues, concurrency=concurrency, pool=pool)
    _become(arguments, _metrics_environ(settings, name))


@click.command()
def beat() -> None:
    """Send the ticks.  One is enough; a second does no harm."""
    _become(beat_arguments(_settings_of_a_task_process()), {})


@click.command()
def flower() -> None:
    """Show the tasks.  Without MEDIC_FLOWER_BASIC_AUTH it listens on loopback only."""
    settings = _settings_of_a_task_process()
    _become(flower_arguments(), flower_environ(settings))


def parse_queues(value: str) -> tuple[str, ...]:
    """Read a list of queues.

    :raises click.BadParameter: when it is empty, or names one that is none of ours.
    """
    queues = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    unknown = [queue for queue in queues if queue not in QUEUES]
    if unknown or not queues:
        raise click.BadParameter(
            f"{unknown[0] if unknown else 'none'} is no queue; there are {', '.join(QUEUES)}"
        )
    return queues


def api_arguments(settings: Settings) -> list[str]:
    """Granian's, for Python.  No access log: what a request did is in Medic's own log and metrics."""
    return [
        "-m", "granian", "--interface", "wsgi", "--host", settings.host, "--port", str(settings.port),
        "--workers", str(settings.api_workers), "--blocking-threads", str(settings.api_threads),
        "--no-ws", "--no-access-log", "--log-level", _granian_level(settings), "--log-config", str(GRANIAN_LOGS),
        "--respawn-failed-workers", "--workers-kill-timeout", "15", "medic_api.wsgi:app",
    ]  # fmt: skip


def worker_arguments(
    settings: Settings, *, name: str, queues: tuple[str, ...], concurrency: int, pool: str
) -> list[str]:
    """Celery's, for Python.  No mingle, no gossip: workers learn nothing from one another here."""
    return [
        *_CELERY, "worker", "--hostname", f"{name}@%h", "--queues", ",".join(queues),
        "--concurrency", str(concurrency), "--pool", pool, "--task-events",
        "--without-mingle", "--without-gossip", "--loglevel", settings.log_level,
    ]  # fmt: skip


def beat_arguments(settings: Settings) -> list[str]:
    """Celery's, for Python.  The schedule lives in memory and in the database: no file, no pid file."""
    return [
        *_CELERY, "beat", "--scheduler", "medic_tasks.beat:Scheduler", "--pidfile", "",
        "--loglevel", settings.log_level,
    ]  # fmt: skip


def flower_arguments() -> list[str]:
    """Flower's, for Python; the rest is in `flower_environ`."""
    # Its own logging would take the root logger's place, and its lines another form.
    return [*_CELERY, "flower", "--logging=none"]


def flower_environ(settings: Settings) -> dict[str, str]:
    """Flower's options; as variables, since the password must not stand in the arguments."""
    options = {
        "FLOWER_PORT": str(settings.flower_port),
        "FLOWER_READ_ONLY": "true",
        "FLOWER_TASKS_COLUMNS": "name,uuid,state,args,result,root_id,parent_id,received,runtime,worker",
    }
    if settings.flower_basic_auth is not None:
        options |= {
            "FLOWER_ADDRESS": settings.host,
            "FLOWER_BASIC_AUTH": settings.flower_basic_auth.get_secret_value(),
        }
    else:
        # Its JSON API refuses to answer without a password unless it is told that this is meant.
        options |= {"FLOWER_ADDRESS": _LOOPBACK, "FLOWER_UNAUTHENTICATED_API": "true"}
    memory = _flower_memory(settings.run_dir)
    if memory is not None:
        options |= {
            "FLOWER_PERSISTENT": "true",
            "FLOWER_DB": str(memory),
            "FLOWER_STATE_SAVE_INTERVAL": "30000",
        }
    return options


def _flower_memory(run_dir: Path | None) -> Path | None:
    if run_dir is None or not os.access(run_dir, os.W_OK | os.X_OK):
        return None
    return run_dir / "flower.db"


def _metrics_environ(settings: Settings, name: str) -> dict[str, str]:
    """A folder in which the processes of this entry share their metrics, empty at its start."""
    folder = liveness.folder(settings) / "metrics" / name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return {}  # a read-only place: each process then shows its own
    return {VARIABLE: str(folder)}


def _settings_of_a_task_process() -> Settings:
    settings = current()
    settings.need_redis_url()
    settings.need_database_url()
    return settings


def _granian_level(settings: Settings) -> str:
    # Below ERROR it tells of its own start and gives advice on thread counts, at each start.
    return "debug" if settings.log_level == "DEBUG" else "error"


def _become(arguments: list[str], more: dict[str, str]) -> NoReturn:
    """Become the program: same process, same signals, nothing of ours left in memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    # -P as we were started: the folder we stand in is not searched for modules.
    flags = ["-P"] if sys.flags.safe_path else []
    os.execve(sys.executable, [sys.executable, *flags, *arguments], {**os.environ, **more})  # noqa: S606 - no shell is the point
