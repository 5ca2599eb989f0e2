"""What a service does in its simulated time, and what is expected of it: drawn from a seed.

A history is lived first: jobs that run when they should, die, fail, overrun, go offline, speak twice.  Then it is
carried: late, in another order, again under the same id, or not at all while nobody hears.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

from tests.year.clock import DAY, FREQUENT, HOUR, MINUTE, SECOND, WALLS, ZONES, moment, times_of
from tests.year.oracle import HISTORY, Beat, Plan

KINDS = ("every", "cron", "on_calendar", "at_least")


@dataclass(frozen=True)
class Span:
    """The simulated time.  `grain`: heartbeats arrive at whole ones; `tick`: so do sweeps and changes.

    :param deaf: ingest and sweep are both down; what is sent then is lost, or kept by the client.
    :param unswept: only the sweep is down.
    """

    start: int
    end: int
    tick: int
    grain: int
    deaf: tuple[int, int]
    unswept: tuple[int, int]

    @property
    def busy(self) -> tuple[int, int]:
        """Services that speak every few minutes live for these days only: a year of one is 100,000 heartbeats."""
        return self.deaf[0] - 8 * HOUR, self.deaf[1] + 8 * HOUR

    def is_quiet(self, at: int) -> bool:
        """Nobody changes a policy at or about an outage: Medic is not there, or judges what was before by it."""
        return all(not start - HOUR <= at <= end + HOUR for start, end in (self.deaf, self.unswept))


@dataclass
class Step:
    """A policy as `medic.services` takes it, and as the oracle knows it."""

    at: int
    fields: dict[str, Any]
    plan: Plan


@dataclass
class History:
    name: str
    steps: list[Step]
    beats: list[Beat] = field(default_factory=list)
    refused: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Incident:
    start: int
    end: int
    kind: str


def draw(number: int, seed: int, span: Span) -> History:
    """The history of one service."""
    return _Draw(Random(f"{seed}/{number}"), f"svc-{number:04}", span).history()


class _Draw:
    def __init__(self, random: Random, name: str, span: Span) -> None:
        self.random, self.name, self.span = random, name, span
        self.has_runs = random.random() < 0.25
        self.has_ids = random.random() < 0.3
        self.spools = random.random() < 0.3
        self.kind = random.choices(KINDS, (35, 30, 15, 20))[0]
        self.is_busy = random.random() < 0.03
        self.grain = MINUTE if self.is_busy else span.grain
        self.number = 0
        self.sent: list[tuple[int, Beat]] = []

    def history(self) -> History:
        steps = self._steps()
        found = History(self.name, steps)
        if self.random.random() < 0.05:
            start = self._whole(self.random.randint(steps[0].at, self.span.end))
            if self.span.is_quiet(start):
                found.refused = (start, start + self.random.choice((1, 10, 60, 360)) * MINUTE)
        self._live(steps)
        found.beats = self._carried(steps[0].at, found.refused)
        return found

    # --- what is expected

    def _whole(self, at: int) -> int:
        return -(-at // self.span.tick) * self.span.tick

    def _steps(self) -> list[Step]:
        random, span = self.random, self.span
        made = span.start if random.random() < 0.8 else random.randint(span.start, span.end - DAY)
        if self.is_busy:
            first = self._step(self._whole(span.busy[0]))
            return [first, self._again(first, self._whole(span.busy[1]), paused=True)]
        moments = {self._whole(made)}
        if random.random() < 0.5:
            moments |= {self._whole(random.randint(made, span.end)) for _ in range(random.randint(1, 3))}
        steps: list[Step] = []
        for at in sorted(moments):
            if steps and not span.is_quiet(at):
                continue
            if steps and random.random() < 0.5:
                steps.append(self._again(steps[-1], at, paused=not steps[-1].plan.paused))
            else:
                # Few change the kind of their schedule.
                self.kind = random.choice(KINDS) if random.random() < 0.2 else self.kind
                steps.append(self._step(at))
        last = steps[-1]
        over = self._whole(last.at + random.randint(HOUR, 5 * DAY))
        if last.plan.paused and over < span.end and span.is_quiet(over):
            steps.append(self._again(last, over, paused=False))
        return steps

    def _again(self, step: Step, at: int, *, paused: bool) -> Step:
        plan = Plan(**{**step.plan.__dict__, "since": at, "paused": paused})
        return Step(at, step.fields, plan)

    def _step(self, at: int) -> Step:
        random = self.random
        policy: dict[str, Any] = {
            "failure_threshold": random.choices((1, 2, 3), (7, 2, 1))[0],
            "recovery_threshold": random.choices((1, 2, 3), (7, 2, 1))[0],
        }
        rules = dict(policy)
        if self.kind == "every":
            minutes = 5 if self.is_busy else random.choices((60, 240, 720, 1440), (1, 4, 7, 7))[0]
            policy["every_s"], rules["period"] = minutes * 60, minutes * MINUTE
            policy["grace_s"] = random.choice((0, 60, minutes * 15, minutes * 30))
        elif self.kind == "at_least":
            hours, count = random.choice((24, 48, 72, 168)), random.randint(1, 6)
            if self.is_busy:
                hours, count = 1, 3
            policy |= {"at_least": count, "within_s": hours * 3600}
            rules |= {"count": count, "within": hours * HOUR}
            policy["grace_s"] = random.choice((0, 900, 3600))
        else:
            pool = FREQUENT if self.is_busy else WALLS
            wall = random.choice([one for one in pool if one.kind == self.kind])
            zone = random.choice(ZONES)
            days = timedelta(days=1600)
            first, last = moment(self.span.start), moment(self.span.end)
            if self.is_busy or wall.elapses:
                days = timedelta(days=3)
            policy |= {self.kind: wall.expression, "timezone": zone}
            rules["times"] = times_of(wall, zone, (first - days).date(), (last + days).date())
            policy["grace_s"] = random.choice((240, 600) if self.is_busy else (900, 3600, 7200))
        if self.has_runs:
            policy["max_runtime_s"] = random.choice((3300, 7000, 14300))
            rules["max_runtime"] = policy["max_runtime_s"] * SECOND
        return Step(at, policy, Plan(since=at, grace=policy["grace_s"] * SECOND, **rules))

    # --- what happens

    def _live(self, steps: list[Step]) -> None:
        ends = [*(step.at for step in steps[1:]), self.span.end]
        for step, end in zip(steps, ends, strict=True):
            incidents = self._incidents(step, end)
            for at in self._jobs(step.plan, step.at, end):
                incident = next((one for one in incidents if one.start <= at < one.end), None)
                self._job(step.plan, at, incident)

    def _length(self, plan: Plan) -> int:
        if plan.period:
            return plan.period
        if plan.count:
            return plan.within // plan.count
        place = bisect_right(plan.times, plan.since)
        return plan.times[place] - plan.times[place - 1] if 0 < place < len(plan.times) else DAY

    def _incidents(self, step: Step, end: int) -> list[_Incident]:
        """Some seven in a year, few of them long."""
        random, found = self.random, []
        length = self._length(step.plan)
        at = step.at + int(random.expovariate(1 / (50 * DAY)) if random.random() < 0.9 else 0)
        while at < end:
            lasts = int(length * random.choice((0.4, 1.0, 1.5, 2.5, 5.0)))
            lasts = min(max(lasts, 5 * MINUTE), 20 * DAY)
            kind = random.choices(("dead", "failing", "offline", "overrunning"), (5, 3, 3, 2))[0]
            found.append(_Incident(at, at + lasts, kind))
            at += lasts + int(random.expovariate(1 / (50 * DAY)))
        return found

    def _jobs(self, plan: Plan, start: int, end: int) -> Iterator[int]:
        """When a job that is well runs."""
        random = self.random
        # In time by the grain of arrivals and the ages of two signals.
        slack = self.grain + 2 * MINUTE
        if plan.times:
            for time in plan.times[bisect_right(plan.times, start) : bisect_right(plan.times, end)]:
                early = random.random() < 0.01
                yield (
                    time - 30 * MINUTE if early else time + random.randint(0, max(plan.grace - slack, SECOND))
                )
            return
        step = self._length(plan)
        at = start + random.randint(0, step)
        while at < end:
            yield at
            at += max(int(step * random.uniform(0.5, 1)) - slack, step // 4)

    def _job(self, plan: Plan, at: int, incident: _Incident | None) -> None:
        random = self.random
        at -= at % SECOND
        trouble = incident.kind if incident else None
        if trouble == "dead":
            if random.random() < 0.05:
                self._send(at, "log")
            return
        held_until = incident.end if incident and trouble == "offline" else None
        kind, exit_code = "ok", None
        if trouble == "failing" or random.random() < 0.002:
            kind, exit_code = random.choice((("fail", None), ("fail", 3), ("ok", 1), ("complete", 2)))
        if self.has_runs:
            self._run(plan, at, kind, exit_code, trouble, held_until)
            return
        odd = random.random()
        if odd < 0.004:
            return  # It was lost on its way.
        if odd < 0.008:
            at += int(plan.grace * random.uniform(0.5, 2)) + 1
        self._send(at, kind, exit_code=exit_code, held_until=held_until)
        if odd > 0.995:
            self._send(at + random.randint(1, 120) * SECOND, "ok", held_until=held_until)
        elif odd > 0.99:
            # Two that overtake each other within a minute.
            self._send(at - random.randint(1, 40) * SECOND, random.choice(("fail", "ok")), carried_by=at)

    def _run(
        self,
        plan: Plan,
        at: int,
        kind: str,
        exit_code: int | None,
        trouble: str | None,
        held_until: int | None,
    ) -> None:
        random, limit = self.random, plan.max_runtime or HOUR
        lasts = int(limit * random.uniform(0.02, 0.6))
        if trouble == "overrunning" or random.random() < 0.003:
            lasts = int(limit * random.uniform(0.9, 4))
        lasts -= lasts % SECOND
        self.number += 1
        run_id = f"run-{self.number}" if random.random() < 0.6 else None
        end = kind if kind != "ok" else "complete"
        odd = random.random()
        if odd < 0.01:
            # The end overtakes the start.
            self._send(at, "start", run_id=run_id, held_until=at + 45 * SECOND)
            self._send(at + 5 * SECOND, end, run_id=run_id, exit_code=exit_code)
            return
        if odd > 0.01:
            self._send(at, "start", run_id=run_id, held_until=held_until)
        if odd < 0.99:
            self._send(at + lasts, end, run_id=run_id, exit_code=exit_code, held_until=held_until)

    def _send(
        self, at: int, kind: str, *, run_id: str | None = None, exit_code: int | None = None,
        held_until: int | None = None, carried_by: int | None = None,
    ) -> None:  # fmt: skip
        """It happens at this moment, or as much later as puts its arrival on the grain with a small age."""
        random, grain = self.random, self.grain
        age = 0 if random.random() < 0.85 else random.randint(0, 59) * SECOND
        arrival = -(-((carried_by or at) + age) // grain) * grain
        if carried_by is not None:
            age = min(age + carried_by - at, HISTORY)
        if held_until is not None:
            arrival = max(arrival, -(-held_until // grain) * grain)
            age = max(arrival - at, 0)
        client_id = None
        if self.has_ids:
            self.number += 1
            client_id = f"{self.name}-{self.number}"
        beat = Beat(arrival, kind, age, run_id, exit_code, client_id)
        self.sent.append((len(self.sent), beat))
        if client_id is not None and random.random() < 0.02:
            # The client did not see the answer.
            pause = random.choice((5 * SECOND, 10 * MINUTE, 3 * HOUR))
            again = -(-(arrival + pause) // grain) * grain
            self.sent.append((len(self.sent), beat._replace(arrival=again, age=again - beat.event)))

    def _carried(self, made_at: int, refused: tuple[int, int] | None) -> list[Beat]:
        """What arrives, in order."""
        random, grain = self.random, self.grain
        arrived = []
        for number, beat in self.sent:
            if refused is not None and refused[0] <= beat.arrival <= refused[1]:
                continue
            if self.span.deaf[0] <= beat.arrival <= self.span.deaf[1]:
                if not self.spools:
                    continue
                back = -(-(self.span.deaf[1] + random.randint(1, 20) * MINUTE) // grain) * grain
                beat = beat._replace(arrival=back, age=back - beat.event)  # noqa: PLW2901
            if made_at < beat.arrival < self.span.end:
                arrived.append((beat.arrival, number, beat))
        return [beat for _, _, beat in sorted(arrived, key=lambda one: one[:2])]
