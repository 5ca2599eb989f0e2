"""Everything fails at once, and every execution ends as it should, or stands in doubt.

300 executions of mixed playbooks run while workers, pool processes, sweepers and beats are killed, messages are lost and
doubled, the broker is emptied twice and the database crashes.  About a minute and a half; the time of a lease or a
grace whose holder is surely gone is over at once.  ``MEDIC_TEST_CHAOS=long`` runs 3,000 for ten minutes and lets all of
it run out by itself.  ``MEDIC_TEST_CHAOS_SEED`` draws the same faults again.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from medic import audit_verify
from medic.audit_verify import Verified
from medic.settings import Settings
from tests.chaos.judgement import judged
from tests.chaos.mix import drawn
from tests.chaos.storm import CONCURRENCY, Storm
from tests.waiting import eventually

EFFECTS = 2.3
"""Requests of an execution, on average and at the least."""

LAST_FAULT = 0.8
"""The part of the work after which nothing breaks any more."""

IS_LONG = os.environ.get("MEDIC_TEST_CHAOS") == "long"


@dataclass(frozen=True)
class Scale:
    """How many executions, over how many seconds, and how often each fault comes in that time."""

    executions: int
    seconds: float
    workers: int
    children: int
    sweepers: int
    flushes: int
    restarts: int
    settles_within: float


SCALE = (
    Scale(3_000, 600, 40, 60, 4, 12, 6, settles_within=1_800)
    if IS_LONG
    else Scale(300, 28, 4, 8, 1, 2, 1, settles_within=120)
)


def schedule(storm: Storm, chance: random.Random) -> list[tuple[float, Callable[[], None]]]:
    """What breaks, and after which part of the work: so a loaded machine breaks no less."""
    faults: list[tuple[float, Callable[[], None]]] = []

    def at_random(times: int, fault: Callable[[], None]) -> None:
        # One in each part, so that two of a kind are not the same fault.
        faults.extend((LAST_FAULT * (number + chance.random()) / times, fault) for number in range(times))

    at_random(SCALE.workers, storm.kill_a_worker)
    at_random(SCALE.children, storm.kill_a_child)
    at_random(SCALE.sweepers, lambda: storm.kill_the_younger("system", replace=IS_LONG))
    at_random(SCALE.sweepers, lambda: storm.kill_the_younger("beat", replace=IS_LONG))
    at_random(SCALE.flushes, storm.flush)
    at_random(SCALE.restarts, storm.restart_database)
    return sorted(faults, key=lambda fault: fault[0])


def fate(chance: random.Random) -> Callable[[str, str], int]:
    """One message in twenty is lost, one in ten comes twice."""
    return lambda _queue, _task: chance.choices((0, 1, 2), (5, 85, 10))[0]


@pytest.mark.timeout(3_600 if IS_LONG else 300)
def test_every_execution_ends_once_in_order_or_stands_in_doubt(storm: Storm, seed: int) -> None:
    storm.hurried = not IS_LONG
    chance = random.Random(seed)
    for role in ("system", "system", "beat", "beat", "lone"):
        storm.crew.start(role)
    for _ in range(2):
        storm.crew.start("steps", concurrency=CONCURRENCY)
    storm.crew.ready()
    storm.wire.fate = fate(random.Random(seed + 1))
    with storm.attended():
        starting = storm.start_all(drawn(chance, SCALE.executions), seconds=SCALE.seconds * 0.8)
        began = time.monotonic()
        for part, fault in schedule(storm, chance):
            storm.await_effects(round(part * SCALE.executions * EFFECTS), within=20)
            fault()
        calm = time.monotonic()
        starting.join(60)
        storm.settle_down(within=SCALE.settles_within)
    tell(storm, faults_s=calm - began, settled_s=time.monotonic() - calm)
    assert judged(storm.house, storm.world) == []
    eventually(lambda: verified(storm).unsealed == 0, within=60, every=1)
    assert verified(storm).broken is None


def tell(storm: Storm, *, faults_s: float, settled_s: float) -> None:
    """What this run was, for whoever reads its output; it must have been one."""
    states = Counter(row["state"] for row in storm.house.rows("SELECT state FROM executions"))
    lost = storm.house.rows("SELECT 1 FROM step_attempts WHERE outcome = 'lost'")
    print(f"chaos: {faults_s:.0f} s of faults, settled {settled_s:.0f} s later: {dict(states)}, {len(lost)} attempts"
          f" lost, {storm.wire.lost} messages lost, {storm.wire.doubled} doubled")  # fmt: skip
    assert states.total() >= SCALE.executions
    assert len(lost) >= SCALE.workers / 2


def verified(storm: Storm) -> Verified:
    """What `medic audit verify` says."""
    keys = Settings.from_env(storm.crew.environ).audit_keys
    return storm.house.do(lambda session: audit_verify.verify(session, keys))
