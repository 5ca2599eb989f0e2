"""`medic run` while Medic is away, slow, or says no: the job does not notice, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medic.client.address import Address
from medic.client.courier import Courier, Fate
from medic.client.heartbeat import Heartbeat
from medic.client.notices import Notice
from medic.client.spool import Spool
from medic.times import parse_time
from tests.client.conftest import BATCH_PATH, PATH, Bench, RawServer, answered, refusing
from tests.recorder import Received
from tests.waiting import eventually


def left(
    bench: Bench, service: str, *, url: str | None = None, ago: timedelta = timedelta(hours=2)
) -> Heartbeat:
    """A signal that an earlier run left in the spool."""
    heartbeat = Heartbeat(service, "complete", datetime.now(UTC) - ago, run_id="r", exit_code=0)
    Spool(bench.spool).put(heartbeat, url or bench.recorder.url)
    return heartbeat


def statuses(bench: Bench) -> list[str]:
    return [json.loads(path.read_text())["heartbeat"]["status"] for path in bench.waiting()]


def test_signals_wait_on_disk_and_the_next_run_of_anything_sends_them(bench: Bench, away: str) -> None:
    began = datetime.now(UTC)
    done = bench.run("--service", "a", "--url", away, "--patience", "1s", "sh", "-c", "echo kept; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"kept\n", b"")
    assert statuses(bench) == ["start", "fail"]
    assert bench.spool.stat().st_mode & 0o777 == 0o700
    assert bench.waiting()[0].stat().st_mode & 0o777 == 0o600
    ended = datetime.now(UTC)
    for path in bench.waiting():  # the same server, at another port
        path.write_text(path.read_text().replace(away, bench.recorder.url))
    assert bench.run("--service", "b", "true").returncode == 0
    assert not bench.waiting()
    start, fail = (body for body in bench.signals() if body["service"] == "a")
    assert (start["status"], fail["status"], fail["message"]) == ("start", "fail", "kept\n")
    assert began <= parse_time(start["occurred_at"]) <= parse_time(fail["occurred_at"]) <= ended
    assert parse_time(start["sent_at"]) >= ended


def test_the_job_starts_at_once_before_a_server_that_hangs(bench: Bench) -> None:
    hold = threading.Event()
    bench.recorder.answer = lambda _: (hold.wait(60), (202, b"{}"))[1]
    try:
        began = time.time()
        done = bench.run("--service", "s", "--patience", "2s", "date", "+%s.%N")
        assert float(done.stdout) - began < 2.5  # less than one try takes
        assert time.time() - began < 10.0
        assert statuses(bench) == ["start", "complete"]
    finally:
        hold.set()


def test_an_answer_that_drips_is_bounded_too(bench: Bench) -> None:
    with RawServer(answered(202, b" " * 400), drip=True) as server:
        began = time.monotonic()
        assert bench.run("--service", "s", "--url", server.url, "--patience", "1s", "true").returncode == 0
        assert time.monotonic() - began < 6.0
    assert "complete" in statuses(bench)


def test_a_slow_answer_to_the_start_delays_neither_the_job_nor_its_end(bench: Bench) -> None:
    release = threading.Event()

    def answer(received: object) -> tuple[int, bytes]:
        if b'"start"' in received.body:  # type: ignore[attr-defined]
            release.wait(30)
        return 202, b"{}"

    bench.recorder.answer = answer
    try:
        job = bench.start("--service", "s", "true")
        eventually(lambda: bench.signals("complete"))
        assert job.wait(timeout=20) == 0
    finally:
        release.set()


def test_a_500_is_tried_again_and_then_kept(bench: Bench) -> None:
    bench.recorder.answer = lambda _: (500, b'{"detail": "oops"}')
    assert bench.run("--service", "s", "--patience", "3s", "true").returncode == 0
    assert len(bench.signals("complete")) >= 2
    assert statuses(bench) == ["start", "complete"]


def test_one_signal_that_medic_stumbles_over_does_not_hold_up_the_others(bench: Bench) -> None:
    stone, fine = left(bench, "stone"), left(bench, "fine", ago=timedelta(hours=1))
    bench.recorder.answer = refusing(stone=500)
    bench.run("--service", "s", "--patience", "2s", "true")
    assert fine.id in {body["id"] for body in bench.signals()}
    assert [path.name[21:-5] for path in bench.waiting()] == [stone.id]


def test_retry_after_is_waited_for_within_the_patience(bench: Bench) -> None:
    with RawServer(answered(202), answered(429, Retry_After="1"), answered(202)) as server:
        job = bench.start("--service", "s", "--url", server.url, "cat", stdin=subprocess.PIPE)
        assert job.stdin is not None
        eventually(lambda: server.times == 1)
        began = time.monotonic()
        job.stdin.close()
        assert job.wait(timeout=20) == 0
        assert 1.0 <= time.monotonic() - began < 6.0
        assert server.times == 3
    assert not bench.waiting()


def test_a_retry_after_beyond_the_patience_is_not_waited_for(bench: Bench) -> None:
    with RawServer(answered(503, Retry_After="600")) as server:
        began = time.monotonic()
        bench.run("--service", "s", "--url", server.url, "--patience", "30s", "true")
        assert time.monotonic() - began < 10.0
    assert statuses(bench) == ["start", "complete"]


def test_a_refusal_is_set_aside_with_its_answer_and_the_rest_goes_on(bench: Bench) -> None:
    gone, wrong = left(bench, "gone"), left(bench, "wrong")
    fine = left(bench, "fine", ago=timedelta(minutes=5))
    bench.recorder.answer = refusing(gone=404, wrong=422)
    done = bench.run("--service", "s", "true")
    assert b"refused a signal of" in done.stderr
    assert done.stderr.count(b"medic:") == 1
    assert not bench.waiting()
    assert fine.id in {body["id"] for body in bench.signals()}
    aside = {path.name[21:-5]: json.loads(path.read_text()) for path in (bench.spool / "rejected").glob("*")}
    assert set(aside) == {gone.id, wrong.id}
    assert (aside[gone.id]["status"], aside[gone.id]["answer"]) == (404, "So it is.")


def test_an_unknown_service_of_this_very_run_is_told_with_its_name(bench: Bench) -> None:
    bench.recorder.answer = refusing(backup=404)
    done = bench.run(
        "--patience", "5s", "--", "sh", "-c", "exit 6", env=bench.environ | {"MEDIC_SERVICE": "backup"}
    )
    assert done.returncode == 6
    assert b"backup (404)" in done.stderr
    assert len(list((bench.spool / "rejected").glob("*"))) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_may_not_is_said_once_and_the_signals_wait(bench: Bench, status: int) -> None:
    left(bench, "s")
    bench.recorder.answer = refusing(s=status)
    done = bench.run("--service", "s", "--patience", "5s", "true")
    assert done.returncode == 0
    assert done.stderr.count(b"medic:") == 1
    assert str(status).encode() in done.stderr
    assert statuses(bench) == ["complete", "start", "complete"]


def test_a_key_that_may_not_send_for_one_service_holds_up_no_other(bench: Bench) -> None:
    left(bench, "secret")
    fine = left(bench, "fine", ago=timedelta(minutes=5))
    bench.recorder.answer = refusing(secret=403)
    bench.run("--service", "s", "true")
    assert fine.id in {body["id"] for body in bench.signals()}
    assert len(bench.waiting()) == 1


@pytest.mark.parametrize("status", [200, 404, 302])
def test_a_page_that_is_not_medics_takes_nothing_away(bench: Bench, status: int) -> None:
    with RawServer(answered(status, b"<html>}", Location=bench.recorder.url)) as server:
        bench.run("--service", "s", "--url", server.url, "--patience", "1s", "true")
    assert statuses(bench) == ["start", "complete"]
    assert not bench.recorder.requests


def test_a_medic_that_comes_back_while_the_job_runs_hears_of_its_start(bench: Bench) -> None:
    back = threading.Event()
    bench.recorder.answer = lambda _: (202 if back.is_set() else 503, b"{}" if back.is_set() else b"starting")
    job = bench.start("--service", "s", "cat", stdin=subprocess.PIPE)
    eventually(lambda: statuses(bench) == ["start"])
    back.set()
    eventually(lambda: not bench.waiting())
    assert job.poll() is None
    assert job.stdin is not None
    job.stdin.close()
    assert job.wait(timeout=20) == 0
    assert bench.signals("complete")


def test_what_waits_for_another_server_stays(bench: Bench, away: str) -> None:
    other = left(bench, "s", url=away)
    bench.run("--service", "s", "true")
    assert [path.name[21:-5] for path in bench.waiting()] == [other.id]


def test_a_spool_goes_out_in_batches_in_its_order(bench: Bench) -> None:
    waiting = [left(bench, f"s{n % 7}", ago=timedelta(minutes=400 - n)).id for n in range(250)]
    assert bench.run("--service", "s", "true").returncode == 0
    assert not bench.waiting()
    assert [len(batch) for batch in bench.batches()] == [100, 100, 50]
    assert [item["id"] for batch in bench.batches() for item in batch] == waiting
    assert all(parse_time(item["sent_at"]) > parse_time(item["occurred_at"]) for item in bench.batches()[0])


def test_a_batch_is_bounded_by_its_size_too(bench: Bench) -> None:
    for n in range(12):
        heartbeat = Heartbeat("s", "complete", datetime.now(UTC) - timedelta(minutes=n), message="x" * 10_000)
        Spool(bench.spool).put(heartbeat, bench.recorder.url)
    bench.run("--service", "s", "true")
    assert not bench.waiting()
    assert [len(batch) for batch in bench.batches()] == [5, 5, 2]


def test_one_run_at_a_time_empties_a_spool_and_the_others_send_their_own(bench: Bench) -> None:
    waiting = {left(bench, f"s{n}", ago=timedelta(minutes=90 - n)).id for n in range(30)}
    hold, held = threading.Event(), threading.Event()
    answer = refusing()

    def slow(received: Received) -> tuple[int, bytes]:
        if received.path == BATCH_PATH:
            held.set()
            hold.wait(20)
        return answer(received)  # type: ignore[no-any-return]

    bench.recorder.answer = slow
    try:
        job = bench.start("--service", "one", "cat", stdin=subprocess.PIPE)
        assert held.wait(20)
        began = time.monotonic()
        assert bench.run("--service", "two", "true").returncode == 0
        assert time.monotonic() - began < 8  # it does not wait for the other
        assert {body["status"] for body in bench.signals() if body["service"] == "two"} == {
            "start",
            "complete",
        }
        assert len(bench.batches()) <= 2  # the first one's, and its second try
    finally:
        hold.set()
    eventually(lambda: not bench.waiting())
    assert job.stdin is not None
    job.stdin.close()
    assert job.wait(timeout=20) == 0
    assert waiting <= {body["id"] for body in bench.signals()}


def test_a_medic_that_knows_no_batches_gets_one_after_the_other(bench: Bench) -> None:
    waiting = [left(bench, "s", ago=timedelta(minutes=30 - n)).id for n in range(3)]
    bench.recorder.answer = lambda received: (
        (404, b'{"detail": "There is nothing here."}') if received.path == BATCH_PATH else (202, b"{}")
    )
    bench.run("--service", "s", "true")
    assert not bench.waiting()
    assert [
        request.json["id"] for request in bench.recorder.of(PATH) if request.json["id"] in waiting
    ] == waiting


def test_more_stones_than_are_tried_at_once_hold_up_no_other(bench: Bench) -> None:
    stones = {f"stone{n}": 500 for n in range(7)}
    for n, name in enumerate(stones):
        left(bench, name, ago=timedelta(hours=5, minutes=-n))
    fine = left(bench, "fine", ago=timedelta(hours=1))
    bench.recorder.answer = refusing(**stones)
    bench.run("--service", "s", "--patience", "5s", "true")
    assert fine.id not in {path.name[21:-5] for path in bench.waiting()}
    assert len(bench.waiting()) == 7


def test_a_batch_that_is_throttled_in_part_leaves_that_part(bench: Bench) -> None:
    for n in range(3):
        left(bench, "busy", ago=timedelta(minutes=50 - n))
    fine = left(bench, "fine", ago=timedelta(minutes=5))
    bench.recorder.answer = refusing(busy=429)
    began = time.monotonic()
    bench.run("--service", "s", "--patience", "30s", "true")
    assert time.monotonic() - began < 8  # nobody waits for the signals of others
    assert fine.id not in {path.name[21:-5] for path in bench.waiting()}
    assert len(bench.waiting()) == 3


def test_what_is_dropped_is_said_even_under_cron(bench: Bench, away: str) -> None:
    left(bench, "backup", url=away, ago=timedelta(days=31))
    left(bench, "sync", url=away, ago=timedelta(days=40))
    done = bench.run("--service", "s", "--url", away, "--patience", "1s", "true")
    assert b"2 signals in" in done.stderr
    assert b"of sync, backup, from" in done.stderr


def test_the_patience_of_none_leaves_the_end_to_the_next_run(bench: Bench) -> None:
    assert bench.run("--service", "s", "--patience", "0", "true").returncode == 0
    assert "complete" in statuses(bench)


def test_a_spool_that_cannot_be_written_costs_the_job_nothing(bench: Bench, away: str) -> None:
    (bench.folder / "file").write_text("")
    done = bench.run(
        "--service", "s", "--url", away, "--patience", "1s", "--spool-dir", "file", "sh", "-c", "exit 3"
    )
    assert done.returncode == 3
    assert done.stderr.count(b"cannot be kept") == 1


@pytest.mark.parametrize(
    "environ", [{"MEDIC_BASE_URL": ""}, {"MEDIC_BASE_URL": "ftp:/x"}, {"MEDIC_API_KEY": "a b"}]
)
def test_a_wrong_setting_is_said_and_the_job_runs(bench: Bench, environ: dict[str, str]) -> None:
    done = bench.run("--service", "s", "sh", "-c", "echo ran; exit 3", env=bench.environ | environ)
    assert (done.returncode, done.stdout) == (3, b"ran\n")
    assert done.stderr.count(b"medic: the run is not reported") == 1
    assert b"a b" not in done.stderr
    assert statuses(bench) == ["start", "fail"]


def test_without_a_home_the_spool_is_where_the_system_says(bench: Bench) -> None:
    environ = {name: value for name, value in bench.environ.items() if name != "MEDIC_SPOOL_DIR"}
    state = bench.folder / "state"
    bench.run("--service", "s", "--patience", "0", "true", env=environ | {"XDG_STATE_HOME": str(state)})
    bench.run("--service", "s", "--patience", "0", "true", env=environ | {"XDG_STATE_HOME": "relative"})
    assert list((state / "medic" / "spool").glob("*.json"))
    assert list((Path(environ["HOME"]) / ".local" / "state" / "medic" / "spool").glob("*.json"))


def test_signals_that_wait_for_long_are_told_even_under_cron(bench: Bench, away: str) -> None:
    left(bench, "s", url=away)
    done = bench.run("--service", "s", "--url", away, "--patience", "1s", "true")
    assert done.stderr.count(b"medic:") == 1
    assert os.fsencode(away) in done.stderr


@pytest.mark.parametrize("wanted", [True, False])
def test_a_loss_for_want_of_a_folder_is_said_to_who_wants_one(away: str, wanted: bool) -> None:
    told: list[Notice] = []
    courier = Courier(Address(away), None, lambda notice, _: told.append(notice), wants_spool=wanted)
    assert courier.deliver(Heartbeat("s", "ok", datetime.now(UTC))) is Fate.LOST
    assert told == [Notice.AWAY, *([Notice.NO_SPOOL] if wanted else [])]
