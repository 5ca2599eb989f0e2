"""Random histories: the evaluator against the oracle, and against itself in pieces."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from evaluator_driver import Watch, at, policy, seconds, span
from evaluator_oracle import Oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.evaluator import Interval, Kind, Policy, Signal, State, Status, evaluate, first_state
from medic.schedule import AtLeast, Cron, Every, OnCalendar

END = 900
whole = st.integers


@st.composite
def schedules(draw: st.DrawFn) -> Every | Cron | OnCalendar | AtLeast:
    kind = draw(st.sampled_from(["every", "cron", "calendar", "at_least"]))
    if kind == "every":
        return Every(span(draw(whole(1, 300))))
    if kind == "cron":
        expression = draw(st.sampled_from(["* * * * *", "*/3 * * * *", "2-59/5 * * * *", "0,1,7,20 0 * * *"]))
        return Cron(expression, "Europe/Berlin" if expression[0] in "*2" else "UTC")
    if kind == "calendar":
        return OnCalendar(draw(st.sampled_from(["*:*:00/20", "*:0/4:30"])), "UTC")
    return AtLeast(draw(whole(1, 4)), span(draw(whole(20, 400))))


@st.composite
def signals(draw: st.DrawFn) -> list[Signal]:
    heard = []
    rows = draw(
        st.lists(
            st.tuples(whole(0, END), st.sampled_from("kkkkkkcfxsl"), whole(0, 5), whole(0, 400)), max_size=25
        )
    )
    for number, (arrival, kind, lateness, age) in enumerate(sorted(rows), start=1):
        late = {0: min(age, 60), 1: age}.get(lateness, 0)
        event_at = at(max(arrival - late, 0))
        names = {
            "k": Kind.OK,
            "c": Kind.COMPLETE,
            "f": Kind.FAIL,
            "x": Kind.OK,
            "s": Kind.START,
            "l": Kind.LOG,
        }
        run_id = draw(st.sampled_from([None, "a", "b"])) if kind in "cfs" else None
        heard.append(
            Signal(number, names[kind], event_at, at(arrival), run_id, 3 if kind == "x" else None,
                   at(arrival) - event_at > span(60))
        )  # fmt: skip
    return heard


@st.composite
def blinds(draw: st.DrawFn) -> list[Interval]:
    edges = draw(st.lists(st.tuples(whole(0, END), whole(1, 200)), max_size=3))
    return [Interval(at(start), at(start + length)) for start, length in edges]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return policy(
        draw(schedules()), draw(st.sampled_from([0, 1, 5, 30, 90, 200])),
        failure_threshold=draw(whole(1, 3)), recovery_threshold=draw(whole(1, 2)),
    )  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(policies(), signals(), blinds())
def test_the_evaluator_agrees_with_a_step_a_second(
    watched: Policy, heard: list[Signal], blind: list[Interval]
) -> None:
    watch = Watch(watched, blind=blind, heard=heard).tick(END)
    oracle = Oracle(watched, heard, blind, END)
    assert watch.story == oracle.story
    assert watch.state.failures == oracle.failures


@settings(max_examples=80, deadline=None)
@given(
    policies(), st.none() | whole(1, 300), signals(), blinds(),
    st.lists(whole(1, END), max_size=12), st.randoms(use_true_random=False),
)  # fmt: skip
def test_calls_in_any_pieces_give_the_same_transitions(
    watched: Policy,
    runtime: int | None,
    heard: list[Signal],
    blind: list[Interval],
    cuts: list[int],
    random: object,
) -> None:
    watched = replace(watched, max_runtime=None if runtime is None else span(runtime))
    shuffled = [*heard, *heard]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    once = Watch(watched, blind=blind, heard=shuffled).tick(END)
    pieces = Watch(watched, blind=blind, heard=heard)
    for cut in sorted(cuts):
        pieces.tick(cut)
    pieces.tick(END)
    assert pieces.transitions == once.transitions
    assert pieces.run_story == once.run_story
    assert pieces.state == once.state
    assert pieces.verdict is not None
    assert once.verdict is not None
    assert (pieces.verdict.due_at, pieces.verdict.quiet) == (once.verdict.due_at, once.verdict.quiet)


@settings(max_examples=80, deadline=None)
@given(policies(), st.none() | whole(1, 300), signals(), blinds(), whole(1, END))
def test_nothing_changes_before_due_at(
    watched: Policy, runtime: int | None, heard: list[Signal], blind: list[Interval], now: int
) -> None:
    watched = replace(watched, max_runtime=None if runtime is None else span(runtime))
    watch = Watch(watched, blind=blind, heard=[s for s in heard if s.received_at <= at(now)]).tick(now)
    assert watch.verdict is not None
    due_at = watch.verdict.due_at
    assert due_at is not None
    assert due_at > at(now)
    status, failures, known = watch.state.status, watch.state.failures, len(watch.transitions)
    watch.blind = [Interval(g.start, min(g.end, at(now))) for g in blind if g.start < at(now)]
    watch.tick((seconds(due_at) or 0) - 0.001)
    assert (watch.state.status, watch.state.failures, len(watch.transitions)) == (status, failures, known)


@settings(max_examples=80, deadline=None)
@given(
    whole(1, 60),
    whole(0, 30),
    st.lists(st.tuples(whole(0, 60), whole(0, 5)), max_size=20),
    whole(0, 400),
    blinds(),
)
def test_ingest_alone_may_push_a_quiet_service_ahead(
    period: int, grace: int, beats: list[tuple[int, int]], wait: int, blind: list[Interval]
) -> None:
    watched = policy(period, grace)
    watch = Watch(watched).hear("ok", 0).tick(0)
    assert watch.verdict is not None
    assert watch.verdict.quiet
    start, clock, pushed = watch.state, 0, watch.state.last_success_at
    due_at = watch.verdict.due_at
    assert due_at == at(period)
    for pause, late in beats:
        clock += pause
        if at(clock) >= due_at:
            break
        watch.hear("ok", max(clock - late, 0), late=min(late, clock))
        assert pushed is not None
        pushed = max(pushed, watch.heard[-1].event_at)
        due_at = max(due_at, pushed + watched.schedule.period)  # type: ignore[union-attr]
    now = at(clock + wait)
    folded = evaluate(watched, start, watch.heard, [], blind, now)
    pushed_state = replace(start, last_success_at=pushed)
    alone = evaluate(watched, pushed_state, [], [], blind, now)
    again = evaluate(watched, pushed_state, watch.heard, [], blind, now)
    same = replace(folded.state, folded_id=0)
    assert replace(alone.state, folded_id=0) == same
    assert replace(again.state, folded_id=0) == same
    assert alone.transitions == folded.transitions == again.transitions
    assert (alone.due_at, alone.quiet) == (folded.due_at, folded.quiet)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["0 * * * *", "30 2 * * *", "*/20 * * * *", "30 1-4 * * *"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.sampled_from([(2026, 3, 8), (2026, 3, 29), (2026, 4, 5), (2026, 10, 4), (2026, 10, 25), (2026, 11, 1)]),
    st.sets(whole(0, 60 * 48), max_size=40),
    st.lists(whole(1, 60 * 48), max_size=8),
)  # fmt: skip
def test_no_change_of_the_clocks_adds_or_hides_a_miss(
    expression: str, zone: str, day: tuple[int, int, int], silent: set[int], cuts: list[int]
) -> None:
    start = datetime(*day, tzinfo=UTC) - timedelta(hours=12)
    schedule = Cron(expression, zone)
    watched = replace(policy(schedule, 300, failure_threshold=1), started_at=start)
    # The job runs whenever cron starts it, but for the minutes in `silent`.
    times = _times(schedule, start, start + timedelta(hours=48))
    heard = [
        Signal(number, Kind.OK, time + span(20), time + span(20))
        for number, time in enumerate(times, start=1)
        if int((time - start).total_seconds() // 60) not in silent and number % 5
    ]
    state: State = first_state(watched)
    opened = []
    for minute in [*sorted(cuts), 60 * 48]:
        now = start + timedelta(minutes=minute)
        verdict = evaluate(watched, state, [s for s in heard if s.received_at <= now], [], [], now)
        state = verdict.state
        opened += [t.at for t in verdict.transitions if t.kind.value == "opened"]
    beaten = {s.event_at - span(20) for s in heard}
    due = [time for time in times if time + span(300) <= start + timedelta(hours=48)]
    expected = [
        time + span(300)
        for index, time in enumerate(due)
        if time not in beaten and (index == 0 or due[index - 1] in beaten)
    ]
    if not heard:
        expected = expected[:1]
    assert opened == expected
    assert state.status in {Status.UP, Status.DOWN, Status.NEW, Status.LATE}


def _times(schedule: Cron, start: datetime, end: datetime) -> list[datetime]:
    from medic.schedule import occurrence_after

    times, time = [], occurrence_after(schedule, start)
    while time <= end:
        times.append(time)
        time = occurrence_after(schedule, time)
    return times
