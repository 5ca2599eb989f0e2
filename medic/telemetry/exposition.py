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
from dataclasses import dataclass
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
_SETTLED: Final = "0"
"""The pid under which the counts of ended processes are kept; no process has it."""


@dataclass(frozen=True, slots=True)
class Census:
    """What the database says about Medic's state at the moment of a scrape."""

    services: Mapping[str, int]
    """Services by status."""
    alerts_active: int
    executions: Mapping[str, int]
    """Executions that are not final, by state."""


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
        services = GaugeMetricFamily("medic_services", "Services, by status.", labels=["status"])
        for status, count in sorted(census.services.items()):
            services.add_metric([status], count)
        yield services
        yield GaugeMetricFamily("medic_alerts_active", "Alerts that are open.", value=census.alerts_active)
        executions = GaugeMetricFamily(
            "medic_executions", "Executions that are not final, by state.", labels=["state"]
        )
        for state, count in sorted(census.executions.items()):
            executions.add_metric([state], count)
        yield executions


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
