"""The sealer of the audit log, each second on `medic.system`."""

from __future__ import annotations

import time
from functools import partial

import structlog
from sqlalchemy.orm import Session

from medic import audit_seals, broker
from medic import settings as settings_
from medic.audit_seals import BATCH, Horizon, Sealed
from medic.crypto.audit_chain import GENESIS, Head
from medic.db import database_now, engine, in_transaction
from medic_tasks.sweeps import while_away

log = structlog.get_logger("medic.seals")
app = broker.app()

TIME_S = 0.2
"""No longer than this: the sweeps of services wait behind it."""

WHOLE_EVERY_S = 3600.0
ANCHOR_EVERY_S = 300.0


class Memory:
    """What this process knows of the chain."""

    def __init__(self) -> None:
        self.horizon = Horizon()
        self.whole_at = time.monotonic()
        self.told: Head = GENESIS
        self.told_at = -ANCHOR_EVERY_S


MEMORY = Memory()


@app.task(name="medic.sweep.seals")
@while_away
def sweep_seals() -> str:
    """Seal what was committed since."""
    keys = settings_.current().audit_keys
    if not keys:
        return "MEDIC_AUDIT_KEY is not set"
    began = time.monotonic()
    if began - MEMORY.whole_at >= WHOLE_EVERY_S:
        MEMORY.horizon, MEMORY.whole_at = Horizon(head=MEMORY.horizon.head), began
    count = 0
    while True:
        sealed = in_transaction(engine(), partial(_seal, key=keys[0]))
        if sealed is None:
            return "another sealer is at work"
        _remember(sealed)
        count += sealed.count
        if sealed.count < BATCH or time.monotonic() - began >= TIME_S:
            return f"sealed {count}"


def _seal(session: Session, key: bytes) -> Sealed | None:
    return audit_seals.seal(session, key, now=database_now(session), horizon=MEMORY.horizon)


def _remember(sealed: Sealed) -> None:
    if not sealed.is_whole:
        log.error("audit.seals_changed", number=MEMORY.horizon.head.n, digest=MEMORY.horizon.head.digest.hex(),
                  hint="Seals that stood in the database are gone or changed: was it restored? `medic audit verify`")  # fmt: skip
    MEMORY.horizon = sealed.horizon
    head, now = sealed.horizon.head, time.monotonic()
    # The log goes where the database's owner does not reach: the chain's end is in it, to compare with.
    if head != MEMORY.told and now - MEMORY.told_at >= ANCHOR_EVERY_S:
        log.info("audit.anchor", number=head.n, digest=head.digest.hex())
        MEMORY.told, MEMORY.told_at = head, now
