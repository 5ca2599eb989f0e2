"""How Prometheus reads the metrics: what a scrape collects, over all processes, and where it is served."""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import platform
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from medic.settings import Settings
from medic.telemetry.metrics import REGISTRY
from medic.telemetry.multiprocess import shared_directory

_log = logging.getLogger("medic.telemetry")

_FILE: Final = re.compile(r"(counter|histogram|gauge_[a-z]+)_(\d+)\.db")
OPEN_STATES: Final = ("pending_approval", "running", "waiting", "in_doubt")
_SETTLED: Final = "0"
"""The pid under which the counts of ended processes are kept; no process has it."""


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits on one of the broker's queues."""

    depth: int
    oldest_s: float | None
    """How long ago the execution of the oldest message was dispatched; ``None`` where no message names one."""


@dataclass(frozen=True, slots=True)
class Census:
    """What database and broker say about Medic's state at the moment of a scrape."""

    services: Mapping[str, int]
    """Services by status."""
    alerts_active: int
    executions: Mapping[str, int]
    """Executions that are not final, by state."""
    overdue: Mapping[str, float] = field(default_factory=dict)
    """Seconds for which the oldest of ``services``, ``executions`` and ``deliveries`` has been due; 0 for none."""
    jobs: Mapping[str, float] = field(default_factory=dict)
    """Seconds since a job of beat last ran."""
    stopped: bool = False
    queues: Mapping[str, Queue] = field(default_factory=dict)


class BuildInfo(Collector):
    def __init__(self, settings: Settings) -> None:
        self._labels = {
            "service_name": settings.otel_service_name,
            "service_version": settings.version,
            "deployment_environment": settings.environment,
            "python_version": platform.python_version(),
        }

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("medic_build_info", "What runs here; always 1.", labels=list(self._labels))
        family.add_metric(list(self._labels.values()), 1)
        return [family]


class DatabaseCensus(Collector):
    """Gauges whose truth is in the database: no process counts them up and down by itself."""

    def __init__(self, read: Callable[[], Census]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._failing = False

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not ask the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        try:
            census = self._read()
        except Exception as error:  # noqa: BLE001 - a scrape shows the rest while the database is away
            with self._lock:
                first, self._failing = not self._failing, True
            if first:
                _log.warning("metrics.census_failed", extra={"error": type(error).__name__})
            return
        self._failing = False
        yield from _families(census)


def _families(census: Census) -> Iterator[Metric]:
    # Every state that there is, so that a rule on one of them finds a series from the start on.
    executions = dict.fromkeys(OPEN_STATES, 0) | dict(census.executions)
    active = sum(count for status, count in census.services.items() if status != "paused")
    depths = {name: queue.depth for name, queue in census.queues.items()}
    oldest = {name: queue.oldest_s for name, queue in census.queues.items() if queue.oldest_s is not None}
    for name, help_, label, values in (
        ("medic_services", "Services, by status.", "status", census.services),
        ("medic_executions", "Executions that are not final, by state.", "state", executions),
        (
            "medic_overdue_seconds",
            "How long the oldest of services, executions and deliveries has been due by now; 0 when none is.",
            "what",
            census.overdue,
        ),
        ("medic_job_age_seconds", "Time since a job of beat last ran.", "job", census.jobs),
        ("medic_queue_depth", "Messages on a queue that no worker has yet.", "queue", depths),
        (
            "medic_queue_oldest_seconds",
            "How long ago the execution of a queue's oldest message was dispatched.",
            "queue",
            oldest,
        ),
    ):
        family = GaugeMetricFamily(name, help_, labels=[label])
        for key, value in sorted(values.items()):
            family.add_metric([key], value)
        yield family
    for name, help_, count in (
        ("medic_alerts_active", "Alerts that are open.", census.alerts_active),
        ("medic_registered_services", "Services that there are.", sum(census.services.values())),
        ("medic_active_services", "Services that are not paused.", active),
        (
            "medic_playbook_executions_pending_approval",
            "Executions that wait for a human.",
            executions["pending_approval"],
        ),
        ("medic_stopped", "1 while the stop switch is on.", int(census.stopped)),
    ):
        yield GaugeMetricFamily(name, help_, value=count)


class AllProcesses(Collector):
    """The sum over the processes that share a directory, living and ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        settle_ended_processes(self._directory)
        with _locked(self._directory, fcntl.LOCK_SH):
            return list(MultiProcessCollector.merge(_written(self._directory)))  # type: ignore[no-untyped-call]


def settle_ended_processes(directory: Path) -> int:
    """Add the counts of ended processes to one file for each type, and drop their gauges.

    A pool replaces its processes all the time; without this, each would leave its files for good, and each
    scrape would read them all.  Runs before each scrape.

    :return: how many files were settled.
    """
    ended = _ended(directory)
    if not ended:
        return 0
    with _locked(directory, fcntl.LOCK_EX):
        ended = _ended(directory)  # another scrape may have been here
        for kind, path in ended:
            if not kind.startswith("gauge"):
                _add(path, directory / f"{kind}_{_SETTLED}.db")
            path.unlink(missing_ok=True)
    return len(ended)


def scrape_registry(settings: Settings, census: Callable[[], Census] | None = None) -> CollectorRegistry:
    """What a scrape of this process shows: its metrics and those of its siblings, build, and the census."""
    registry = CollectorRegistry()
    directory = shared_directory()
    registry.register(AllProcesses(directory) if directory else REGISTRY)
    registry.register(BuildInfo(settings))
    if census is not None:
        registry.register(DatabaseCensus(census))
    return registry


def render_metrics(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The body of ``/metrics`` and its content type."""
    return generate_latest(registry), CONTENT_TYPE_LATEST


def serve_metrics(port: int, host: str, registry: CollectorRegistry) -> WSGIServer | None:
    """Serve the metrics of a worker or beat in a thread of this process, until it ends.

    :param port: 0 serves nothing.
    :param host: ``MEDIC_HOST``: a loopback host keeps the metrics on loopback, any other opens them to the pod's
        network, where Prometheus is.
    :return: the server, or ``None`` when there is none: off, or the port is taken (one warning).
    """
    if port == 0:
        return None
    try:
        server, _ = start_http_server(port, addr=_bind_address(host), registry=registry)
    except OSError as error:
        _log.warning(
            "metrics.port_unavailable", extra={"port": port, "error": error.strerror or type(error).__name__}
        )
        return None
    return server


def _bind_address(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "127.0.0.1" if host == "localhost" else "0.0.0.0"  # noqa: S104 - see serve_metrics
    if address.is_loopback:
        return str(address)
    return "::" if address.version == 6 else "0.0.0.0"  # noqa: S104 - see serve_metrics


def _ended(directory: Path) -> list[tuple[str, Path]]:
    found = []
    for path in directory.glob("*.db"):
        match = _FILE.fullmatch(path.name)
        if match and match[2] != _SETTLED and not _lives(int(match[2])):
            found.append((match[1], path))
    return found


def _written(directory: Path) -> list[str]:
    # A file is empty for a moment after its process has made it, and for good if that process died then.
    return [str(path) for path in directory.glob("*.db") if path.stat().st_size]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _add(source: Path, target: Path) -> None:
    """Add one file's counts to another's; a histogram's buckets are stored singly, so that they add up too."""
    draft = target.with_suffix(".draft")
    total: dict[str, float] = {}
    for path in (target, source):
        if path.exists() and path.stat().st_size:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
                total[key] = total.get(key, 0.0) + value
    draft.unlink(missing_ok=True)
    file: Any = MmapedDict(str(draft))  # type: ignore[no-untyped-call]
    for key, value in total.items():
        file.write_value(key, value, 0.0)
    file.close()
    draft.replace(target)


@contextmanager
def _locked(directory: Path, mode: int) -> Iterator[None]:
    """Keep a scrape from reading a count twice while it moves between two files."""
    with (directory / "lock").open("a") as file:
        fcntl.flock(file, mode)
        yield
