"""Beat's scheduler: in memory, as the database knows what is due; shows that it lives."""

from __future__ import annotations

from typing import Any

from celery.beat import Scheduler as MemoryScheduler

from medic_tasks.liveness import mark_alive


class Scheduler(MemoryScheduler):
    """Sends ticks, and touches its liveness file at each turn of its loop."""

    def setup_schedule(self) -> None:
        super().setup_schedule()
        # A tick at once: after a restart nobody waits a whole interval for what is due already.
        for entry in self.schedule.values():
            entry.last_run_at = entry.default_now() - entry.schedule.run_every

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        mark_alive("beat")
        return super().tick(*args, **kwargs)
