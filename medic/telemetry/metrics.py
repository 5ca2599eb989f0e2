"""Every metric of Medic, each defined once.

Names of the original stay where they fit.  Labels come from small fixed sets: a route is the rule that
matched, never the path; a service or a playbook is no label.
"""

from __future__ import annotations

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
SWEEP_LAG_SECONDS: Final = Gauge(
    "medic_sweep_lag_seconds",
    "How long the oldest service had been due when the last sweep began; 0 when none was.",
    multiprocess_mode="livemostrecent",
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
STEP_SECONDS: Final = Histogram(
    "medic_step_duration_seconds",
    "Time that one attempt of a step took, by type and outcome.",
    ("type", "outcome"),
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
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
DB_CONNECTION_ERRORS: Final = Counter(
    "medic_db_connection_errors", "Database connections that failed or broke.", registry=REGISTRY
)


def observe_request(method: str, route: str | None, status_code: int, seconds: float) -> None:
    """Count one answered request.

    :param route: the rule that matched, as ``/v1/services/<name>``; ``None`` when none did.
    """
    method = method if method in _METHODS else "other"
    route = route or "unmatched"
    HTTP_REQUESTS.labels(method, route, str(status_code)).inc()
    HTTP_REQUEST_SECONDS.labels(method, route).observe(seconds)
