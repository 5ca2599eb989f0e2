"""What a kind of target is, what it gets to send with, and what can come of it.

    parse(config, secrets) ─▶ what is stored       pure; a mistake is told where the target is entered
    send(target, notification, envelope) ─▶ receipt | Temporary | Permanent

A kind keeps no state and never sees the database.  Sending is at least once: a message whose answer was lost is
sent again, and each kind does what its medium offers so that the receiver can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol
from uuid import UUID

from pydantic import SecretStr

from medic.errors import MedicError
from medic.notifications import Notification
from medic.settings import Settings

LONGEST_SEND: Final = 60.0
"""No kind is at one message for longer, in seconds: what a lease must outlive."""

LONGEST_WAIT: Final = 3_600.0
"""A receiver that says when to come back is believed up to this, in seconds."""


class Temporary(MedicError):
    """It may go through later; ``retry_after`` is in seconds, where the receiver named a time."""

    code = "delivery_failed"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = None if retry_after is None else min(max(retry_after, 0.0), LONGEST_WAIT)


class Permanent(MedicError):
    """It will never go through; ``disables`` when that holds for whatever else is sent to this target."""

    code = "delivery_failed"

    def __init__(self, message: str, *, disables: bool) -> None:
        super().__init__(message)
        self.disables = disables


@dataclass(frozen=True)
class TargetView:
    """A target with its secrets open."""

    id: int
    name: str
    config: Mapping[str, Any] = field(repr=False)
    secrets: Mapping[str, SecretStr] = field(repr=False)


@dataclass(frozen=True)
class Envelope:
    """How one message is told from others.

    :param key: the delivery's, the same over all attempts.
    :param attempt: from 1.
    :param dedup: the alert's, the same over all its messages.
    :param earlier: the receipt of the message that told this target of the same alert first.
    :param earlier_of: the same by alert, where this one resolves several: of messages that told of one alert alone.
    """

    key: UUID
    attempt: int
    dedup: str
    earlier: Mapping[str, Any] | None = None
    earlier_of: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


class TargetKind(Protocol):
    """One kind.  ``groups``: many alerts of one moment may be one message."""

    kind: ClassVar[str]
    groups: ClassVar[bool]

    def parse(
        self, config: Mapping[str, Any], secrets: Mapping[str, str]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What is stored of a target.  What it returns it takes again, unchanged.

        :raises Invalid: naming what is wrong, as ``config.channel``; never showing a secret.
        """
        ...

    def send(
        self, target: TargetView, notification: Notification, envelope: Envelope, *, settings: Settings
    ) -> dict[str, Any]:
        """Send one message; the receipt is JSON without secrets.

        :raises Temporary:
        :raises Permanent:
        """
        ...
