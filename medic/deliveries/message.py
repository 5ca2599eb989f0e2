"""A message that a worker holds: what it says, and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from medic.deliveries.grouping import OPENINGS
from medic.models.alerting import Target
from medic.notifications import AlertFacts, Notification, Question
from medic.targets.base import Envelope


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """One message to one target: a delivery, and those that it carries.

    :ivar ids: the deliveries, the one that leads first.
    :ivar key: constant over retries; the receiver may know the message by it.
    :ivar tries: failures that were recorded before.
    :ivar epoch: the fencing number, and how many times it was claimed.
    :ivar others: whether another target of the route can be told if this one cannot.
    :ivar earlier: what the target answered when it was first told of this alert, alone if it ever was.
    :ivar earlier_of: the same by alert, for what resolves several: of those that it was told of alone.
    """

    target: Target
    ids: tuple[int, ...]
    owner: UUID
    epoch: int
    key: UUID
    kind: str
    route_id: int | None
    alert_ids: tuple[int, ...]
    payloads: tuple[Mapping[str, Any], ...]
    tries: int
    created_at: datetime
    now: datetime
    others: bool
    earlier: Mapping[str, Any] | None
    earlier_of: Mapping[int, Mapping[str, Any]]

    @property
    def envelope(self) -> Envelope:
        dedup = f"medic-alert-{self.alert_ids[0]}" if self.alert_ids else f"medic-delivery-{self.key}"
        return Envelope(
            key=self.key, attempt=self.epoch, dedup=dedup, earlier=self.earlier, earlier_of=self.earlier_of
        )

    def notification(self, base_url: str) -> Notification:
        """What is said."""
        alerts = tuple(
            AlertFacts.from_payload(payload["alert"]) for payload in self.payloads if payload.get("alert")
        )
        first = self.payloads[0]
        return Notification(
            kind=self.kind,
            alerts=alerts,
            at=self.created_at,
            base_url=base_url,
            reason=first.get("reason") if len(alerts) == 1 else None,
            text=first.get("text") if len(alerts) < 2 else None,
            asks=Question.from_payload(first) if len(self.payloads) == 1 else None,
        )


def kind_of(kinds: list[str]) -> str:
    """The kind of a message that carries these: their own, or that something opened."""
    return kinds[0] if len(set(kinds)) == 1 or kinds[0] not in OPENINGS else "opened"
