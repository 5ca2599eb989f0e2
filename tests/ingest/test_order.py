"""Late, reordered and doubled signals: whatever the order, a service never moves backwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from medic.heartbeats import Signal
from tests.conftest import empty
from tests.monitoring.fleet import Fleet, at

HISTORY_S = 60.0


@dataclass(frozen=True)
class Sent:
    """A signal as its sender made it: the order of arrival and of sending differ by ``late``."""

    kind: str
    late: float
    exit_code: int | None
    run_id: str | None
    client_id: str | None

    @property
    def is_life(self) -> bool:
        return self.kind in {"ok", "complete"} and not self.exit_code and self.late <= HISTORY_S

    @property
    def stirs(self) -> bool:
        """It may change the verdict, whatever the service's state is."""
        is_final = self.kind not in {"start", "log"}
        return self.kind == "start" or (is_final and not self.is_life)


SENT = st.builds(
    Sent,
    kind=st.sampled_from(("ok", "ok", "ok", "complete", "start", "fail", "log")),
    late=st.sampled_from((0.0, 0.0, 0.0, 1.0, 5.0, 20.0, 59.0, 60.0, 61.0, 300.0)),
    exit_code=st.sampled_from((None, None, None, 0, 2)),
    run_id=st.sampled_from((None, None, None, "r")),
    client_id=st.sampled_from((None, None, "x", "y", "z")),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from((1.0, 5.0, 15.0, 30.0, 60.0)),  # seconds that pass first
        st.one_of(st.none(), st.lists(SENT, min_size=1, max_size=5)),  # nothing: a sweep
    ),
    min_size=1,
    max_size=14,
)


@dataclass
class Oracle:
    """One signal after the other, by the rules in words; it knows the hot row only as it stands before each batch."""

    success: datetime | None = None
    signal: datetime | None = None

    def judge(
        self, before: dict[str, Any], batch: list[tuple[Sent, datetime, int]], now: datetime
    ) -> dict[str, Any]:
        """The row after a batch of signals that are no repeats."""
        due, quiet, success, folded = (
            before[name] for name in ("due_at", "quiet", "last_success_at", "folded_id")
        )
        pushes, ahead, pushed = quiet, due, success
        for sent, event_at, _ in batch:
            if sent.stirs or (sent.is_life and not now < due):
                pushes = False
            elif sent.is_life:
                ahead, pushed = max(ahead, event_at + timedelta(seconds=60)), max(pushed, event_at)
            self.signal = event_at if self.signal is None else max(self.signal, event_at)
            if sent.is_life:
                self.success = event_at if self.success is None else max(self.success, event_at)
        if pushes and batch:
            due, success, folded = ahead, pushed, batch[-1][2]
        elif batch and (
            quiet or any(s.stirs or (s.is_life and before["status"] != "up") for s, _, _ in batch)
        ):
            due = min(due, now)
        return {"due_at": due, "quiet": pushes, "last_success_at": success, "folded_id": folded}


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=STEPS)
def test_signals_in_any_order_move_a_service_as_one_by_one_and_never_backwards(
    engine: Engine, steps: list[tuple[float, list[Sent] | None]]
) -> None:
    """Batched on ``all``, with its ids sent again and again, and alone on ``one``, without any repeat."""
    empty(engine)
    fleet, oracle, now = Fleet(engine), Oracle(), 0.0
    for name in ("all", "one"):
        fleet.service(name, grace_s=10, recovery_threshold=2, max_runtime_s=50)
        fleet.beat(name, when=0)
        fleet.sweep(0)
    oracle.success = oracle.signal = at(0)
    seen: set[str] = set()
    for passes, batch in [*steps, (100.0, None)]:  # at last all are due
        now += passes
        before = fleet.state("all")
        if batch is None:
            assert fleet.sweep(now).set_aside == 0
            rows = [visible(fleet, name) for name in ("all", "one")]
            assert rows[0] == rows[1]
            assert rows[0]["last_signal_at"] == oracle.signal
            if before["quiet"] or before["due_at"] <= at(now):
                assert rows[0]["last_success_at"] == oracle.success
        else:
            written = fleet.write([signal(fleet, "all", sent) for sent in batch], when=now)
            fresh = []
            for sent, done in zip(batch, written, strict=True):
                assert done.is_repeat == (sent.client_id in seen)
                if not done.is_repeat:
                    assert done.id is not None
                    fresh.append((sent, at(now - sent.late), done.id))
                    fleet.write([signal(fleet, "one", sent)], when=now)
                if sent.client_id is not None:
                    seen.add(sent.client_id)
            after = fleet.state("all")
            expected = oracle.judge(before, fresh, at(now))
            assert {name: after[name] for name in expected} == expected
            # To be looked at sooner is no step back; earlier than now would be.
            assert after["due_at"] >= min(before["due_at"], at(now))
            assert fresh or after == before, "a repeat changed something"
        after = fleet.state("all")
        for column in ("last_success_at", "last_signal_at", "folded_id"):
            assert after[column] >= before[column], f"{column} moved backwards"
    stories = [fleet.story(name) for name in ("all", "one")]
    assert stories[0] == stories[1]


def signal(fleet: Fleet, name: str, sent: Sent) -> Signal:
    return fleet.signal(
        name,
        sent.kind,
        late=sent.late,
        exit_code=sent.exit_code,
        run_id=sent.run_id,
        client_id=sent.client_id,
    )


def visible(fleet: Fleet, name: str) -> dict[str, Any]:
    """What a swept row says; ids differ between services, and so does what is carried of them."""
    return {k: v for k, v in fleet.state(name).items() if k not in {"service_id", "folded_id", "carried"}}
