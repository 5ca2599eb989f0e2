"""The client in a program: runs, decorator, heartbeats, and what the program does not notice."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from medic.client import Medic
from tests.client.conftest import KEY, RawServer, answered, refusing
from tests.recorder import Recorder
from tests.waiting import eventually


@pytest.fixture
def medic(recorder: Recorder, tmp_path: Path) -> Medic:
    return Medic(recorder.url, KEY, spool=tmp_path / "spool")


def bodies(recorder: Recorder, status: str) -> list[dict[str, object]]:
    return [request.json for request in list(recorder.requests) if request.json["status"] == status]


def test_a_heartbeat_is_stored(medic: Medic, recorder: Recorder) -> None:
    assert medic.heartbeat("s", message="fine", metrics={"lag": 2})
    (sent,) = recorder.requests
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert (sent.json["service"], sent.json["status"], sent.json["message"]) == ("s", "ok", "fine")
    assert sent.json["metrics"] == {"lag": 2.0}


def test_a_run_is_a_start_and_an_end_with_its_metrics(medic: Medic, recorder: Recorder) -> None:
    with medic.run("s") as run:
        run.metric("rows", 3)
        run.metric("rows", 4)
        run.message = "done"
    eventually(lambda: bodies(recorder, "start"))
    start, end = bodies(recorder, "start")[0], bodies(recorder, "complete")[0]
    assert start["run_id"] == end["run_id"] == run.id
    assert (end["metrics"], end["message"]) == ({"rows": 4.0}, "done")
    assert isinstance(end["duration_ms"], int)


def test_an_exception_fails_the_run_and_goes_on(medic: Medic, recorder: Recorder) -> None:
    def fail() -> None:
        with medic.run("s"):
            raise LookupError("no such order")

    with pytest.raises(LookupError):
        fail()
    message = str(bodies(recorder, "fail")[0]["message"])
    assert message.endswith("LookupError: no such order\n")
    assert "in fail" in message


def test_the_text_of_an_exception_can_stay_home(medic: Medic, recorder: Recorder) -> None:
    with pytest.raises(LookupError), medic.run("s", report_error=False):
        raise LookupError("password")
    assert "message" not in bodies(recorder, "fail")[0]


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [(0, "complete", 0), (None, "complete", 0), (3, "fail", 3), ("no", "fail", 1)],
)
def test_sys_exit_tells_how_the_run_ended(
    medic: Medic, recorder: Recorder, code: object, status: str, exit_code: int
) -> None:
    with pytest.raises(SystemExit), medic.run("s"):
        sys.exit(code)  # type: ignore[arg-type]
    assert bodies(recorder, status)[0]["exit_code"] == exit_code


def test_a_run_can_fail_without_an_exception(medic: Medic, recorder: Recorder) -> None:
    with medic.run("s") as run:
        run.fail("3 of 5 files")
    assert bodies(recorder, "fail")[0]["message"] == "3 of 5 files"


def test_a_decorated_function_is_a_run_each_time(medic: Medic, recorder: Recorder) -> None:
    @medic.job("s")
    def double(number: int) -> int:
        """Twice."""
        return 2 * number

    assert (double(2), double(number=3), double.__doc__) == (4, 6, "Twice.")
    assert len({str(body["run_id"]) for body in bodies(recorder, "complete")}) == 2


def test_a_decorated_coroutine_is_a_run_and_leaves_the_loop_free(recorder: Recorder, tmp_path: Path) -> None:
    medic = Medic(recorder.url, KEY, spool=tmp_path / "spool")
    ticks: list[float] = []

    @medic.job("s")
    async def work(fails: bool) -> int:
        await asyncio.sleep(0)
        if fails:
            raise LookupError
        return 5

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        assert await work(fails=False) == 5
        with pytest.raises(LookupError):
            await work(fails=True)
        ticking.cancel()

    def answer(_: object) -> tuple[int, bytes]:
        before = len(ticks)
        eventually(lambda: len(ticks) > before + 5)  # the loop turns while we keep the run waiting
        return 202, b"{}"

    recorder.answer = answer
    asyncio.run(main())
    assert bodies(recorder, "complete")
    assert bodies(recorder, "fail")


def test_an_absent_medic_costs_the_program_its_patience_at_most(
    away: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    medic = Medic(away, KEY, spool=tmp_path, patience=0.5)
    began = time.monotonic()
    for _ in range(3):
        with medic.run("s"):
            pass
    assert not medic.heartbeat("s")
    assert time.monotonic() - began < 5
    kept = [json.loads(path.read_text())["heartbeat"]["status"] for path in sorted(tmp_path.glob("*.json"))]
    assert kept == ["start", "complete"] * 3 + ["ok"]
    (warning,) = [record for record in caplog.records if record.name == "medic.client"]
    assert warning.levelno == logging.WARNING
    assert away in warning.getMessage()


def test_each_outage_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = answered(503, Retry_After="0"), answered(202)
    with RawServer(bad, bad, good, bad, bad, good) as server:
        medic = Medic(server.url, KEY, spool=False)
        assert [medic.heartbeat("s") for _ in range(6)] == [False, False, True, False, False, True]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2


def test_the_run_after_an_outage_brings_what_waited(recorder: Recorder, medic: Medic, tmp_path: Path) -> None:
    recorder.answer = refusing(s=503)
    with medic.run("s"):
        pass
    assert len(list((tmp_path / "spool").glob("*.json"))) == 2
    recorder.answer = refusing()
    with Medic(recorder.url, KEY, spool=tmp_path / "spool").run("t"):
        eventually(lambda: not list((tmp_path / "spool").glob("*.json")))


def test_no_server_and_no_number_are_warnings_not_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDIC_BASE_URL", raising=False)
    with Medic(spool=tmp_path / "spool").run("s") as run:
        run.metric("nan", float("nan"))
        run.metric("text", "many")  # type: ignore[arg-type]
        run.metric("rows", 3)
    kept = [json.loads(path.read_text())["heartbeat"] for path in sorted((tmp_path / "spool").glob("*.json"))]
    assert kept[-1]["metrics"] == {"rows": 3.0}
    assert "MEDIC_BASE_URL" in caplog.text
    assert "nan" in caplog.text


def test_a_forked_child_does_not_end_the_run_of_its_parent(medic: Medic, recorder: Recorder) -> None:
    with medic.run("s"):
        eventually(lambda: bodies(recorder, "start"))
        eventually(lambda: "medic-report" not in {thread.name for thread in threading.enumerate()})
        code = (
            "import os, sys; from medic.client import Medic\n"
            f"medic = Medic({recorder.url!r}, spool=False)\n"
            "with medic.run('forked'):\n"
            "    if os.fork() == 0: sys.exit(4)\n"
            "    os.wait()\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert [body["service"] for body in bodies(recorder, "complete")] == ["forked", "s"]
    assert not bodies(recorder, "fail")


def test_the_client_imports_nothing_that_a_job_would_have_to_wait_for() -> None:
    code = (
        "import sys; before = set(sys.modules); import medic.client\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(name for name in new if name.partition('.')[0] not in sys.stdlib_module_names"
        " and not name.startswith('_sysconfigdata')))\n"
        "print(sorted({'http.client', 'urllib.request', 'ssl', 'asyncio', 'subprocess'} & new))"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    foreign, heavy = shown.stdout.splitlines()
    ours = ["medic", "medic.client", "medic.errors", "medic.times"]
    assert [
        name for name in json.loads(foreign.replace("'", '"')) if not name.startswith("medic.client.")
    ] == ours
    assert heavy == "[]"


@pytest.mark.parametrize("wrong", [{"message": 7}, {"occurred_at": "yesterday"}, {"metrics": 3}])
def test_a_wrong_argument_is_a_warning_not_an_error(
    medic: Medic, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    with caplog.at_level(logging.WARNING, logger="medic.client"):
        assert medic.heartbeat("s", **wrong) is False
    assert [record.name for record in caplog.records] == ["medic.client"]


AT_EXIT = """
import atexit, sys
from medic.client import Beat, Medic
medic = Medic(sys.argv[1], spool=False)
Beat(medic, "beats", every=60).start()
atexit.register(medic.heartbeat, "last", "log")
with medic.run("forks"):
    import os
    child = os.fork()  # at once, while the start is on its way
    if child == 0:
        with Medic(sys.argv[1], spool=False).run("child"):
            pass
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
sys.exit(3)
"""


def test_a_program_sends_from_a_fork_and_at_its_exit_and_ends_as_it_would(recorder: Recorder) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, recorder.url], check=False, timeout=30, capture_output=True
    )
    assert (done.returncode, done.stderr) == (3, b"")
    ends = {(r.json["service"], r.json["status"]) for r in list(recorder.requests)}
    assert {("last", "log"), ("forks", "complete"), ("child", "complete")} <= ends
