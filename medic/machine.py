"""Decide what an execution does after a step acted.  Pure: no clock, no database, no randomness.

    pending_approval ──▶ running ──▶ completed
           │               │  ▲ └──▶ failed
           │               ▼  │
           │            waiting      (timer, condition, retry, concurrency, lock)
           ▼               │
       cancelled ◀─────────┴── in_doubt   (nobody knows whether the step happened; a human settles it)

A step's outcome and the row's counters go in; the columns to write come out.  ``medic.executions.claim``
writes them, guarded, so that a decision made on stale facts changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from medic.playbook.document import Probe, Retry, Step, names_failure
from medic.steps.base import AwaitApproval, Done, Failed, Notice, Outcome, Park

GRACE = timedelta(seconds=60)
GRACE_CAP = timedelta(minutes=10)
MAX_LOSSES = 3
REMINDER = timedelta(hours=1)
"""How often a question that waits for a human comes up again."""

LONGEST_BACKOFF_S = 86_400.0

FINAL_STATES = frozenset({"completed", "failed", "cancelled"})
CHECKED_KINDS = frozenset({"heartbeat_received", "alert_resolved"})

Json = dict[str, Any]
Verdict = Literal["happened", "retry", "fail", "ask"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """The step did not act: its ``when`` said no, or the alert it was for is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """The alert is over: the execution ends here, and what remains is not done."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe of a step in doubt says.

    :param verdict: ``ask``: it does not know, so it asks `again`; without that a human is asked.
    """

    verdict: Verdict
    message: str
    doubt: Json
    output: Json
    again: datetime | None = None


Result = Outcome | Skipped | Recovered | Probed


@dataclass(frozen=True, slots=True)
class Decision:
    """What `record` writes."""

    state: str
    next_step: int
    outcome: str
    step_state: str
    due_at: datetime | None = None
    waiting_for: str | None = None
    parks: bool = False
    counts_try: bool = False
    check: Json | None = None
    output: Json | None = None
    step_error: Json | None = None
    error: Json | None = None
    rest_error: Json | None = None
    approval: AwaitApproval | None = None
    notice: Notice | None = None
    doubt: Json | None = None

    @property
    def escalates(self) -> bool:
        """The step failed for good, and whoever stands above is to hear of it."""
        return bool(self.error and self.error.get("escalated"))

    @property
    def asks_of_doubt(self) -> bool:
        """The step stays in doubt, and from now on that is a human's to settle."""
        return self.doubt is not None and not self.doubt["probing"]

    @property
    def is_alone(self) -> bool:
        """Nothing else commits with it."""
        return not (self.approval or self.notice or self.escalates or self.asks_of_doubt)

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def step_ended(self) -> bool:
        return self.step_state in {"completed", "failed", "skipped", "cancelled"}


def grace(redispatches: int) -> timedelta:
    """How long a dispatched step may stay unclaimed: 60 s, doubling to 10 min."""
    return min(GRACE * (1 << min(redispatches, 8)), GRACE_CAP)


def backoff(retry: Retry, tries: int, *, chance: float) -> timedelta:
    """The pause before try number ``tries + 1``; ``chance`` in [0, 1) spreads it by the retry's jitter."""
    pause = retry.backoff.total_seconds() * min(float(retry.factor ** max(tries - 1, 0)), 1e6)
    spread = 1 + retry.jitter * (2 * chance - 1)
    return timedelta(seconds=min(pause * spread, LONGEST_BACKOFF_S))


def decide(
    step: Step, result: Result, *, position: int, step_count: int, tries: int, now: datetime, chance: float
) -> Decision:
    """What follows from a step's result.

    :param tries: failures of this step that were recorded before.
    :param chance: a random number in [0, 1), for the jitter of a retry.
    """
    match result:
        case Done(output=output, notice=notice):
            return _advance(
                position, step_count, now, outcome="completed", step_state="completed", output=output,
                notice=notice,
            )  # fmt: skip
        case Probed():
            return _settle(step, result, position, step_count, tries, now, chance)
        case Skipped(reason=reason):
            error = {"code": "skipped", "message": reason}
            return _advance(
                position, step_count, now, outcome="skipped", step_state="skipped", step_error=error
            )
        case Recovered():
            why = {"code": "recovered", "message": "The alert was resolved before this step."}
            return Decision(
                "completed", position, outcome="skipped", step_state="skipped", step_error=why, rest_error=why
            )
        case Park(until=until, check=check):
            reason = "condition" if check else "timer"
            return Decision(
                "waiting", position, outcome="parked", step_state="waiting", due_at=max(until, now),
                waiting_for=reason, parks=True, check=check,
            )  # fmt: skip
        case AwaitApproval(timeout=timeout):
            return Decision(
                "pending_approval", position, outcome="parked", step_state="waiting", parks=True,
                due_at=now + (timeout or REMINDER), approval=result,
            )  # fmt: skip
        case Failed():
            return _fail(step, result, position, step_count, tries, now, chance)


def _advance(
    position: int, step_count: int, now: datetime, *, outcome: str, step_state: str,
    output: Json | None = None, step_error: Json | None = None, counts_try: bool = False,
    notice: Notice | None = None,
) -> Decision:  # fmt: skip
    last = position + 1 >= step_count
    return Decision(
        "completed" if last else "running",
        position + 1,
        outcome=outcome,
        step_state=step_state,
        due_at=None if last else now + GRACE,
        output=output,
        step_error=step_error,
        counts_try=counts_try,
        notice=notice,
    )


def _settle(
    step: Step, probed: Probed, position: int, step_count: int, tries: int, now: datetime, chance: float
) -> Decision:
    """What a probe's answer means for the step that stands in doubt."""
    error = {"code": f"probe_{probed.verdict}", "message": probed.message}
    match probed.verdict:
        case "happened":
            return _advance(
                position, step_count, now, outcome="completed", step_state="completed", output=probed.output
            )
        case "retry":
            return Decision(
                "waiting", position, outcome="parked", step_state="pending", waiting_for="retry", due_at=now,
                step_error=error,
            )  # fmt: skip
        case "fail":
            failed = Failed("probe_fail", probed.message, probed.output)
            return _fail(step, failed, position, step_count, tries, now, chance)
    asks_on = probed.again is not None
    return Decision(
        "in_doubt", position, outcome="parked", step_state="in_doubt", due_at=probed.again or now + REMINDER,
        output=probed.output, step_error=error, doubt=probed.doubt | {"probing": asks_on},
    )  # fmt: skip


def judge_probe(probe: Probe, outcome: Outcome, doubt: Json, *, until: datetime, now: datetime) -> Probed:
    """What a probe that acted says about the step in doubt.

    :param doubt: as it stands on the step.
    :param until: how long the probe asks.
    """
    output: Json = {"probe": outcome.output} if isinstance(outcome, Done | Failed) else {}
    if isinstance(outcome, Done):
        return Probed("happened", "The probe found that the step happened.", doubt, output)
    code = outcome.code if isinstance(outcome, Failed) else ""
    why = f" ({code}: {outcome.message})" if isinstance(outcome, Failed) else ""
    if isinstance(outcome, Failed):
        if probe.retry_on and names_failure(probe.retry_on, code):
            return Probed("retry", f"The probe found that the step did not happen{why}.", doubt, output)
        if probe.fail_on and names_failure(probe.fail_on, code):
            return Probed("fail", f"The probe found that the step failed{why}.", doubt, output)
    if now < until:
        again = min(now + probe.interval, until)
        return Probed("ask", f"The probe does not know yet{why}.", doubt, output, again=again)
    return Probed(probe.otherwise, f"The probe could not tell in its time{why}.", doubt, output)


def _fail(
    step: Step, failed: Failed, position: int, step_count: int, tries: int, now: datetime, chance: float
) -> Decision:
    error = {"code": failed.code, "message": failed.message}
    if step.retry.covers(failed.code, retryable=failed.retryable) and tries + 1 < step.retry.attempts:
        return Decision(
            "waiting", position, outcome="failed", step_state="waiting", waiting_for="retry", counts_try=True,
            due_at=now + backoff(step.retry, tries + 1, chance=chance), output=failed.output, step_error=error,
        )  # fmt: skip
    if step.on_failure == "continue":
        return _advance(
            position, step_count, now, outcome="failed", step_state="failed", output=failed.output,
            step_error=error, counts_try=True,
        )  # fmt: skip
    return Decision(
        "failed",
        position,
        outcome="failed",
        step_state="failed",
        counts_try=True,
        output=failed.output,
        step_error=error,
        error=error | {"step": step.name, "escalated": step.on_failure == "escalate"},
        rest_error={"code": "not_reached", "message": f"Step {step.name} failed."},
    )


def unreadable(position: int, message: str) -> Decision:
    """This worker cannot read the playbook's version: a step type that it had is gone."""
    error = {"code": "unreadable", "message": f"This worker cannot read the playbook: {message}"}
    return Decision(
        "failed", position, outcome="failed", step_state="failed", counts_try=True, step_error=error,
        error=error, rest_error={"code": "not_reached", "message": "The playbook could not be read."},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loss:
    """What follows when the worker that held a step is gone."""

    verdict: str  # retry | fail | ask
    error: Json


def after_loss(step: Step, *, losses: int) -> Loss:
    """Apply the step's ``on_crash``; the third loss is final, whatever it says.

    :param losses: how often this step's worker was lost before.
    """
    if losses + 1 >= MAX_LOSSES:
        message = f"The worker was lost {losses + 1} times while this step ran."
        return Loss("fail", {"code": "lost_workers", "message": message})
    message = "The worker was lost while this step ran; whether it happened is unknown."
    return Loss(step.on_crash, {"code": "lost", "message": message})


def window(
    steps: tuple[Step, ...], *, start: int, parked: bool, parking: frozenset[str], size: int = 20
) -> range:
    """The positions to publish as one chain: from ``start`` up to the next step that parks.

    :param parked: the first step has parked already and now ends.
    :param parking: the types that park.
    """
    end = start
    while end < len(steps) and end - start < size:
        end += 1
        if steps[end - 1].type in parking and not (parked and end - 1 == start):
            break
    return range(start, end)
