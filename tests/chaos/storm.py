"""Executions on one side, faults on the other, and an operator who answers what Medic asks."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from medic import scripts
from medic.db import database_now
from medic.errors import MedicError
from medic.executions.patience import patiently
from medic.local.servers import Servers
from tests.chaos.crew import Crew, Member
from tests.chaos.mix import BY_NAME, MIX, SCRIPT, Recipe
from tests.chaos.wire import Wire
from tests.chaos.world import World
from tests.tasks.house import ACTOR, FINAL, House
from tests.waiting import eventually

T = TypeVar("T")

PULSE = "pulse"
CONCURRENCY = 3
LEFT_ALONE = 0.5
"""The part of doubts that nobody settles."""

# A lease or a grace of the design would make the run last minutes: the time of what is surely lost is over at once.
_DEAD = text(
    """
    UPDATE executions e SET due_at = now()
     WHERE e.owner IS NOT NULL AND e.due_at > now() AND EXISTS (
           SELECT 1 FROM step_attempts a
            WHERE a.execution_id = e.id AND a.owner = e.owner
              AND (split_part(a.worker, '@', 1) = ANY(:dead) OR a.owner = ANY(:owners)))
    """
)
_HOLDERS = """
SELECT split_part(a.worker, '@', 1) AS worker, e.owner
  FROM executions e JOIN step_attempts a ON a.execution_id = e.id AND a.owner = e.owner
 WHERE e.owner IS NOT NULL
"""
_UNHEARD = text(
    """
    UPDATE executions SET due_at = now()
     WHERE owner IS NULL AND state = 'running' AND due_at > now()
       AND dispatched_at < now() - CAST(:age AS interval)
    """
)


class PatientHouse(House):
    """Asks again while the database is away; what it starts may so be started twice."""

    def do(self, work: Callable[[Session], T]) -> T:
        return patiently(self.engine, work)

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        return self.do(lambda s: [dict(row) for row in s.execute(text(sql), values).mappings()])

    def furnish(self, world: World) -> None:
        """The playbooks of the mix and what they need."""
        for recipe in MIX:
            self.playbook(recipe.source(world.url))
        content = SCRIPT.replace("PORT", str(world.recorder.port))
        self.do(
            lambda s: scripts.put(
                s, name="call", interpreter="bash", content=content, parameters={}, network=True, description="",
                actor=ACTOR, now=database_now(s),
            )
        )  # fmt: skip
        self.service(PULSE)


@dataclass
class Storm:
    house: PatientHouse
    servers: Servers
    crew: Crew
    wire: Wire
    world: World
    chance: random.Random
    hurried: bool = True
    left_alone: set[UUID] = field(default_factory=set)
    dead_owners: list[UUID] = field(default_factory=list)
    broken: list[BaseException] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """With an operator, a service that sends heartbeats and, if hurried, a time that flies for the lost."""
        threads = [
            threading.Thread(target=self._often, args=(look, every), daemon=True)
            for look, every in ((self._operate, 1.0), (self._hurry, 2.0), (self._pulse, 1.0))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(30)
        assert not self.broken, self.broken

    def start_all(self, recipes: list[Recipe], *, seconds: float) -> threading.Thread:
        """Start these, spread over the time, in a thread; they are due at once, and the sweep sends them."""
        drawn = [(recipe, recipe.variables(self.chance)) for recipe in recipes]

        def start() -> None:
            began = time.monotonic()
            for number, (recipe, variables) in enumerate(drawn):
                self._over.wait(max(began + seconds * number / len(drawn) - time.monotonic(), 0))
                self.house.start(recipe.name, publish=False, service=recipe.service, **variables)

        thread = threading.Thread(target=self._guarded, args=(start,), daemon=True)
        thread.start()
        return thread

    def unfinished(self) -> dict[str, int]:
        """What has yet to end, by state; without the doubts that nobody settles."""
        rows = self.house.rows(
            "SELECT id, state FROM executions WHERE state <> ALL(:final)", final=list(FINAL)
        )
        found: dict[str, int] = {}
        for row in rows:
            if row["state"] != "in_doubt" or row["id"] not in self.left_alone:
                found[row["state"]] = found.get(row["state"], 0) + 1
        return found

    def settle_down(self, *, within: float) -> None:
        """Every execution has ended, and no message is on its way."""

        def calm() -> bool:
            assert not self.broken, self.broken
            return not self.unfinished()

        try:
            eventually(calm, within=within, every=0.5)
        except AssertionError:
            raise AssertionError(f"not over after {within:g} s: {self.unfinished()}") from None
        with self.broker() as client:
            # A pool process that was killed may leave its message for good: what was published, and not what
            # was delivered, is what could still act.
            eventually(lambda: not client.llen("medic.steps") + client.llen("medic.scripts"), within=60)

    def await_effects(self, count: int, *, within: float) -> None:
        """Until the world was asked so often, or nothing much happens."""
        deadline = time.monotonic() + within
        while len(self.world.recorder.requests) < count and time.monotonic() < deadline:
            self._over.wait(0.1)

    # --- faults

    def flush(self) -> None:
        with self.broker() as client:
            client.flushall()

    def restart_database(self) -> None:
        """An immediate shutdown, as a crash; the supervisor starts it again."""
        self.servers.supervisor.process("postgres").kill()
        eventually(lambda: self.servers.supervisor.process("postgres").exit_code() is not None, within=30)

        def ready() -> bool:
            self.servers.supervisor.tick()
            process = self.servers.supervisor.process("postgres")
            return process.exit_code() is None and process.is_ready()

        eventually(ready, within=60)

    def kill_a_worker(self) -> None:
        """SIGKILL of a whole worker, one in the middle of a step if there is one; another comes in its place."""
        victim = self._in_a_step("steps") or self.chance.choice(self.crew.of("steps"))
        self.crew.kill(victim)
        self.crew.start("steps", concurrency=CONCURRENCY)

    def kill_a_child(self) -> None:
        """SIGKILL of the one pool process of a worker, in the middle of a step; the worker lives on."""
        victim = self._in_a_step("lone")
        if victim is not None:
            # Tokens are drawn for each claim: whoever held one before the process died holds nothing any more.
            held = [row["owner"] for row in self.house.rows(_HOLDERS) if row["worker"] == victim.name]
            self.crew.kill_one_child(victim)
            self.dead_owners += held

    def kill_the_younger(self, role: str, *, replace: bool) -> None:
        """SIGKILL of a sweeper or a beat; the eldest lives, since a lease is judged by who watched all along."""
        if victims := self.crew.of(role)[1:]:
            self.crew.kill(self.chance.choice(victims))
            if replace:
                self.crew.start(role)

    def _in_a_step(self, role: str) -> Member | None:
        """One that holds a step right now; nothing when none does for a while."""

        def look() -> list[Member]:
            busy = {row["worker"] for row in self.house.rows(_HOLDERS)}
            return [member for member in self.crew.of(role) if member.name in busy]

        try:
            return self.chance.choice(eventually(look, within=12))
        except AssertionError:
            return None

    @contextlib.contextmanager
    def broker(self) -> Iterator[redis.Redis]:
        client = redis.from_url(self.servers.redis_client_url)  # type: ignore[no-untyped-call]
        try:
            yield client
        finally:
            client.close()

    # --- people and time

    def _often(self, look: Callable[[], None], every: float) -> None:
        while not self._over.wait(every):
            self._guarded(look)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test fails with it
            self.broken.append(error)

    def _operate(self) -> None:
        for row in self.house.rows(
            "SELECT a.id, e.playbook_name AS name FROM approvals a JOIN executions e ON e.id = a.execution_id"
            " WHERE a.state = 'pending'"
        ):
            verdict = "rejected" if self.chance.random() < 0.25 else "approved"
            with contextlib.suppress(MedicError):  # asked for the second time, after a commit of unknown end
                self.house.answer(row["id"], verdict)
        # What a killed worker sent has arrived by now: they are looked at a second after the doubt.
        for row in self.house.rows(
            "SELECT e.id, e.playbook_name, s.name AS step FROM executions e"
            "  JOIN execution_steps s ON s.execution_id = e.id AND s.position = e.next_step"
            " WHERE e.state = 'in_doubt' AND EXISTS (SELECT 1 FROM step_attempts a WHERE a.execution_id = e.id"
            "   AND a.position = e.next_step AND a.outcome = 'lost' AND a.ended_at < now() - interval '1 s')"
        ):
            if row["id"] in self.left_alone:
                continue
            if not BY_NAME[row["playbook_name"]].exclusive and self.chance.random() < LEFT_ALONE:
                self.left_alone.add(row["id"])
                continue
            known = self.world.knows(row["id"], row["step"])
            with contextlib.suppress(MedicError):
                self.house.settle(row["id"], "happened" if known else "retry")

    def _hurry(self) -> None:
        if self.hurried:
            dead = {"dead": list(self.crew.dead), "owners": list(self.dead_owners)}
            self.house.do(lambda s: s.execute(_DEAD, dead))
            self.house.do(lambda s: s.execute(_UNHEARD, {"age": "3 s"}))

    def _pulse(self) -> None:
        self.house.beat(PULSE)
