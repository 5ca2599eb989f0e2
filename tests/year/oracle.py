"""What must happen to one service, found without the evaluator: one moment after the other, plain lists.

It holds the design's rules and the numbered ones of `medic.evaluator`, and shares no code with it: no
arithmetic on many deadlines, no cursor, no due row, no batch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.year.clock import DAY, SECOND

HISTORY = 60 * SECOND
FOREVER = 1 << 62


class Beat(NamedTuple):
    """A signal: when it arrives, how old it is then."""

    arrival: int
    kind: str = "ok"
    age: int = 0
    run_id: str | None = None
    exit_code: int | None = None
    client_id: str | None = None

    @property
    def event(self) -> int:
        return self.arrival - self.age


@dataclass(frozen=True)
class Plan:
    """A policy, from `since` on.  One of `period`, `times`, `count` with `within` is the schedule."""

    since: int
    grace: int
    period: int = 0
    times: Sequence[int] = ()
    count: int = 0
    within: int = 0
    max_runtime: int | None = None
    failure_threshold: int = 1
    recovery_threshold: int = 1
    paused: bool = False


class Change(NamedTuple):
    kind: str
    reason: str
    at: int


@dataclass(eq=False)
class _Run:
    started: int
    run_id: str | None
    later_successes: int = 0
    overrun: bool = False

    @property
    def order(self) -> tuple[int, str]:
        return self.started, self.run_id or ""


class _Miss(NamedTuple):
    deadline: int
    before: int


@dataclass
class Oracle:
    """:param blind: when nothing could be heard; sorted, apart from each other."""

    plans: Sequence[Plan]
    beats: Sequence[Beat]
    blind: Sequence[tuple[int, int]]
    end: int
    story: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = self.plans[0]
        self.now = self.base = self.done = self.plan.since
        self.success: int | None = None
        self.failure: int | None = None
        self.proofs: list[int] = []
        self.misses: list[_Miss] = []
        self.failures = self.successes = 0
        self.failed_for: int | None = None
        self.reasons: list[str] = []
        self.new_alerted = False
        self.window: list[int] = []
        self.short = False
        self.counted: int | None = None
        self.runs: list[_Run] = []
        self.ended: set[str] = set()
        self.last_end: int | None = None
        self.last_change = -FOREVER
        self._run()

    def _run(self) -> None:
        things: list[tuple[int, int, Beat | Plan]] = [(beat.arrival, 0, beat) for beat in self._once()]
        things += [(plan.since, 1, plan) for plan in self.plans[1:]]
        # Sorting keeps the order of those that arrive together.
        for at, _, thing in sorted(things, key=lambda one: one[:2]):
            self._pass(at)
            if isinstance(thing, Beat):
                self._fold(thing)
            else:
                self._take(thing)
        self._pass(self.end)

    def _once(self) -> list[Beat]:
        """A client's id counts once: the first that arrived."""
        seen: set[str] = set()
        found = []
        for beat in self.beats:
            if beat.client_id is not None:
                if beat.client_id in seen:
                    continue
                seen.add(beat.client_id)
            found.append(beat)
        return found

    # --- the alert

    def _count(self, reason: str, at: int) -> None:
        self.successes = 0
        self.failures += 1
        if self.failures < self.plan.failure_threshold or reason in self.reasons:
            return
        if self.success is None and reason != "failed":
            if self.new_alerted:
                return
            self.new_alerted = True
        self._add(reason, at)

    def _add(self, reason: str, at: int) -> None:
        self._tell("reason_joined" if self.reasons else "opened", reason, at)
        self.reasons.append(reason)

    def _clear(self, reason: str, at: int) -> None:
        if reason in self.reasons:
            self.reasons.remove(reason)
            self._tell("reason_cleared" if self.reasons else "resolved", reason, at)

    def _tell(self, kind: str, reason: str, at: int) -> None:
        # Never dated before the one before it.
        self.last_change = max(self.last_change, at)
        self.story.append(Change(kind, reason, self.last_change))

    # --- time

    @property
    def _anchor(self) -> int:
        return self.base if self.success is None else max(self.base, self.success)

    def _is_blind(self, start: int, end: int) -> bool:
        return any(gap < end and over > start for gap, over in self.blind)

    def _pass(self, until: int) -> None:
        """Let time pass; at one moment the schedule comes before the runs."""
        while True:
            scheduled, timed = self._next_scheduled(), self._next_timed()
            moment = min(scheduled, timed)
            if moment > until:
                break
            self.now = max(self.now, moment)
            if scheduled <= timed:
                self._judge()
            else:
                self._judge_run()
        self.now = until
        gap = self._fresh_start(until)
        if gap is not None and not self.plan.paused:
            self._start_afresh(until)

    def _next_scheduled(self) -> int:
        plan = self.plan
        if plan.paused:
            return FOREVER
        if plan.times:
            return self._next_time() + plan.grace
        moment = self._next_deadline() + plan.grace if plan.period else self._next_short()
        gap = self._fresh_start(moment)
        return moment if gap is None else gap

    def _judge(self) -> None:
        plan = self.plan
        if plan.times:
            self._judge_time()
            return
        moment = self._next_deadline() + plan.grace if plan.period else self._next_short()
        gap = self._fresh_start(moment)
        if gap is not None:
            self._start_afresh(gap)
        elif plan.period:
            self._judge_deadline()
        else:
            self.short = True
            self.counted = self.now
            self._count("too_few", self.now)

    def _fresh_start(self, moment: int) -> int | None:
        """The end of a blind interval that began before this moment, if it is news."""
        if self.plan.times:
            return None
        known = self._anchor if self.plan.period else self.base
        return next((over for gap, over in self.blind if over > known and gap < moment), None)

    def _start_afresh(self, at: int) -> None:
        self.base = at
        if self.plan.period:
            self.misses = []
        else:
            self.counted = None
            self.short = self.short and "too_few" in self.reasons

    def _next_deadline(self) -> int:
        deadline = self._anchor + self.plan.period
        while deadline <= self.done:
            deadline += self.plan.period
        return deadline

    def _judge_deadline(self) -> None:
        self.done = deadline = self._next_deadline()
        before = deadline - self.plan.period
        if not any(proof > max(self._anchor, before) for proof in self.proofs):
            self.misses.append(_Miss(deadline, before))
            self._count("missed", deadline + self.plan.grace)

    def _next_time(self) -> int:
        place = bisect_right(self.plan.times, self.done)
        return self.plan.times[place] if place < len(self.plan.times) else FOREVER

    def _judge_time(self) -> None:
        time = self._next_time()
        before = max(self.done, self._anchor)
        self.done = time
        if self._is_blind(before, time + self.plan.grace):
            self.base, self.misses = max(self.base, time), []
        elif not any(proof > before for proof in self.proofs):
            self.misses.append(_Miss(time, before))
            self._count("missed", time + self.plan.grace)

    def _heard(self, at: int) -> int:
        return sum(1 for event in self.window if at - self.plan.within < event <= at)

    def _next_short(self) -> int:
        """When the window is short next, or is short for one more whole window."""
        plan = self.plan
        armed = self.base + plan.within + plan.grace
        if self.short:
            return armed if self.counted is None else max(self.counted + plan.within, armed)
        at = max(self.now, armed)
        for event in sorted(self.window):
            if self._heard(at) < plan.count:
                break
            at = max(at, event + plan.within)
        return at

    # --- signals

    def _fold(self, beat: Beat) -> None:
        if beat.kind == "start":
            self._start_run(beat)
        if beat.kind in {"start", "log"}:
            return
        own = self._end_run(beat)
        is_history = beat.age > HISTORY
        if beat.kind == "fail" or beat.exit_code:
            if not is_history:
                self._fail(beat.event)
        elif is_history:
            self._prove(beat.event)
        else:
            self._lose_runs(beat.event, own)
            self._succeed(beat.event)

    def _prove(self, event: int) -> None:
        if self.plan.count:
            self._enter_window(event)
        elif event > self._anchor:
            self.proofs.append(event)
            kept = [miss for miss in self.misses if miss.before >= event]
            gone = len(self.misses) - len(kept)
            self.failures, self.misses = self.failures - gone, kept
            if gone and self.failures < self.plan.failure_threshold:
                if "missed" in self.reasons:
                    self.new_alerted = False
                self._clear("missed", event)

    def _enter_window(self, event: int) -> None:
        self.window = [one for one in self.window if one > self.now - 2 * self.plan.within]
        self.window.append(event)
        if self.short and self._heard(self.now) >= self.plan.count:
            self.short, self.counted, self.failures, self.misses = False, None, 0, []
            self._clear("too_few", event)

    def _settle(self, event: int) -> int | None:
        """The occurrence that a final signal stands for; all up to it are settled."""
        times = self.plan.times
        if not times:
            return None
        place = bisect_right(times, event)
        before, own = times[place - 1], times[place] if place < len(times) else FOREVER
        if self.done < before or event <= before + self.plan.grace or event - before < own - event:
            own = before
        self.done = max(self.done, event, own)
        return own

    def _succeed(self, event: int) -> None:
        self.new_alerted = False
        self.success = event if self.success is None else max(self.success, event)
        self._settle(event)
        if self.plan.count:
            self._enter_window(event)
        if self.failure is not None and event < self.failure:
            return
        if not self.short:
            self.failures = 0
        self.misses, self.failed_for = [], None
        if "missed" in self.reasons or "failed" in self.reasons:
            self.successes += 1
            if self.successes >= self.plan.recovery_threshold:
                self._clear("missed", event)
                self._clear("failed", event)
                self.successes = 0

    def _fail(self, event: int) -> None:
        self.failure = event if self.failure is None else max(self.failure, event)
        if self.plan.paused or (self.success is not None and event < self.success):
            return
        missed = self.misses[-1].deadline if self.misses else None
        is_counted = False
        own = self._settle(event)
        if self.plan.period:
            is_counted = missed is not None and event <= missed + self.plan.grace
        elif self.plan.times:
            is_counted = own in {missed, self.failed_for}
            self.failed_for = own
        if not self.plan.count:
            self.base, self.misses = max(self.base, event), []
        if is_counted:
            self.failures = max(self.failures - 1, 0)
        self._count("failed", event)

    # --- runs

    def _start_run(self, beat: Beat) -> None:
        if beat.run_id is None:
            if self.last_end is not None and beat.event < self.last_end:
                return
        elif beat.run_id in self.ended:
            return
        run = _Run(beat.event, beat.run_id)
        if not any(
            other.order == run.order or (other.run_id and other.run_id == run.run_id) for other in self.runs
        ):
            self.runs.append(run)
            self.runs.sort(key=lambda one: one.order)

    def _end_run(self, beat: Beat) -> _Run | None:
        if beat.run_id is not None:
            found = [run for run in self.runs if run.run_id == beat.run_id]
            self.ended.add(beat.run_id)
        elif beat.kind == "ok" and beat.exit_code is None:
            return None
        else:
            found = [run for run in self.runs if run.run_id is None and run.started <= beat.event]
            self.last_end = beat.event if self.last_end is None else max(self.last_end, beat.event)
        if not found:
            return None
        self._close(found[-1], max(beat.event, found[-1].started))
        return found[-1]

    def _lose_runs(self, event: int, own: _Run | None) -> None:
        for run in tuple(self.runs):
            if run is not own and event > run.started:
                run.later_successes += 1
                if run.later_successes == 2:
                    self._close(run, event)

    def _close(self, run: _Run, at: int) -> None:
        self.runs.remove(run)
        if run.run_id is not None:
            self.ended.add(run.run_id)
        if not any(other.overrun for other in self.runs):
            self._clear("overrun", at)

    def _overruns_at(self, run: _Run) -> int | None:
        limit = self.plan.max_runtime
        if limit is None or self._is_blind(run.started, min(run.started + limit, self.now)):
            return None
        return run.started + limit

    def _timers(self) -> list[tuple[int, bool, tuple[int, str], _Run]]:
        found = []
        limit = self.plan.max_runtime
        patience = max(DAY, 10 * limit) if limit else DAY
        for run in self.runs:
            found.append((run.started + patience, True, run.order, run))
            at = None if run.overrun or self.plan.paused else self._overruns_at(run)
            if at is not None and at >= self.now and not self._is_blind(run.started, at):
                found.append((at, False, run.order, run))
        return sorted(found, key=lambda one: one[:3])

    def _next_timed(self) -> int:
        return self._timers()[0][0] if self.runs else FOREVER

    def _judge_run(self) -> None:
        at, is_lost, _, run = self._timers()[0]
        if is_lost:
            self._close(run, at)
        else:
            self._overrun(run, at)

    def _overrun(self, run: _Run, at: int) -> None:
        run.overrun = True
        if "overrun" not in self.reasons:
            self._add("overrun", at)

    # --- policy

    def _take(self, plan: Plan) -> None:
        was_paused, self.plan = self.plan.paused, plan
        if plan.paused:
            if not was_paused:
                self._pause()
            return
        if plan.count:
            self._forget_misses()
            self._clear("missed", plan.since)
            self.base, self.counted = plan.since, None
            self.short = "too_few" in self.reasons
        else:
            self._clear("too_few", plan.since)
            self.short = False
            if self._deadline_after(self._anchor) + plan.grace > plan.since:
                self._forget_misses()
                self._clear("missed", plan.since)
            elif plan.period:
                self.base = plan.since
            self.done = -FOREVER if plan.period else plan.since
        for run in self.runs:
            at = self._overruns_at(run)
            if at is None or at > plan.since:
                run.overrun = False
            elif not run.overrun:
                self._overrun(run, plan.since)
        if not any(run.overrun for run in self.runs):
            self._clear("overrun", plan.since)

    def _deadline_after(self, at: int) -> int:
        if self.plan.period:
            return at + self.plan.period
        place = bisect_left(self.plan.times, at + 1)
        return self.plan.times[place] if place < len(self.plan.times) else FOREVER

    def _pause(self) -> None:
        if self.reasons:
            self._tell("resolved", "paused", self.plan.since)
        self.reasons, self.misses, self.failed_for, self.short = [], [], None, False
        self.failures = self.successes = 0
        for run in self.runs:
            run.overrun = False

    def _forget_misses(self) -> None:
        self.failures = max(self.failures - len(self.misses), 0)
        self.misses = []
