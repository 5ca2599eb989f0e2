"""The tick of windows and mutes: what ended wakes the services that it kept quiet."""

from __future__ import annotations

import functools

import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from medic import broker, mutes, windows
from medic.db import database_now, engine, in_transaction
from medic.suppression_wake import BATCH
from medic_tasks.sweeps import while_away

log = structlog.get_logger("medic.suppression")
app = broker.app()

STEPS = 2_000
"""Batches of one tick; the next one goes on."""


def _step(place: windows.Place | None, session: Session) -> tuple[bool, windows.Place | None]:
    return windows.end_step(session, now=database_now(session), place=place)


@app.task(name="medic.sweep.suppression")
@while_away
def sweep_suppression() -> str:
    """Deal with what is due of windows, mutes and parents."""
    return end_quiet(engine())


def end_quiet(bind: Engine) -> str:
    """End the windows and mutes that are due, one short transaction for each batch."""
    ended = 0
    while True:
        count = in_transaction(bind, lambda session: mutes.end_due(session, now=database_now(session)))
        ended += count
        if count < BATCH:
            break
    place: windows.Place | None = None
    moved = 0
    for _ in range(STEPS):
        more, place = in_transaction(bind, functools.partial(_step, place))
        if not more:
            break
        moved += place is None
    if ended or moved:
        log.info("suppression.done", mutes_ended=ended, windows=moved)
    return f"ended {ended} mutes, moved {moved} windows"
