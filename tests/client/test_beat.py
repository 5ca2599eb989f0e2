"""The background beat: it goes on, whatever happens to Medic or to the process."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from medic.client import Beat, Medic
from medic.errors import Invalid
from tests.client.conftest import KEY, RawServer, answered
from tests.recorder import Recorder
from tests.waiting import eventually


def test_it_beats_at_once_and_then_every_so_often_until_stopped(recorder: Recorder) -> None:
    beat = Beat(Medic(recorder.url, KEY, spool=False), "w", every=0.05)
    with beat:
        eventually(lambda: len(recorder.requests) >= 4)
        assert beat.start() is beat
        assert len([t for t in threading.enumerate() if t.name == "medic-beat-w"]) == 1
    assert not [t for t in threading.enumerate() if t.name == "medic-beat-w"]
    assert {request.json["status"] for request in recorder.requests} == {"ok"}
    assert len({request.json["id"] for request in recorder.requests}) == len(recorder.requests)
    count = len(recorder.requests)
    beat.start()
    eventually(lambda: len(recorder.requests) > count)
    beat.stop()


@pytest.mark.parametrize("every", ["1m", 60, timedelta(minutes=1)])
def test_how_often_may_be_said_in_three_ways(recorder: Recorder, every: str | float | timedelta) -> None:
    with Beat(Medic(recorder.url, KEY, spool=False), "w", every=every) as beat:
        eventually(lambda: recorder.requests)
        assert beat._every == 60


def test_a_wrong_interval_is_refused_when_it_is_made() -> None:
    with pytest.raises(Invalid):
        Beat(Medic("http://127.0.0.1:1"), "w", every="soon")


def test_an_outage_is_survived_logged_once_and_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = answered(503, Retry_After="60")
    with (
        RawServer(bad, bad, bad, answered(202)) as server,
        Beat(Medic(server.url, KEY, spool=tmp_path), "w", every=0.05),
    ):
        eventually(lambda: server.times >= 6)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("follows", [True, False])
def test_a_process_that_forks_into_the_background_keeps_its_beat(recorder: Recorder, follows: bool) -> None:
    code = (
        "import os, sys; from medic.client import Beat, Medic\n"
        f"beat = Beat(Medic({recorder.url!r}, spool=False), 'w', every=0.05, in_children={follows}).start()\n"
        "if os.fork(): os._exit(0)\n"
        "print('child', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline() == b"child\n"
        assert child.wait(timeout=20) == 0
        before = len(recorder.requests)
        if follows:
            eventually(lambda: len(recorder.requests) > before + 3)
        else:
            with pytest.raises(AssertionError):
                eventually(lambda: len(recorder.requests) > before + 1, within=0.5)
