"""What people decide about a service.  Pure, but for reading it off a stored row."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from medic.models.monitoring import Service
from medic.schedule import parse_schedule

DEFAULT_GRACE_S = 60


@dataclass(frozen=True, slots=True)
class Policy:
    """What people decide about a service; durations in whole seconds."""

    every_s: int | None = None
    cron: str | None = None
    on_calendar: str | None = None
    at_least: int | None = None
    within_s: int | None = None
    timezone: str = "UTC"
    grace_s: int = DEFAULT_GRACE_S
    max_runtime_s: int | None = None
    failure_threshold: int = 1
    recovery_threshold: int = 1
    renotify_every_s: int | None = None
    priority: str = "p3"
    tags: tuple[str, ...] = ()
    runbook_url: str | None = None
    description: str = ""
    playbook_policy: str = "all"
    team: str | None = None
    depends_on: tuple[str, ...] = ()

    def check(self) -> None:
        """The schedule is whole and can fire.

        :raises Invalid: naming the field that is wrong.
        """
        parse_schedule(
            every=self.every_s, cron=self.cron, on_calendar=self.on_calendar, at_least=self.at_least,
            within=self.within_s, timezone=self.timezone, default_zone="UTC",
        )  # fmt: skip


JUDGED = (
    "every_s", "cron", "on_calendar", "at_least", "within_s", "timezone", "grace_s", "max_runtime_s",
    "failure_threshold", "recovery_threshold",
)  # fmt: skip
"""What the verdict depends on.  An edit of anything else must not start the schedule afresh."""

COLUMNS = frozenset(Policy.__dataclass_fields__) - {"team", "depends_on", "tags"}


def policy_of(service: Service, *, team: str | None, depends_on: tuple[str, ...]) -> Policy:
    """The policy of a stored service, to be changed in part."""
    return Policy(
        **{column: getattr(service, column) for column in COLUMNS},
        tags=tuple(service.tags),
        team=team,
        depends_on=depends_on,
    )


def shown(policy: Policy) -> dict[str, Any]:
    """What an audit entry keeps of a policy."""
    return {
        key: value
        for key, value in asdict(replace(policy, description="")).items()
        if value not in (None, (), "")
    }
