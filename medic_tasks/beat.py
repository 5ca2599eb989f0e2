"""Beat's scheduler: in memory, as the database knows what is due; shows that it lives, and stands by to sweep."""

from __future__ import annotations

from typing import Any

import structlog
from celery.beat import Scheduler as MemoryScheduler

from medic import settings as settings_
from medic.db import engine
from medic_tasks.liveness import mark_alive
from medic_tasks.standby import Standby

log = structlog.get_logger("medic.beat")


class Scheduler(MemoryScheduler):
    """Sends ticks, and touches its liveness file at each turn of its loop."""

    def setup_schedule(self) -> None:
        super().setup_schedule()
        # A tick at once: after a restart nobody waits a whole interval for what is due already.
        for entry in self.schedule.values():
            entry.last_run_at = entry.default_now() - entry.schedule.run_every
        Standby(engine(), every_s=settings_.current().worker_interval_seconds).start()

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        mark_alive("beat")
        return super().tick(*args, **kwargs)

    def _ensure_connected(self) -> Any:
        """The loop stands here until there is a broker; meanwhile beat lives, and sweeps."""

        def wait(error: Exception, interval: float) -> None:
            mark_alive("beat")
            log.warning("beat.broker_away", error=type(error).__name__, again_in_s=interval)

        return self.connection.ensure_connection(wait, self.app.conf.broker_connection_max_retries)
