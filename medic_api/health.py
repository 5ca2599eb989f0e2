"""/health: is it alive, may it get requests, and how does each component do."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import current_app as app
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from medic import __version__
from medic.audit_seals import waits_s
from medic.errors import Misconfigured
from medic.hearing import LIVE
from medic.migrate import pending
from medic.partitions import LEAST_AHEAD, days_ahead
from medic.ratelimit.redis_store import RedisStore
from medic.telemetry import metrics
from medic_api.fields import Answer
from medic_api.guard import OPEN, guard
from medic_api.guard import services as shared

bp = APIBlueprint("health", __name__, url_prefix="/health", tag="Operations")

FRESH_S = 1.0
"""Probes of many kinds come at once; the database is asked once a second for all of them."""

LATE_TICKS = 3
LATE_SEALS_S = 60.0
READY = ("database", "migrations", "partitions")
UNCOVERED_S = LIVE.total_seconds()


@dataclass(frozen=True, slots=True)
class Component:
    """How one part does: ``ok``, ``degraded`` (Medic works all the same), ``down``, or ``off`` (not set up)."""

    status: Literal["ok", "degraded", "down", "off"]
    detail: str = ""


OK = Component("ok")
_WORTH = {"ok": 1.0, "degraded": 0.5, "down": 0.0}
"""What a status is as a number; a part that is off has none."""


@dataclass(slots=True)
class Store:
    """What the database says of itself, at most `FRESH_S` old."""

    engine: Engine
    broker: RedisStore | None
    sweep_late_s: float
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _at: float = -FRESH_S
    _seen: dict[str, Component] = field(default_factory=dict)

    def look(self) -> dict[str, Component]:
        """``database``, ``migrations``, ``partitions``, ``sweep`` and ``audit``."""
        with self._lock:
            if time.monotonic() - self._at >= FRESH_S:
                self._seen = self._ask()
                self._at = time.monotonic()
            return self._seen

    def _ask(self) -> dict[str, Component]:
        unknown = Component("down", "The database does not answer.")
        try:
            with self.engine.connect() as connection:
                missing = _missing(connection)
                found = {
                    "database": OK,
                    "migrations": Component("down", f"{len(missing)} pending; run `medic migrate`.")
                    if missing
                    else OK,
                }
                if missing:
                    blocked = Component("down", "The migrations come first.")
                    return found | {"partitions": blocked, "sweep": blocked, "audit": blocked}
                ahead = days_ahead(connection)
                age = connection.execute(
                    text("SELECT extract(epoch FROM now() - last_at) FROM ticks WHERE job = 'sweep-services'")
                ).scalar()
                unsealed_s = waits_s(connection)
        except SQLAlchemyError:
            return dict.fromkeys(("database", "migrations", "partitions", "sweep", "audit"), unknown)
        return found | {
            "partitions": _partitions(ahead),
            "sweep": self._sweep(age),
            "audit": _audit(unsealed_s),
        }

    def _sweep(self, age: Any) -> Component:
        if age is None:
            return Component("degraded", "No sweep ran yet; is a worker of medic.system up?")
        if float(age) > self.sweep_late_s:
            return Component("degraded", f"The last sweep was {float(age):.0f} s ago.")
        return OK


def _missing(connection: Connection) -> list[str]:
    try:
        return pending(connection)
    except Misconfigured:
        # Of a later version: a deploy is under way, and what runs goes on serving until it is replaced.
        return []


def _partitions(ahead: int) -> Component:
    if ahead < 0:
        return Component("down", "Heartbeats of today have no partition; run `medic migrate`.")
    if ahead < LEAST_AHEAD:
        return Component(
            "degraded", f"Heartbeats have partitions for {ahead} days ahead; run `medic migrate`."
        )
    return OK


def _audit(unsealed_s: float) -> Component:
    if unsealed_s > LATE_SEALS_S:
        return Component(
            "degraded",
            f"An entry has waited {unsealed_s:.0f} s for its seal; has the worker of medic.system the key?",
        )
    return OK


class LiveOut(Answer):
    status: Literal["ok"]


class ComponentOut(Answer):
    status: Literal["ok", "degraded", "down", "off"]
    detail: str


class HealthOut(Answer):
    """`down` is a 503: Medic cannot do its work."""

    status: Literal["ok", "degraded", "down"]
    version: str
    components: dict[str, ComponentOut]


class ReadyOut(Answer):
    ready: bool
    components: dict[str, ComponentOut]


@bp.get("/live")
@guard(scope=OPEN, rate="health")
@bp.doc(summary="Is the process alive", description="Asks no other component.")
@bp.output(LiveOut)
def live() -> Any:
    return {"status": "ok"}


@bp.get("/ready")
@guard(scope=OPEN, rate="health")
@bp.doc(
    summary="May it get requests",
    description="Not while the database is away, migrations are pending, partitions run out, or this process could "
    "not record for 60 s that it hears heartbeats.",
    extensions={"x-down": "Not ready."},
)
@bp.output(ReadyOut)
def ready() -> Any:
    seen = {name: part for name, part in store().look().items() if name in READY} | {"ingest": _ingest()}
    is_ready = all(part.status == "ok" for part in seen.values())
    return {"ready": is_ready, "components": seen}, *_status(is_ready)


@bp.get("")
@guard(scope=OPEN, rate="health")
@bp.doc(
    summary="How each component does",
    description="503 only when Medic cannot do its work.",
    extensions={"x-down": "Medic cannot do its work."},
)
@bp.output(HealthOut)
def health() -> Any:
    seen = store()
    parts = dict(seen.look()) | {"ingest": _ingest()}
    limiter, settings = shared().limiter, shared().settings
    parts["broker"] = _broker(seen.broker)
    parts["rate_limiter"] = (
        OK if limiter.is_healthy() else Component("degraded", "Each process limits by itself.")
    )
    parts["secrets"] = OK if settings.secrets_key else Component("off", "MEDIC_SECRETS_KEY is not set.")
    if not settings.audit_keys:
        parts["audit"] = Component(
            "off", "MEDIC_AUDIT_KEY is not set: audit entries are kept, and not sealed."
        )
    parts["sandbox"] = (
        OK
        if settings.sandbox == "required"
        else Component(
            "off", "MEDIC_SANDBOX is best-effort: scripts run where the kernel cannot hold them, too."
        )
    )
    parts["tracing"] = OK if settings.otel_enabled else Component("off", "OTEL_ENABLED is not true.")
    for name, part in parts.items():
        if part.status in _WORTH:
            metrics.HEALTH.labels(name).set(_WORTH[part.status])
    states = {part.status for part in parts.values()}
    overall = "down" if "down" in states else "degraded" if "degraded" in states else "ok"
    return {"status": overall, "version": __version__, "components": parts}, *_status(overall != "down")


def store() -> Store:
    """This application's view of its database."""
    found: Store | None = app.extensions.get("medic.health")
    if found is None:
        settings = shared().settings
        found = app.extensions["medic.health"] = Store(
            shared().engine,
            RedisStore.at(settings.need_redis_url(), pool_size=2) if settings.redis_url else None,
            sweep_late_s=LATE_TICKS * settings.worker_interval_seconds + 5.0,
        )
    return found


def _ingest() -> Component:
    """Whether this very process takes heartbeats."""
    uncovered = shared().heartbeats.uncovered_s
    if uncovered <= UNCOVERED_S:
        return OK
    return Component("down", f"This process has not been able to take heartbeats for {uncovered:.0f} s.")


def _broker(broker: RedisStore | None) -> Component:
    if broker is None:
        return Component("off", "REDIS_URL is not set here; the sweep dispatches executions.")
    return OK if broker.answers() else Component("degraded", "Redis does not answer; executions wait for it.")


def _status(works: bool) -> tuple[int, dict[str, str]]:
    return (200, {}) if works else (503, {"Retry-After": "5"})
