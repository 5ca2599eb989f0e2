"""Playbooks and executions of one test, by the use cases, and what the database says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import audit, heartbeats, playbooks, services
from medic.db import database_now, in_transaction
from medic.executions import admission, approvals, control, due
from medic.executions.dispatch import dispatch
from medic.executions.pinned import pinned
from medic.playbook.grammar import parse
from medic.service_policy import Policy
from medic.steps import load_types
from medic.times import MAX_DURATION
from tests.waiting import eventually

T = TypeVar("T")

ACTOR = audit.Actor("shell", "starter")
HUMAN = audit.Actor("key", "approver")
FINAL = ("completed", "failed", "cancelled")


@dataclass
class House:
    engine: Engine

    def do(self, work: Callable[[Session], T]) -> T:
        """One transaction."""
        return in_transaction(self.engine, work)

    def playbook(self, source: str) -> None:
        parsed = parse(source, load_types(), longest_step=MAX_DURATION)
        self.do(
            lambda s: playbooks.put(
                s, name=parsed.playbook.name, source=source, parsed=parsed, actor=ACTOR, now=database_now(s)
            )
        )

    def service(self, name: str, *, every_s: int = 3600, grace_s: int = 60) -> int:
        policy = Policy(every_s=every_s, grace_s=grace_s)
        made = self.do(
            lambda s: services.create(s, name=name, policy=policy, actor=ACTOR, now=database_now(s))
        )
        return made.id

    def beat(self, name: str) -> None:
        """A heartbeat of a service."""

        def work(session: Session) -> None:
            watched = heartbeats.watched(session, [name])[name]
            heartbeats.write(session, [heartbeats.Signal(watched, "ok")])

        self.do(work)

    def admit(self, name: str, *, service: str | None = None, **variables: Any) -> UUID | admission.Refused:
        def work(session: Session) -> UUID | admission.Refused:
            stored = playbooks.find(session, name)
            watched = services.find(session, service)[0].id if service else None
            subject = admission.Subject(
                playbook_id=stored.playbook.id,
                playbook_version=stored.version.version,
                document=pinned(stored.version.source),
                started_by=ACTOR,
                service_id=watched,
                service_name=service,
                variables=variables,
            )
            return admission.start(session, subject, now=database_now(session))

        return self.do(work)

    def start(self, name: str, *, publish: bool = True, service: str | None = None, **variables: Any) -> UUID:
        started = self.admit(name, service=service, **variables)
        assert isinstance(started, UUID), started
        if publish:
            dispatch(self.engine, execution_id=started, epoch=0)
        return started

    def sweep(self, *, judge_leases: bool = False) -> due.Swept:
        """One due sweep, in this process."""
        from medic_tasks.sweeps import oldest_dispatch

        return due.sweep(self.engine, oldest_dispatch=oldest_dispatch, judge_leases=judge_leases)

    def make_due(self, execution_id: UUID) -> None:
        """Let the row's time be over: a lease, a grace, a timer."""
        self.run("UPDATE executions SET due_at = now() - interval '1 s' WHERE id = :id", id=execution_id)

    def take_over(self, execution_id: UUID) -> None:
        """The lease of a lost worker runs out."""
        self.make_due(execution_id)
        assert self.sweep(judge_leases=True).taken_over == 1

    def cancel(self, execution_id: UUID) -> None:
        self.do(lambda s: control.cancel(s, execution_id=execution_id, actor=HUMAN, now=database_now(s)))

    def settle(self, execution_id: UUID, verdict: control.Verdict) -> None:
        self.do(
            lambda s: control.settle(
                s, execution_id=execution_id, verdict=verdict, actor=HUMAN, now=database_now(s)
            )
        )

    def decide(self, execution_id: UUID, verdict: str, *, actor: audit.Actor = HUMAN) -> None:
        question = self.rows(
            "SELECT id FROM approvals WHERE execution_id = :id AND state = 'pending'", id=execution_id
        )
        self.answer(question[0]["id"], verdict, actor=actor)

    def answer(self, approval_id: int, verdict: str, *, actor: audit.Actor = HUMAN) -> None:
        self.do(
            lambda s: approvals.decide(
                s, approval_id=approval_id, verdict=verdict, actor=actor, now=database_now(s)
            )
        )

    # --- what there is

    def row(self, execution_id: UUID) -> dict[str, Any]:
        return self.rows("SELECT * FROM executions WHERE id = :id", id=execution_id)[0]

    def state(self, execution_id: UUID) -> str:
        return str(self.row(execution_id)["state"])

    def steps(self, execution_id: UUID) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM execution_steps WHERE execution_id = :id ORDER BY position", id=execution_id
        )

    def step_states(self, execution_id: UUID) -> list[str]:
        return [step["state"] for step in self.steps(execution_id)]

    def attempts(self, execution_id: UUID) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM step_attempts WHERE execution_id = :id ORDER BY id", id=execution_id)

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(sql), values).mappings()]

    def run(self, sql: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)

    # --- what comes

    def comes_to(self, execution_id: UUID, *states: str, sweeping: bool = False, within: float = 30.0) -> str:
        """The state, once it is one of these; ``sweeping``: with a due sweep at each look."""

        def look() -> str:
            if sweeping:
                self.sweep()
            state = self.state(execution_id)
            return state if state in states else ""

        return eventually(look, within=within)

    def ended(self, execution_id: UUID, *, sweeping: bool = False, within: float = 30.0) -> str:
        """The final state, once it has come."""
        return self.comes_to(execution_id, *FINAL, sweeping=sweeping, within=within)

    def swept_to_the_end(self, execution_id: UUID, *, within: float = 30.0) -> str:
        return self.ended(execution_id, sweeping=True, within=within)
