"""Whatever PostgreSQL says to a group: each caller hears what concerns it, and nothing is stored twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from medic import heartbeats
from medic.db import in_transaction, is_away, make_engine
from medic.errors import Invalid, MedicError, Unavailable
from medic.group_commit import GroupCommit
from medic.heartbeats import Signal, Written
from tests.ingest.relay import relaying
from tests.monitoring.fleet import Fleet
from tests.waiting import eventually

Faults = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def group(engine: Engine) -> Iterator[GroupCommit]:
    made = GroupCommit(engine)
    yield made
    made.close()


@pytest.fixture
def faults(engine: Engine) -> Faults:
    """PostgreSQL refuses so many inserts of heartbeats with an error of this SQLSTATE."""

    @contextmanager
    def raising(sqlstate: str, times: int) -> Iterator[None]:
        with engine.begin() as connection:
            connection.execute(text("CREATE SEQUENCE test_faults"))  # counts what is rolled back, too
            connection.execute(
                text(
                    "CREATE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    f" IF nextval('test_faults') <= {times} THEN RAISE EXCEPTION 'test' USING ERRCODE = '{sqlstate}';"
                    " END IF; RETURN NULL; END $$"
                )
            )
            connection.execute(
                text("CREATE TRIGGER test_fault BEFORE INSERT ON heartbeats EXECUTE FUNCTION test_fault()")
            )
        try:
            yield
        finally:
            with engine.begin() as connection:
                connection.execute(text("DROP FUNCTION test_fault CASCADE"))
                connection.execute(text("DROP SEQUENCE test_faults"))

    return raising


_WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def together(fleet: Fleet, group: GroupCommit, signals: list[Signal]) -> list[Written | MedicError]:
    """Each of its own caller, all in one group; what each is told."""
    with ThreadPoolExecutor(len(signals) + 1) as pool:
        with fleet.engine.connect() as blocker:
            # Another group waits for this lock; whoever comes meanwhile gathers behind it.
            blocker.execute(text("SELECT 1 FROM service_states FOR UPDATE"))
            first = pool.submit(group.write, [fleet.signal("web", "log")])
            eventually(lambda: fleet.rows(_WAITING))
            others: list[Future[list[Written]]] = []
            for number, signal in enumerate(signals, start=1):
                others.append(pool.submit(group.write, [signal]))
                eventually(lambda number=number: group.depth == number)
        first.result()
        return [told(future) for future in others]


def told(future: Future[list[Written]]) -> Written | MedicError:
    try:
        return future.result()[0]
    except MedicError as error:
        return error


def stored(fleet: Fleet) -> int:
    count: int = fleet.rows("SELECT count(*) AS n FROM heartbeats WHERE kind <> 'log'")[0]["n"]
    return count


@pytest.mark.parametrize(
    "bad",
    [
        {"message": "a\0b"}, {"run_id": "a\0b"}, {"client_id": "\0"}, {"metrics": {"a\0": 1.0}}, {"message": "\ud800"},
        {"metrics": {"x": float("nan")}}, {"metrics": {"x": float("inf")}}, {"age_s": float("nan")},
        {"age_s": 1e300}, {"duration_ms": 2**64}, {"duration_ms": -1}, {"exit_code": 70_000},
        {"client_id": "x" * 201}, {"client_id": ""}, {"kind": "great"},
    ],
    ids=lambda bad: ascii(bad)[:40],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["ok", "start"])
def test_a_value_that_cannot_be_stored_is_told_to_its_sender_alone(
    fleet: Fleet, group: GroupCommit, bad: dict[str, Any], kind: str
) -> None:
    fleet.service()
    good = [fleet.signal("web", kind, client_id=f"id{number}") for number in range(6)]
    answers = together(
        fleet, group, [*good[:4], Signal(fleet.watched["web"], **{"kind": kind, **bad}), *good[4:]]
    )
    refused = [answer for answer in answers if isinstance(answer, MedicError)]
    assert [type(error) for error in refused] == [Invalid]
    assert isinstance(answers[4], Invalid)
    assert stored(fleet) == 6
    assert fleet.rows("SELECT count(*) AS n FROM heartbeat_ids") == [{"n": 6}]


@pytest.mark.parametrize("kind", ["ok", "start"])
@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
def test_a_deadlock_or_serialization_failure_is_tried_once_more(
    fleet: Fleet, group: GroupCommit, faults: Faults, sqlstate: str, kind: str
) -> None:
    fleet.service()
    signal = fleet.signal("web", kind, client_id="x")
    with faults(sqlstate, 1):
        assert not group.write([signal])[0].is_repeat
    assert stored(fleet) == 1
    with faults(sqlstate, 2), pytest.raises(Unavailable):
        group.write([fleet.signal("web", kind, client_id="y")])
    assert stored(fleet) == 1
    assert group.write([fleet.signal("web", kind, client_id="y")])[0].is_repeat is False


@pytest.mark.parametrize("kind", ["ok", "start"])
@pytest.mark.parametrize("sqlstate", ["08006", "53100", "53300", "57P01", "57014", "55P03", "58030", "XX000"])
def test_what_is_not_the_senders_fault_is_503_for_the_whole_group(
    fleet: Fleet, group: GroupCommit, faults: Faults, sqlstate: str, kind: str
) -> None:
    fleet.service()
    # The first caller of `together` is no part of the group.
    group.write([fleet.signal("web", "log")])
    signals = [fleet.signal("web", kind, client_id=f"id{number}") for number in range(4)]
    with faults(sqlstate, 1):
        with pytest.raises(Unavailable) as refused:
            group.write(signals)
        assert refused.value.retry_after > 0
        assert stored(fleet) == 0
        # Sent again with the same ids, all are stored: nothing of the first time is left.
        assert [one.is_repeat for one in group.write(signals)] == [False] * 4
    assert stored(fleet) == 4


@pytest.mark.parametrize(("kind", "words"), [("ok", b"id0"), ("start", b"COMMIT")])
def test_a_commit_whose_answer_was_lost_is_503_and_its_repeat_counts_once(
    fleet: Fleet, kind: str, words: bytes
) -> None:
    fleet.service()
    with relaying(fleet.engine.url.render_as_string(hide_password=False)) as relay:
        engine = make_engine(relay.url)
        group = GroupCommit(engine)
        try:
            group.write([fleet.signal("web", "log")])
            signals = [fleet.signal("web", kind, client_id=f"id{number}") for number in range(3)]
            relay.lose_the_answer_to(words)
            with pytest.raises(Unavailable):
                group.write(signals)
            assert relay.lost.is_set()
            eventually(lambda: stored(fleet) == 3)  # it was committed, and nobody heard
            first = fleet.rows("SELECT id FROM heartbeats WHERE kind <> 'log' ORDER BY id")
            again = group.write(signals)
            assert [(one.id, one.is_repeat) for one in again] == [(row["id"], True) for row in first]
            assert stored(fleet) == 3
        finally:
            group.close()
            engine.dispose()


def test_a_statement_whose_answer_was_lost_before_the_commit_is_done_over(fleet: Fleet) -> None:
    fleet.service()
    with relaying(fleet.engine.url.render_as_string(hide_password=False)) as relay:
        engine = make_engine(relay.url)
        try:
            relay.lose_the_answer_to(b"run-of-this-test")
            signals = [fleet.signal("web", "start", run_id="run-of-this-test")]
            (written,) = in_transaction(engine, lambda session: heartbeats.write(session, signals))
            assert relay.lost.is_set()
            assert fleet.rows("SELECT id FROM heartbeats") == [{"id": written.id}]
        finally:
            engine.dispose()


def test_a_server_that_dies_without_a_word_is_away(engine: Engine) -> None:
    with relaying(engine.url.render_as_string(hide_password=False)) as relay:
        own = make_engine(relay.url)
        relay.lose_the_answer_to(b"nobody hears this")
        try:
            with pytest.raises(DBAPIError) as broken, own.connect() as connection:
                connection.execute(text("SELECT 'nobody hears this'"))
        finally:
            own.dispose()
    assert is_away(broken.value)


def test_closing_commits_what_waits(fleet: Fleet) -> None:
    fleet.service()
    group = GroupCommit(fleet.engine)
    with ThreadPoolExecutor(22) as pool:
        with fleet.engine.connect() as blocker:
            blocker.execute(text("SELECT 1 FROM service_states FOR UPDATE"))
            waiting = [pool.submit(group.write, [fleet.signal("web")])]
            eventually(lambda: fleet.rows(_WAITING))  # alone in the first group
            waiting += [pool.submit(group.write, [fleet.signal("web")]) for _ in range(19)]
            eventually(lambda: group.depth == 19)
            entered = threading.Event()
            closing = pool.submit(lambda: (entered.set(), group.close()))
            assert entered.wait(20)
            assert not closing.done()
        assert all(future.result()[0].id for future in waiting)
        closing.result()
    assert stored(fleet) == 20
    with pytest.raises(Unavailable):
        group.write([fleet.signal("web")])


_FORK = """
import os, sys
from sqlalchemy import text
from medic.db import in_transaction, make_engine
from medic.group_commit import GroupCommit
from medic.heartbeats import Signal, watched

engine = make_engine(sys.argv[1])
web = in_transaction(engine, lambda session: watched(session, ["web"]))["web"]
group = GroupCommit(engine)

def send(who, count):
    for number in range(count):
        assert group.write([Signal(web, "ok", message=f"{who}{number}")])[0].id
        assert group.write([Signal(web, "start", run_id=f"{who}{number}")])[0].id

send("before", 1)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        send(f"child{child}-", 20)
        group.close()
        engine.dispose()
        os._exit(0)
    children.append(pid)
    send(f"parent{child}-", 20)
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
send("after", 1)
group.close()
"""


def test_a_fork_shares_neither_connection_nor_queue(fleet: Fleet) -> None:
    fleet.service()
    done = subprocess.run(
        [sys.executable, "-c", _FORK, fleet.engine.url.render_as_string(hide_password=False)],
        env=os.environ | {"PYTHONWARNINGS": "ignore"}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    said = fleet.rows("SELECT message, run_id FROM heartbeats")
    assert (
        len(said) == len({(row["message"], row["run_id"]) for row in said}) == 2 * (1 + 3 * 20 + 3 * 20 + 1)
    )
