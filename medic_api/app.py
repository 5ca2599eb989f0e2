"""The application: everything that answers."""

from __future__ import annotations

import threading
from typing import Any

from apiflask import APIFlask
from flask.json.provider import DefaultJSONProvider
from sqlalchemy import Engine
from werkzeug.middleware.proxy_fix import ProxyFix

from medic import __version__
from medic.access import Keyring
from medic.batch_lane import BatchLane
from medic.db import make_engine
from medic.group_commit import GroupCommit
from medic.ratelimit import limiter_from
from medic.settings import Settings
from medic.targets import KINDS
from medic.telemetry.database import measure_engine
from medic.telemetry.instrumentation import instrument_engine, instrument_flask
from medic.telemetry.metrics import show_zeroes
from medic.telemetry.traces import tracing_enabled
from medic_api import (
    alerts,
    approvals,
    audit,
    batch,
    calendars,
    console,
    converters,
    coverage,
    deliveries,
    docs,
    edge,
    executions,
    explain,
    health,
    hooks,
    ingest,
    keys,
    legacy_alerts,
    legacy_heartbeats,
    legacy_playbooks,
    legacy_services,
    metrics,
    mutes,
    openapi,
    paths,
    pings,
    playbooks,
    problems,
    routes,
    scripts,
    secrets,
    services,
    slack,
    slack_users,
    snapshots,
    statistics,
    stop,
    suppressions,
    targets,
    teams,
    triggers,
    windows,
)
from medic_api.directory import Directory, PingDirectory
from medic_api.express import Express
from medic_api.failures import Failures
from medic_api.guard import OPEN, Services, Writable, guard
from medic_api.hints import Hints

MAX_BODY_BYTES = 1_048_576

BLUEPRINTS = (
    ingest.bp, services.bp, alerts.bp, playbooks.bp, executions.bp, approvals.bp, stop.bp, scripts.bp, secrets.bp,
    statistics.bp,
    keys.bp, health.bp, metrics.bp, docs.bp, console.bp, batch.bp, paths.bp, pings.bp, teams.bp,
    legacy_heartbeats.bp, legacy_services.bp, legacy_alerts.bp, legacy_playbooks.bp,
    coverage.bp,
    targets.bp, routes.bp, calendars.bp,
    deliveries.bp,
    windows.bp, mutes.bp, suppressions.bp,
    slack.bp, slack_users.bp, explain.bp,
    triggers.bp, hooks.bp,
    audit.bp, snapshots.bp,
)  # fmt: skip


class StrictJson(DefaultJSONProvider):
    """JSON as RFC 8259 has it: no NaN, no Infinity."""

    def dumps(self, obj: Any, **options: Any) -> str:
        return super().dumps(obj, allow_nan=False, **options)


def create_app(settings: Settings, *, engine: Engine | None = None) -> APIFlask:
    """Make the application.  It starts with a database or Redis that is down, and recovers by itself.

    :param engine: in place of one of its own.
    :raises Misconfigured: when a setting is missing or wrong.
    """
    bind = engine or make_engine(
        settings.need_database_url(), pool_size=settings.database_pool_size, component="medic-api"
    )
    app = APIFlask(
        __name__, title="Medic", version=__version__, docs_path=None, spec_path=None, json_errors=False
    )
    instrument_flask(app)
    instrument_engine(bind)
    measure_engine(bind)
    show_zeroes(KINDS)
    app.json = StrictJson(app)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    shared = app.extensions["medic"] = Services(
        settings=settings,
        engine=bind,
        keyring=Keyring(bind, settings.need_pepper()),
        limiter=limiter_from(settings),
        failures=Failures(),
        writable=Writable(bind),
        directory=Directory(bind),
        heartbeats=GroupCommit(bind),
        batches=BatchLane(bind),
        large_batches=threading.Semaphore(max(1, settings.api_threads // 2)),
        pings=PingDirectory(bind, settings.need_pepper()),
        strangers=Failures(),
        guesses=Failures(),
        hints=Hints(bind, has_broker=settings.redis_url is not None),
    )
    if not tracing_enabled():
        app.wsgi_app = Express(app, shared)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        count = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=count, x_proto=count)  # type: ignore[method-assign]
    app.view_functions["static"] = guard(scope=OPEN, rate="docs")(app.view_functions["static"])
    converters.install(app)
    edge.install(app)
    problems.install(app)
    openapi.install(app, settings)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app
