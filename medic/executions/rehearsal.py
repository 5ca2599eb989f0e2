"""A dry run: each step as it would act now, and what stands in its way.  It starts nothing and sends nothing.

What only an earlier step will give stands in a step as ``[steps.NAME.…]``, a secret as ``[secret:NAME]``.  The database
is asked in one transaction; addresses are looked up after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from medic import scripts
from medic.errors import EgressRefused, Invalid, NotFound
from medic.executions import admission, telling
from medic.executions.admission import Subject
from medic.models.access import Secret
from medic.models.alerting import Alert
from medic.playbook.document import Step
from medic.playbook.judgement import holds
from medic.playbook.scope import Json, Reference, Scope
from medic.steps import load_types
from medic.steps.base import Recipient, Rehearsed, Script

NOBODY = UUID(int=0)
"""Stands for the execution that there is not."""
PATIENCE_S = 10.0
"""For all addresses together; then those that remain are judged without being looked up."""

CLOSED = "Its address may not be reached, or has no such name; the log of the API says why."
"""The same for every reason, so that nobody maps the network with it."""

JudgeUrl = Callable[[str, float], None]
"""Raises `EgressRefused` for an address that may not be reached; looks it up for so many seconds, or not for 0."""


@dataclass(slots=True)
class Rehearsal:
    """A step as it would act.

    :param needs: the earlier steps whose results it waits for; what depends on them is not known yet.
    :param skipped: its ``when`` does not hold.
    :param shown: None where it could not be rendered.
    """

    step: Step
    shown: dict[str, Json] | None = None
    needs: list[str] = field(default_factory=list)
    skipped: bool = False
    problems: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class DryRun:
    """``now``: what a start would do at this moment, as a state of an execution, or ``refused``; ``why`` with it."""

    variables: dict[str, Any]
    lock: str | None
    now: str
    why: str | None
    steps: tuple[Rehearsal, ...]


@dataclass(frozen=True, slots=True)
class _Foreseen(Scope):
    """The values that are known before anything ran; which results of steps were asked for is noted."""

    needs: list[str] = field(default_factory=list)

    def find(self, reference: Reference) -> Json:
        if reference.kind != "step":
            # Not by super(): a class with slots is made anew, and the name here is that of the old one.
            return Scope.find(self, reference)
        if reference.name not in self.needs:
            self.needs.append(reference.name)
        return f"[{str(reference)[2:-1]}]"


@dataclass(slots=True)
class _Checks:
    """`medic.steps.base.Checks` for one step."""

    session: Session
    service_id: int | None
    alert_id: int | None
    now: datetime
    is_whole: bool
    urls: list[str] = field(default_factory=list)

    def url(self, url: str) -> None:
        self.urls.append(url)

    def script(self, name: str) -> Script:
        _, version = scripts.find(self.session, name)
        return Script(
            "bash" if version.interpreter == "bash" else "python", version.content, version.parameters,
            version=version.version, network=version.network,
        )  # fmt: skip

    def recipients(self, *, target: str | None = None, route: str | None = None) -> Sequence[Recipient]:
        if target is not None:
            return telling.named_target(self.session, target)
        if route is not None:
            return telling.named_route(self.session, route)
        return telling.audience(
            self.session, service_id=self.service_id, alert_id=self.alert_id, now=self.now
        )


def rehearse(session: Session, subject: Subject, *, now: datetime) -> DryRun:
    """Render every step, with what the database knows of it.

    :raises Invalid: when the variables do not fit the playbook, or its lock has no name.
    """
    document = subject.document
    variables = admission.bind_variables(document, subject.variables) | subject.context
    variables |= admission.built_ins(subject, NOBODY) | _of_an_alert(session, subject)
    lock = admission.lock_name(document, variables)
    state, why = admission.foresee(session, subject, lock, now=now)
    known = set(session.scalars(select(Secret.name)))
    steps = tuple(_rehearse(session, subject, step, variables, known, now) for step in document.steps)
    return DryRun(variables, lock, state, why, steps)


def judge_urls(run: DryRun, judge: JudgeUrl) -> None:
    """Look at where the steps would send something; no connection is opened."""
    verdicts: dict[str, str | None] = {}
    ends = time.monotonic() + PATIENCE_S
    for rehearsal in run.steps:
        for url in rehearsal.urls:
            if url not in verdicts:
                try:
                    judge(url, max(0.0, ends - time.monotonic()))
                    verdicts[url] = None
                except EgressRefused:
                    verdicts[url] = CLOSED
            if (said := verdicts[url]) is not None:
                rehearsal.problems.append(said)


def _of_an_alert(session: Session, subject: Subject) -> dict[str, Any]:
    """What an execution for an alert knows: of the one that is open, else of one that might be."""
    trigger = subject.document.trigger
    if trigger is None or subject.service_id is None:
        return {}
    alert = session.scalar(
        select(Alert.id).where(Alert.service_id == subject.service_id, Alert.resolved_at.is_(None))
    )
    return {"ALERT_ID": alert or 0, "CONSECUTIVE_FAILURES": trigger.consecutive_failures, "ALERT_CYCLE": 1}


def _rehearse(
    session: Session,
    subject: Subject,
    step: Step,
    variables: dict[str, Any],
    secrets: set[str],
    now: datetime,
) -> Rehearsal:
    rehearsal = Rehearsal(step)
    used: list[str] = []

    def secret(name: str) -> str:
        used.append(name)
        return f"[secret:{name}]"

    scope = _Foreseen(variables=variables, secret=secret, needs=rehearsal.needs)
    kind = load_types()[step.type]
    try:
        if step.when is not None and not any(one.kind == "step" for one in step.when.references):
            rehearsal.skipped = not holds(step.when, scope)
        rendered = kind.render(step.spec, scope)
        rehearsal.shown = dict(rendered.shown)
        if isinstance(kind, Rehearsed):
            checks = _Checks(
                session, subject.service_id, variables.get("ALERT_ID"), now, is_whole=not rehearsal.needs
            )
            rehearsal.problems += kind.rehearse(rendered, checks)
            rehearsal.urls = checks.urls
    except (Invalid, NotFound) as error:
        # What a placeholder does not fit, the result may: that is no problem of the playbook.
        if isinstance(error, NotFound) or not rehearsal.needs:
            rehearsal.problems.append(error.message)
    rehearsal.problems += [
        f"There is no secret {name}." for name in dict.fromkeys(used) if name not in secrets
    ]
    return rehearsal


def is_fine(run: DryRun) -> bool:
    """Nothing stands in the way of any step."""
    return not any(rehearsal.problems for rehearsal in run.steps)
