"""Every metric of Medic, each defined once.

Names of the original stay where they fit.  Labels come from small fixed sets: a route is the rule that
matched, never the path; a service or a playbook is no label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

# A `_created` series beside each counter doubles what Prometheus keeps, and shared metrics have none anyway.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

HTTP_REQUESTS: Final = Counter(
    "medic_http_server_request",
    "Requests answered, by route and status code.",
    ("method", "route", "status_code"),
    registry=REGISTRY,
)
HTTP_REQUEST_SECONDS: Final = Histogram(
    "medic_http_server_request_duration_seconds",
    "Time from a request's arrival in the application to its answer.",
    ("method", "route"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
HEARTBEATS: Final = Counter(
    "medic_heartbeats", "Heartbeats committed, by status.", ("status",), registry=REGISTRY
)
ALERTS: Final = Counter("medic_alerts", "Alerts opened, by priority.", ("priority",), registry=REGISTRY)
ALERTS_RESOLVED: Final = Counter("medic_alerts_resolved", "Alerts resolved.", registry=REGISTRY)
CYCLE_SECONDS: Final = Histogram(
    "medic_worker_cycle_duration_seconds",
    "Time that one sweep took.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
SERVICES_CHECKED: Final = Counter(
    "medic_worker_services_checked", "Services whose verdict a sweep computed.", registry=REGISTRY
)
SWEEP_SET_ASIDE: Final = Counter(
    "medic_sweep_set_aside",
    "Services that could not be judged and were put aside for five minutes.",
    registry=REGISTRY,
)
SWEEP_LAG_SECONDS: Final = Gauge(
    "medic_sweep_lag_seconds",
    "How long the oldest service had been due when the last sweep began; 0 when none was.",
    multiprocess_mode="livemostrecent",
    registry=REGISTRY,
)
INGEST_UNCOVERED_SECONDS: Final = Gauge(
    "medic_ingest_uncovered_seconds",
    "For how long a process could not record that it hears heartbeats; 0 while it can.",
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
DETECTION_SECONDS: Final = Histogram(
    "medic_detection_latency_seconds",
    "Time from the moment an alert became true to the moment Medic saw it.",
    buckets=(0.5, 1, 2.5, 5, 7.5, 10, 15, 30, 60, 120, 300, 900),
    registry=REGISTRY,
)
EXECUTIONS: Final = Counter(
    "medic_playbook_executions",
    "Playbook executions that reached this status.",
    ("status",),
    registry=REGISTRY,
)
EXECUTION_SECONDS: Final = Histogram(
    "medic_playbook_execution_duration_seconds",
    "Time from the moment an execution was started to its end, by the status that it ended with.",
    ("status",),
    buckets=(1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400),
    registry=REGISTRY,
)
EXECUTION_REFUSALS: Final = Counter(
    "medic_playbook_refusals",
    "Playbooks that were asked for and did not start: stopped, breaker, playbook_breaker, cooldown or already_started.",
    ("code",),
    registry=REGISTRY,
)
APPROVAL_SECONDS: Final = Histogram(
    "medic_approval_latency_seconds",
    "Time from a question to its answer, by the verdict and by who gave it: a human or the time-out.",
    ("verdict", "by"),
    buckets=(5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400),
    registry=REGISTRY,
)
STEP_SECONDS: Final = Histogram(
    "medic_step_duration_seconds",
    "Time that one attempt of a step took, by type and outcome.",
    ("type", "outcome"),
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
    registry=REGISTRY,
)
DELIVERIES: Final = Counter(
    "medic_deliveries",
    "Notifications to targets, by kind of target and what became of them: delivered, retried, failed, suppressed"
    " or lost with their worker.",
    ("kind", "outcome"),
    registry=REGISTRY,
)
DELIVERY_SECONDS: Final = Histogram(
    "medic_delivery_latency_seconds",
    "Time from the moment there was something to tell to the moment the target had it, by kind of target.",
    ("kind",),
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 86400),
    registry=REGISTRY,
)
AUTH_FAILURES: Final = Counter(
    "medic_auth_failures", "Requests refused for their key, by reason.", ("reason",), registry=REGISTRY
)
RATE_LIMIT_REFUSALS: Final = Counter(
    "medic_rate_limit_refusals",
    "Requests refused by the rate limit, by class.",
    ("rate_class",),
    registry=REGISTRY,
)
RATE_LIMIT_DEGRADED: Final = Gauge(
    "medic_rate_limit_degraded",
    "1 while a process limits by its own memory because Redis does not answer.",
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
RATE_LIMIT_DEGRADATIONS: Final = Counter(
    "medic_rate_limit_degradations",
    "How often a process began to limit by its own memory because Redis did not answer.",
    registry=REGISTRY,
)
HEALTH: Final = Gauge(
    "medic_health_status",
    "What /health last said of a component: 1 ok, 0.5 degraded, 0 down.  One that is not set up has none.",
    ("component",),
    multiprocess_mode="livemostrecent",
    registry=REGISTRY,
)
WATCHDOG_PINGS: Final = Counter(
    "medic_watchdog_pings",
    "Pings of MEDIC_WATCHDOG_URL: sent, failed, or withheld because Medic itself does not work.",
    ("outcome",),
    registry=REGISTRY,
)
DB_CONNECTION_ERRORS: Final = Counter(
    "medic_db_connection_errors", "Database connections that failed or broke.", registry=REGISTRY
)
DB_SECONDS: Final = Histogram(
    "medic_db_client_operation_duration_seconds",
    "Time that one statement took, by its first word.",
    ("operation",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
    registry=REGISTRY,
)
DB_POOL_IN_USE: Final = Gauge(
    "medic_db_pool_in_use",
    "Database connections that are in use, over all processes here.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
DB_POOL_SIZE: Final = Gauge(
    "medic_db_pool_size",
    "Database connections that may be in use, over all processes here that ever used one.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)


def show_zeroes(target_kinds: Iterable[str]) -> None:
    """Show what alert rules count from the start on: a counter that appears with its first failure shows no increase.

    :param target_kinds: every kind of target that there is.
    """
    for kind in target_kinds:
        for outcome in ("delivered", "failed"):
            DELIVERIES.labels(kind, outcome)
    for status in ("completed", "failed", "cancelled"):
        EXECUTIONS.labels(status)
    for code in ("stopped", "breaker", "playbook_breaker", "cooldown", "already_started"):
        EXECUTION_REFUSALS.labels(code)
    for outcome in ("sent", "failed", "withheld"):
        WATCHDOG_PINGS.labels(outcome)


def observe_request(method: str, route: str | None, status_code: int, seconds: float) -> None:
    """Count one answered request.

    :param route: the rule that matched, as ``/v1/services/<name>``; ``None`` when none did.
    """
    method = method if method in _METHODS else "other"
    route = route or "unmatched"
    HTTP_REQUESTS.labels(method, route, str(status_code)).inc()
    HTTP_REQUEST_SECONDS.labels(method, route).observe(seconds)
