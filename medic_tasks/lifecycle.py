"""What happens when a worker, a pool process or beat starts and ends."""

from __future__ import annotations

import gc
import sys
from typing import Any

from celery import signals

from medic import settings as settings_
from medic.db import engine, make_engine
from medic.errors import Misconfigured
from medic.startup import check_worker
from medic.targets import KINDS
from medic.telemetry.database import measure_engine
from medic.telemetry.exposition import scrape_registry, serve_metrics
from medic.telemetry.instrumentation import instrument_celery, instrument_clients, instrument_engine
from medic.telemetry.logs import bind_context, clear_context, configure_logging
from medic.telemetry.metrics import show_zeroes
from medic.telemetry.traces import configure_tracing, shutdown_tracing
from medic_tasks.liveness import mark_alive

EX_CONFIG = 78
"""Exit code of a wrong configuration (sysexits.h)."""
COMPONENT = next((word for word in sys.argv if word in {"worker", "beat", "flower"}), "worker")
"""Which of Celery's commands this process is."""


def connect() -> None:
    """Hook into Celery's signals; called once, by the application's module."""
    # At once, and not only when Celery asks: Flower never does, and a worker warns before it does.
    configure_logging(settings_.current(), COMPONENT)
    signals.setup_logging.connect(_logging, weak=False)
    signals.worker_init.connect(_worker_starts, weak=False)
    signals.worker_process_init.connect(_pool_process_starts, weak=False)
    signals.worker_process_shutdown.connect(_pool_process_ends, weak=False)
    signals.heartbeat_sent.connect(_consumer_lives, weak=False)
    signals.beat_init.connect(_beat_starts, weak=False)
    signals.task_prerun.connect(_task_starts, weak=False)
    signals.task_postrun.connect(_task_ends, weak=False)


def _logging(**_: Any) -> None:
    configure_logging(settings_.current(), COMPONENT)


def _trace(component: str) -> None:
    if configure_tracing(settings_.current(), component):
        instrument_celery()
        instrument_clients()
        instrument_engine(engine())


def _worker_starts(**_: Any) -> None:
    _check()
    # What is imported stays for good: the collector need not look at it again, nor touch the pages that the pool's
    # processes share with this one.
    gc.collect()
    gc.freeze()
    _trace("worker")
    _serve_metrics()


def _check() -> None:
    """A wrong setting stops the start with one line; Celery itself would log it and go on."""
    current = settings_.current()
    try:
        # An engine of its own: the pool's processes must not inherit an open connection.
        own = make_engine(current.need_database_url(), component="medic-worker-start")
        try:
            check_worker(current, own)
        finally:
            own.dispose()
    except Misconfigured as error:
        sys.stderr.write(f"medic: {error}\n")
        sys.stderr.flush()
        raise SystemExit(EX_CONFIG) from None


def _beat_starts(**_: Any) -> None:
    _trace("beat")
    _serve_metrics()


def _serve_metrics() -> None:
    current = settings_.current()
    measure_engine(engine())
    show_zeroes(KINDS)
    serve_metrics(current.metrics_port, current.host, scrape_registry(current))


def _pool_process_starts(**_: Any) -> None:
    _trace("worker")


def _pool_process_ends(**_: Any) -> None:
    shutdown_tracing()


def _consumer_lives(sender: Any = None, **_: Any) -> None:
    mark_alive(str(getattr(getattr(sender, "eventer", None), "hostname", "worker")))


def _task_starts(task_id: str = "", task: Any = None, **_: Any) -> None:
    clear_context()
    bind_context(task_id=task_id, task=getattr(task, "name", None))


def _task_ends(**_: Any) -> None:
    clear_context()
