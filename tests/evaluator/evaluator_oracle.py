"""A slow, obvious evaluator: one step a second, plain lists, no arithmetic on deadlines, no runs."""

from __future__ import annotations

from datetime import timedelta

from evaluator_driver import T0, at, seconds

from medic.evaluator import Interval, Policy, Signal
from medic.schedule import AtLeast, Every, occurrences


class Oracle:
    def __init__(self, policy: Policy, signals: list[Signal], blind: list[Interval], end: int) -> None:
        self.policy, self.blind = policy, [(seconds(g.start), seconds(g.end)) for g in blind]
        self.schedule = policy.schedule
        self.grace = policy.grace.total_seconds()
        self.base = 0.0
        self.success: float | None = None
        self.failure: float | None = None
        self.done: float = 0.0  # judged or settled up to here
        self.proofs: list[float] = []
        self.misses: list[tuple[float, float]] = []  # (deadline, the one before) since base
        self.failures = self.successes = 0
        self.failed_for: float | None = None
        self.reasons: set[str] = set()
        self.beaten = self.new_alerted = False
        self.window: list[float] = []
        self.short = False
        self.counted: float | None = None
        self.last = float("-inf")
        self.story: list[tuple[str, str, float]] = []
        self.times: list[float] = []
        if not isinstance(self.schedule, Every | AtLeast):
            margin = timedelta(days=2) if " 0 " in self.schedule.expression else timedelta(hours=1)
            for time in occurrences(self.schedule, T0 - margin):
                self.times.append((time - T0).total_seconds())
                if time > at(end) + margin:
                    break
        for t in range(end + 1):
            self.judge(t)
            for signal in signals:
                if signal.received_at == at(t):
                    self.fold(signal, t)
                    self.judge(t)

    # --- the alert

    def add(self, reason: str, when: float) -> None:
        self.successes = 0
        self.failures += 1
        if self.failures < self.policy.failure_threshold or reason in self.reasons:
            return
        if not self.beaten and reason != "failed":
            if self.new_alerted:
                return
            self.new_alerted = True
        self.tell("reason_joined" if self.reasons else "opened", reason, when)
        self.reasons.add(reason)

    def clear(self, reasons: list[str], when: float) -> None:
        for reason in reasons:
            if reason in self.reasons:
                self.reasons.remove(reason)
                self.tell("reason_cleared" if self.reasons else "resolved", reason, when)

    def tell(self, kind: str, reason: str, when: float) -> None:
        self.last = max(self.last, when)
        self.story.append((kind, reason, self.last))

    # --- time

    @property
    def anchor(self) -> float:
        return self.base if self.success is None else max(self.base, self.success)

    def judge(self, t: int) -> None:
        if isinstance(self.schedule, Every):
            self.judge_every(t, self.schedule.period.total_seconds())
        elif isinstance(self.schedule, AtLeast):
            self.judge_window(t, self.schedule.count, self.schedule.within.total_seconds())
        else:
            self.judge_calendar(t)

    def judge_every(self, t: int, period: float) -> None:
        for start, end in self.blind:
            if start < t and end > self.anchor:
                self.base, self.misses = min(end, t), []
        deadline = self.anchor + period
        while deadline + self.grace <= t:
            if deadline > self.done:
                self.done = deadline
                if not any(proof > max(self.anchor, deadline - period) for proof in self.proofs):
                    self.misses.append((deadline, deadline - period))
                    self.add("missed", deadline + self.grace)
            deadline += period

    def judge_calendar(self, t: int) -> None:
        for time in self.times:
            if time <= self.done or time + self.grace > t:
                continue
            before = max(self.done, self.anchor)
            self.done = time
            if any(start < time + self.grace and end > before for start, end in self.blind):
                self.base, self.misses = max(self.base, time), []
            elif not any(proof > before for proof in self.proofs):
                self.misses.append((time, before))
                self.add("missed", time + self.grace)

    def judge_window(self, t: int, count: int, within: float) -> None:
        for start, end in self.blind:
            if start < t and end > self.base:
                self.base, self.counted = min(end, t), None
                self.short = "too_few" in self.reasons
        if t < self.base + within + self.grace:
            return
        heard = sum(1 for when in self.window if t - within < when <= t)
        if heard < count:
            self.short = True
        if self.short and (self.counted is None or t == self.counted + within):
            self.counted = t
            self.add("too_few", t)

    # --- signals

    def fold(self, signal: Signal, t: int) -> None:
        when = seconds(signal.event_at)
        assert when is not None
        if signal.is_history:
            if signal.is_success:
                self.prove(when, t)
        elif signal.is_success:
            self.succeed(when, t)
        elif signal.is_failure:
            self.fail(when)

    def prove(self, when: float, t: int) -> None:
        if isinstance(self.schedule, AtLeast):
            self.enter_window(when, t)
        elif when > self.anchor:
            self.proofs.append(when)
            kept = [miss for miss in self.misses if miss[1] >= when]
            gone = len(self.misses) - len(kept)
            self.failures, self.misses = self.failures - gone, kept
            if gone and self.failures < self.policy.failure_threshold:
                if "missed" in self.reasons:
                    self.new_alerted = False
                self.clear(["missed"], when)

    def enter_window(self, when: float, t: int) -> None:
        assert isinstance(self.schedule, AtLeast)
        self.window.append(when)
        heard = sum(1 for e in self.window if t - self.schedule.within.total_seconds() < e <= t)
        if self.short and heard >= self.schedule.count:
            self.short, self.counted, self.failures = False, None, 0
            self.clear(["too_few"], when)

    def own_occurrence(self, when: float) -> float | None:
        if isinstance(self.schedule, Every | AtLeast):
            return None
        before = max(time for time in self.times if time <= when)
        after = min(time for time in self.times if time > when)
        own = before if when - before < after - when else after
        if before > self.done or when <= before + self.grace:
            own = before
        self.done = max(self.done, when, own)
        return own

    def succeed(self, when: float, t: int) -> None:
        self.beaten, self.new_alerted = True, False
        self.success = when if self.success is None else max(when, self.success)
        self.own_occurrence(when)
        if isinstance(self.schedule, AtLeast):
            self.enter_window(when, t)
        if self.failure is not None and when < self.failure:
            return
        if not self.short:
            self.failures = 0
        self.misses, self.failed_for = [], None
        if self.reasons & {"missed", "failed"}:
            self.successes += 1
            if self.successes >= self.policy.recovery_threshold:
                self.successes = 0
                self.clear(["missed", "failed"], when)

    def fail(self, when: float) -> None:
        overtaken = self.success is not None and when < self.success
        self.failure = when if self.failure is None else max(when, self.failure)
        if overtaken:
            return
        missed = self.misses[-1][0] if self.misses else None
        own = self.own_occurrence(when)
        if isinstance(self.schedule, Every):
            once = missed is not None and when <= missed + self.grace
        else:
            once = own is not None and own in {missed, self.failed_for}
            self.failed_for = own
        if not isinstance(self.schedule, AtLeast):
            self.base, self.misses = max(self.base, when), []
        if once:
            self.failures = max(self.failures - 1, 0)
        self.add("failed", when)
