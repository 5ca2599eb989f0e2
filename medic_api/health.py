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
from medic.errors import Misconfigured
from medic.migrate import pending
from medic.partitions import LEAST_AHEAD, days_ahead
from medic.ratelimit.redis_store import RedisStore
from medic_api.fields import Answer
from medic_api.guard import OPEN, guard
from medic_api.guard import services as shared

bp = APIBlueprint("health", __name__, url_prefix="/health", tag="Operations")

FRESH_S = 1.0
"""Probes of many kinds come at once; the database is asked once a second for all of them."""

LATE_TICKS = 3


@dataclass(frozen=True, slots=True)
class Component:
    """How one part does: ``ok``, ``degraded`` (Medic works all the same), ``down``, or ``off`` (not set up)."""

    status: Literal["ok", "degraded", "down", "off"]
    detail: str = ""


OK = Component("ok")


@dataclass(slots=True)
class Store:
    """What the database says of itself, at most `FRESH_S` old."""

    engine: Engine
    broker: RedisStore
    sweep_late_s: float
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _at: float = -FRESH_S
    _seen: dict[str, Component] = field(default_factory=dict)

    def look(self) -> dict[str, Component]:
        """``database``, ``migrations``, ``partitions`` and ``sweep``."""
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
                    return found | {"partitions": blocked, "sweep": blocked}
                ahead = days_ahead(connection)
                age = connection.execute(
                    text("SELECT extract(epoch FROM now() - last_at) FROM ticks WHERE job = 'sweep-services'")
                ).scalar()
        except SQLAlchemyError:
            return dict.fromkeys(("database", "migrations", "partitions", "sweep"), unknown)
        return found | {"partitions": _partitions(ahead), "sweep": self._sweep(age)}

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
    description="Not while the database is away, migrations are pending, or partitions run out.",
    extensions={"x-down": "Not ready."},
)
@bp.output(ReadyOut)
def ready() -> Any:
    seen = {name: part for name, part in store().look().items() if name != "sweep"}
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
    parts = dict(seen.look())
    limiter, settings = shared().limiter, shared().settings
    parts["broker"] = (
        OK
        if seen.broker.answers()
        else Component("degraded", "Redis does not answer; executions wait for it.")
    )
    parts["rate_limiter"] = (
        OK if limiter.is_healthy() else Component("degraded", "Each process limits by itself.")
    )
    parts["secrets"] = OK if settings.secrets_key else Component("off", "MEDIC_SECRETS_KEY is not set.")
    parts["tracing"] = OK if settings.otel_enabled else Component("off", "OTEL_ENABLED is not true.")
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
            RedisStore.at(settings.need_redis_url(), pool_size=2),
            sweep_late_s=LATE_TICKS * settings.worker_interval_seconds + 5.0,
        )
    return found


def _status(works: bool) -> tuple[int, dict[str, str]]:
    return (200, {}) if works else (503, {"Retry-After": "5"})
