"""What is pure: the signal's body, the end of an output, the name of a command."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.client.heartbeat import MESSAGE_BYTES, Heartbeat, last_of
from medic.client.naming import name_of

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
RESERVED = {"batch", "start", "complete", "fail", "log"}
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=50), st.binary(max_size=8).map(lambda part: part * 3_000), st.text(max_size=50)
    )
)
def test_the_end_of_an_output_fits_and_is_text_that_medic_takes(output: bytes | str) -> None:
    told = last_of(output)
    assert len(told.encode()) <= MESSAGE_BYTES
    assert "\0" not in told
    if isinstance(output, bytes) and output.isascii() and b"\0" not in output:
        assert told == output[-MESSAGE_BYTES:].decode()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=150), min_size=1, max_size=4))
def test_every_command_has_a_name_that_medic_takes(command: list[str]) -> None:
    name = name_of(command)
    assert NAME.fullmatch(name)
    assert name not in RESERVED
    assert not name.isdigit()
    assert name == name_of(command)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/local/bin/Backup DB.sh", "--all"], "backup-db"),
        (["pg_dump", "-c"], "pg_dump"),
        (["python3.11", "-u", "/opt/report.py", "x"], "report"),
        (["python", "-m", "jobs.clean"], "jobs.clean"),
        (["bash", "-e", "nightly.sh"], None),
        (["fail"], "job-fail"),
        (["7"], "job-7"),
    ],
)
def test_a_command_is_called_as_its_program_or_script(command: list[str], name: str | None) -> None:
    assert name_of(command) == (name or "nightly")


def test_code_on_the_command_line_is_told_apart() -> None:
    first, second = name_of(["sh", "-c", "echo 1"]), name_of(["sh", "-ec", "echo 2"])
    assert first != second
    assert first.startswith("sh-")
    assert second.startswith("sh-")


def test_a_clock_that_was_set_back_makes_no_signal_of_the_future() -> None:
    body = Heartbeat("s", "ok", NOW).body(sent_at=NOW - timedelta(hours=1))
    assert body["sent_at"] == body["occurred_at"] == "2026-03-01T12:00:00Z"


def test_what_is_not_known_is_left_out_and_the_rest_is_json() -> None:
    signal = Heartbeat("s", "fail", NOW, exit_code=70_000, metrics={"n": 1.5}, id="x")
    assert json.loads(json.dumps(signal.record())) == {
        "service": "s", "status": "fail", "occurred_at": "2026-03-01T12:00:00Z", "metrics": {"n": 1.5}, "id": "x",
    }  # fmt: skip
