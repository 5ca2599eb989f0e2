"""Each rule's verdict on a service at a time, in plain sentences.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from medic.evaluator import Interval, OpenRun, Status
from medic.explain.replay import Walked
from medic.schedule import AtLeast, Every, describe
from medic.times import format_duration, format_time


@dataclass(frozen=True, slots=True)
class Rule:
    """Whether a rule holds, and the facts that decide it."""

    rule: str
    holds: bool
    because: str


def rules_of(walked: Walked) -> tuple[Rule, ...]:
    """What each rule says of the service then; the reasons of an alert hold as long as they are in it."""
    return (
        _paused(walked),
        _never_beat(walked),
        _unheard(walked),
        _late(walked),
        _missed(walked),
        _failed(walked),
        _overrun(walked),
        _too_few(walked),
        _threshold(walked),
        _resolved_by_hand(walked),
        _recovering(walked),
    )


def _paused(walked: Walked) -> Rule:
    if walked.policy.paused:
        return Rule(
            "paused", True, f"It is paused since {moment(walked.policy.started_at)}: nothing is expected."
        )
    return Rule("paused", False, "It is not paused.")


def _never_beat(walked: Walked) -> Rule:
    state = walked.state
    if state.last_success_at is not None:
        return Rule("never_beat", False, f"It last succeeded at {moment(state.last_success_at)}.")
    told = (
        "its one alert for that was opened; the next opens after a success."
        if state.new_alerted
        else "it alerts once for that, when its deadline has passed."
    )
    return Rule("never_beat", True, f"No success of it is known; {told}")


def _unheard(walked: Walked) -> Rule:
    gaps = gaps_since(walked)
    if not gaps:
        return Rule("unheard", False, "Medic heard all along.")
    named = ", ".join(f"{moment(gap.start)} to {moment(min(gap.end, walked.at))}" for gap in gaps[-3:])
    more = f" ({len(gaps) - 3} more before)" if len(gaps) > 3 else ""
    return Rule(
        "unheard",
        True,
        f"Medic could not hear it from {named}{more}; what was due then is unknown, not missed.",
    )


def gaps_since(walked: Walked) -> list[Interval]:
    """When it could not be heard, in the time that the verdict reaches back to."""
    last = walked.state.last_success_at
    oldest = min([run.started_at for run in walked.runs], default=walked.at)
    since = walked.policy.started_at if last is None else last
    if isinstance(walked.policy.schedule, AtLeast):
        since = walked.at - walked.policy.schedule.within
    return [gap for gap in walked.blind if gap.end > min(since, oldest)]


def _late(walked: Walked) -> Rule:
    holds = walked.state.status is Status.LATE
    if walked.policy.paused or walked.deadline is None:
        return Rule("late", holds, "Nothing is expected while it is paused.")
    if isinstance(walked.policy.schedule, AtLeast):
        return Rule("late", holds, _window(walked))
    deadline, grace = walked.deadline, walked.policy.grace
    end = f"its grace of {format_duration(grace)} ends at {moment(deadline + grace)}"
    if deadline <= walked.at:
        return Rule("late", holds, f"A success was expected by {moment(deadline)}, and {end}.")
    missed = (
        f"{_times(walked.state.misses)} missed already; the next " if walked.state.misses else "The next "
    )
    return Rule("late", holds, f"{missed}success is expected by {moment(deadline)}, and {end}.")


def _missed(walked: Walked) -> Rule:
    state, policy = walked.state, walked.policy
    holds = state.missed_since is not None
    if isinstance(policy.schedule, AtLeast):
        return Rule("missed", holds, f"Its schedule ({describe(policy.schedule)}) has no deadlines to miss.")
    if state.missed_at is not None and state.misses:
        said = (
            f"No success for the deadline {moment(state.missed_at)} before its grace of {format_duration(policy.grace)}"
            f" was over; {_times(state.misses)} missed since {_began(walked)}."
        )
        return Rule("missed", holds, said if holds else f"{said} {_below(walked)}")
    if holds:
        return Rule("missed", True, f"It was missed at {moment(state.missed_since)}. {_recovery(walked)}")
    return Rule("missed", False, f"No deadline was missed since {_began(walked)}.")


def _failed(walked: Walked) -> Rule:
    state = walked.state
    if state.failed_since is not None:
        last = f"; the last failure was at {moment(state.last_failure_at)}" if state.last_failure_at else ""
        return Rule("failed", True, f"It failed at {moment(state.failed_since)}{last}. {_recovery(walked)}")
    if state.last_failure_at is None:
        return Rule("failed", False, "No failure of it is known.")
    last = f"Its last failure was at {moment(state.last_failure_at)}"
    if state.last_success_at is not None and state.last_success_at >= state.last_failure_at:
        return Rule("failed", False, f"{last}, before its last success.")
    return Rule("failed", False, f"{last}. {_below(walked)}")


def _overrun(walked: Walked) -> Rule:
    state, limit = walked.state, walked.policy.max_runtime
    over = {mark.key for mark in state.marks if mark.overrun}
    holds = state.overrun_since is not None
    if not walked.runs:
        return Rule("overrun", holds, "No run is open.")
    if limit is None:
        return Rule("overrun", holds, f"{_count(walked.runs)} open, and no max_runtime is set.")
    named = [run for run in walked.runs if run.key in over] or list(walked.runs)
    told = "; ".join(_run(walked, run, limit) for run in named[:3])
    if over and not holds:
        told += "; the alert was resolved by hand, and a run opens it once"
    return Rule("overrun", holds, f"{told}.")


def _run(walked: Walked, run: OpenRun, limit: timedelta) -> str:
    name = "A run" if run.run_id is None else f"The run {run.run_id}"
    end = run.started_at + limit
    if any(gap.start < end and gap.end > run.started_at for gap in walked.blind):
        return f"{name} began at {moment(run.started_at)}, and Medic could not hear whether it ended in time"
    verb = "had to end" if end <= walked.at else "has to end"
    return f"{name} began at {moment(run.started_at)} and {verb} by {moment(end)} (max_runtime {format_duration(limit)})"


def _too_few(walked: Walked) -> Rule:
    holds = walked.state.too_few_since is not None
    if not isinstance(walked.policy.schedule, AtLeast):
        return Rule("too_few", holds, "Successes are not counted in windows: its schedule is another.")
    return Rule("too_few", holds, _window(walked))


def _window(walked: Walked) -> str:
    schedule, state = walked.policy.schedule, walked.state
    assert isinstance(schedule, AtLeast)
    wanted = f"{walked.heard} of {schedule.count} successes in the {format_duration(schedule.within)} before"
    if state.short_since is not None:
        return f"{wanted}; too few since {moment(state.short_since)}."
    armed = state.base_at + schedule.within + walked.policy.grace
    if armed > walked.at:
        return f"{wanted}; judged from the end of the first whole window and its grace on, {moment(armed)}."
    return f"{wanted}; that is enough."


def _threshold(walked: Walked) -> Rule:
    state = walked.state
    level = walked.policy.failure_threshold + (state.held_from or 0)
    counted = f"{state.failures} misses and failures in a row; an alert opens with number {level}."
    return Rule("threshold", state.failures >= level, counted)


def _resolved_by_hand(walked: Walked) -> Rule:
    held = walked.state.held_from
    if held is None:
        return Rule("resolved_by_hand", False, "No alert was resolved by hand since its last success.")
    level = held + walked.policy.failure_threshold
    return Rule(
        "resolved_by_hand", True,
        f"Somebody resolved the alert with {held} misses and failures in a row: it opens again with number {level},"
        " or after a success.",
    )  # fmt: skip


def _recovering(walked: Walked) -> Rule:
    if not walked.state.reasons:
        return Rule("recovering", False, "No alert is open.")
    return Rule("recovering", walked.state.successes > 0, _recovery(walked))


def _recovery(walked: Walked) -> str:
    state = walked.state
    ends = []
    if state.missed_since or state.failed_since:
        level = walked.policy.recovery_threshold
        heard = f"it ends with {level} successes in a row, {state.successes} of which were heard"
        ends.append("it ends with the next success" if level == 1 else heard)
    if state.overrun_since:
        ends.append("the end of the run ends the overrun")
    if state.too_few_since:
        ends.append("enough successes in a window end too_few")
    text = "; ".join(ends)
    return f"{text[:1].upper()}{text[1:]}." if text else "Nothing has to recover."


def _below(walked: Walked) -> str:
    state = walked.state
    if state.held_from is not None:
        return "The alert was resolved by hand."
    if state.last_success_at is None and state.new_alerted:
        return "It never beat, and its one alert was opened before."
    level = walked.policy.failure_threshold
    if state.failures < level:
        return f"The counter stands at {state.failures}, and an alert opens at {level}."
    if walked.policy.paused:
        return "It is paused."
    return "The alert is open for another reason."


def _began(walked: Walked) -> str:
    state = walked.state
    last = state.last_success_at
    if isinstance(walked.policy.schedule, Every):
        return moment(state.base_at)
    return moment(walked.policy.started_at if last is None else max(last, walked.policy.started_at))


def _times(number: int) -> str:
    return "One deadline was" if number == 1 else f"{number} deadlines were"


def _count(runs: Sequence[OpenRun]) -> str:
    return "One run is" if len(runs) == 1 else f"{len(runs)} runs are"


def moment(at: datetime | None) -> str:
    """A time for people, to the second."""
    return "an unknown time" if at is None else format_time(at.replace(microsecond=0))
