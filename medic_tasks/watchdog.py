"""Watching the watcher: MEDIC_WATCHDOG_URL hears from us for as long as Medic works.

The ping takes the way of every notification: beat's tick, the broker, a worker of deliveries, out.  Whatever breaks
on it, or stands still behind it, keeps the ping back, and whoever waits for it raises the alarm.  Its own failure is a
line in the log, never more.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy.orm import Session

from medic import broker
from medic import settings as settings_
from medic.db import database_now, engine, in_transaction
from medic.egress import SafeClient, allow_list
from medic.errors import MedicError
from medic.settings import Settings
from medic.telemetry import metrics
from medic.ticks import take_tick
from medic.vitals import failing
from medic_tasks.schedule import WATCHDOG_EVERY_S
from medic_tasks.sweeps import while_away

log = structlog.get_logger("medic.watchdog")
app = broker.app()

TIMEOUT_S = 10.0


@app.task(name="medic.watchdog.ping", time_limit=TIMEOUT_S * 6)
def ping_watchdog() -> str:
    """Tell whoever waits for it that Medic works."""
    return while_away(ping)()


def ping() -> str:
    """Ping, if Medic works; a surplus tick does nothing."""
    settings = settings_.current()
    if settings.watchdog_url is None:
        return "no MEDIC_WATCHDOG_URL"
    bind = engine()
    if not in_transaction(
        bind, lambda s: take_tick(s, "watchdog", at_least=timedelta(seconds=WATCHDOG_EVERY_S / 2))
    ):
        return "surplus tick"

    def look(session: Session) -> str | None:
        interval = timedelta(seconds=settings.worker_interval_seconds)
        return failing(session, now=database_now(session), interval=interval)

    wrong = in_transaction(bind, look)
    if wrong is not None:
        metrics.WATCHDOG_PINGS.labels("withheld").inc()
        log.warning("watchdog.withheld", because=wrong)
        return f"withheld: {wrong}"
    error = send(settings)
    metrics.WATCHDOG_PINGS.labels("sent" if error is None else "failed").inc()
    if error is not None:
        log.warning("watchdog.not_pinged", error=error)
    return "sent" if error is None else f"failed: {error}"


def send(settings: Settings) -> str | None:
    """One GET, through the safe client; what went wrong, never with the URL, which may be a secret."""
    assert settings.watchdog_url is not None
    url = settings.watchdog_url.get_secret_value()
    try:
        answer = SafeClient(allow_list(settings)).request("GET", url, timeout=TIMEOUT_S, redirects=2)
    except MedicError as error:
        return error.code
    return None if 200 <= answer.status < 300 else f"it answered {answer.status}"
