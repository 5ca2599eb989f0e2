"""The Celery application of workers, beat and Flower: `celery -A medic_tasks.app:app`."""

from __future__ import annotations

from medic import broker
from medic_tasks import acknowledging, lifecycle
from medic_tasks.schedule import schedule

app = broker.app()
app.conf.beat_schedule = schedule()
app.conf.imports = (
    "medic_tasks.step",
    "medic_tasks.deliveries",
    "medic_tasks.sweeps",
    "medic_tasks.housekeeping",
    "medic_tasks.suppression",
    "medic_tasks.triggers",
    "medic_tasks.seals",
    "medic_tasks.watchdog",
)
lifecycle.connect()
acknowledging.install()
