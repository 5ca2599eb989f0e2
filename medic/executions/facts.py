"""What a step may ask of the database while it acts: each question is one short transaction.

A database that restarts must not make a step fail: the question waits, and a lease that ran out meanwhile
is noticed before the effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from medic import scripts, vault
from medic.crypto.key_ring import KeyRing
from medic.db import database_now
from medic.errors import Misconfigured, NotFound
from medic.executions import telling
from medic.executions.claim import Claim
from medic.executions.patience import patiently
from medic.executions.plan import approved_version
from medic.steps.base import Recipient, Script
from medic.times import parse_time


@dataclass(slots=True)
class DatabaseFacts:
    """`medic.steps.base.Facts` of one claimed step, with its scripts and secrets."""

    engine: Engine
    claim: Claim
    ring: KeyRing | None

    def heartbeats_since(self, service_id: int, since: datetime, status: str | None) -> int:
        def count(session: Session) -> int:
            return int(
                session.execute(
                    text(
                        "SELECT count(*) FROM heartbeats WHERE service_id = :service AND received_at > :since"
                        " AND (kind = :status OR (CAST(:status AS text) IS NULL AND kind IN ('ok', 'complete')))"
                    ),
                    {"service": service_id, "since": since, "status": status},
                ).scalar_one()
            )

        return patiently(self.engine, count)

    def alert_open(self, alert_id: int) -> bool:
        def ask(session: Session) -> bool:
            return bool(
                session.execute(
                    text("SELECT 1 FROM alerts WHERE id = :id AND resolved_at IS NULL"), {"id": alert_id}
                ).scalar()
            )

        return patiently(self.engine, ask)

    def recipients(self, *, target: str | None = None, route: str | None = None) -> tuple[Recipient, ...]:
        """Who is told: a target, the first level of a route, or else whoever the execution's service tells.

        :raises NotFound: when there is nobody.
        """

        def ask(session: Session) -> tuple[Recipient, ...]:
            if target is not None:
                return telling.named_target(session, target)
            if route is not None:
                return telling.named_route(session, route)
            claim = self.claim
            return telling.audience(
                session, service_id=claim.service_id, alert_id=claim.alert_id, now=database_now(session)
            )

        told = patiently(self.engine, ask)
        if not told:
            raise NotFound("No route tells anybody of this execution now, and no default route does.")
        return told

    def last_acting_step_ended(self) -> datetime:
        if self.claim.doubt is not None:
            return parse_time(self.claim.doubt["since"], path="since")
        return self.claim.last_acting_ended_at or self.claim.created_at

    def step_ended(self, name: str) -> datetime:
        def ask(session: Session) -> datetime | None:
            return session.execute(
                text("SELECT ended_at FROM execution_steps WHERE execution_id = :id AND name = :name"),
                {"id": self.claim.execution_id, "name": name},
            ).scalar_one_or_none()

        return patiently(self.engine, ask) or self.claim.created_at

    def load_script(self, name: str) -> Script:
        """The newest version; where a plan was approved, the one in it."""
        claim = self.claim

        def load(session: Session) -> Script:
            approved = approved_version(session, claim.execution_id, position=claim.position, script=name)
            _, version = scripts.find(session, name, version=approved)
            return Script(
                "bash" if version.interpreter == "bash" else "python", version.content, version.parameters, version=version.version, network=version.network
            )  # fmt: skip

        return patiently(self.engine, load)

    def secret(self, name: str) -> str:
        """The newest value of a secret.

        :raises Invalid: there is none of that name.
        :raises Misconfigured: this worker has no key for secrets.
        """
        ring = self.ring
        if ring is None:
            raise Misconfigured("MEDIC_SECRETS_KEY is not set for this worker.")
        return patiently(self.engine, lambda s: vault.reveal(s, ring, name)).get_secret_value()
