"""When API keys were last used: noted by requests, written behind their back, once a minute and key at the most.

A written time is at most `EVERY` and a few seconds older than the last use, and never later than `PAUSE_S`
after it.  Nothing waits for it: what a stop or a database that takes no writes loses, the next use notes again.
"""

from __future__ import annotations

import threading
from datetime import timedelta

import structlog
from sqlalchemy import ColumnElement, Engine, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from medic.db import in_transaction
from medic.models.access import ApiKey

EVERY = timedelta(seconds=60)
PAUSE_S = 1.0
"""How long uses are gathered for one statement."""

log = structlog.get_logger("medic.access")


def is_due() -> ColumnElement[bool]:
    """Whether a key's last use is old enough to be written anew, by the database's clock."""
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - EVERY)


class LastUse:
    """Writes uses from a thread of its own, which lives while there are any."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._noted: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failing = False

    def note(self, key_id: str) -> None:
        """The key is in use now.  Costs no look into the database."""
        with self._lock:
            self._noted.add(key_id)
            if self._thread is None or not self._thread.is_alive():  # a fork leaves it behind
                self._thread = threading.Thread(target=self._run, name="medic-last-use", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(PAUSE_S)
            with self._lock:
                noted, self._noted = self._noted, set()
                if not noted:
                    self._thread = None
                    return
            self._write(sorted(noted))

    def _write(self, key_ids: list[str]) -> None:
        try:
            in_transaction(self._engine, lambda session: write(session, key_ids))
        except SQLAlchemyError as error:
            if not self._failing:
                log.warning("keys.last_use_not_written", error=type(error).__name__)
            self._failing = True
        else:
            self._failing = False


def write(session: Session, key_ids: list[str]) -> None:
    """Set the last use of those keys to now, where it is due and nobody else holds the row."""
    free = (
        select(ApiKey.id)
        .where(ApiKey.id.in_(key_ids), is_due())
        .with_for_update(skip_locked=True, key_share=True)
    )
    session.execute(
        update(ApiKey).where(ApiKey.id.in_(free)).values(last_used_at=func.now()),
        execution_options={"synchronize_session": False},
    )
