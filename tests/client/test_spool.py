"""The spool: whole files, bounds, locks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medic.client.heartbeat import Heartbeat
from medic.client.spool import Dropped, Spool, id_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def heartbeat(*, ago: timedelta = timedelta(0), service: str = "s") -> Heartbeat:
    return Heartbeat(service, "complete", NOW - ago, run_id="r", metrics={"rows": 3.0})


def test_a_signal_comes_back_as_it_was_put(tmp_path: Path) -> None:
    spool, put = Spool(tmp_path / "a" / "b"), heartbeat()
    name = spool.put(put, "http://m")
    assert spool.put(put, "http://m") == name
    assert spool.waiting() == [name]
    spooled = spool.read(name)
    assert spooled is not None
    assert (spooled.heartbeat, spooled.url) == (put, "http://m")


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    made = [heartbeat(ago=timedelta(minutes=minutes)) for minutes in (5, 50, 1)]
    for one in made:
        spool.put(one, None)
    assert [id_of(name) for name in spool.waiting()] == [made[1].id, made[0].id, made[2].id]
    assert spool.waiting_since() == NOW - timedelta(minutes=50)


def test_there_is_one_sender_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.sole_sender() as first, Spool(tmp_path).sole_sender() as second:
        assert (first, second) == (True, False)
        put = spool.put(heartbeat(), None)  # who only brings something does not wait
    with spool.sole_sender() as third:
        assert third
        assert spool.waiting() == [put]
    with Spool(tmp_path / "none").sole_sender() as nowhere:
        assert not nowhere


def test_a_forked_child_does_not_keep_the_place_of_the_sender(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    stay, leave = os.pipe()
    with spool.sole_sender() as first:
        assert first
        child = os.fork()
        if child == 0:
            os.close(leave)
            os.read(stay, 1)  # lives on
            os._exit(0)
    try:
        with spool.sole_sender() as second:
            assert second
    finally:
        os.close(leave)
        os.close(stay)
        os.waitpid(child, 0)


def test_what_is_too_much_and_too_old_is_dropped_oldest_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_files=3, max_age=timedelta(days=30))
    made = [heartbeat(ago=timedelta(days=days)) for days in (40, 31, 3, 2, 1)]
    for one in made:
        spool.put(one, None)
    assert spool.trim(NOW) == Dropped(2, ("s",), NOW - timedelta(days=40), NOW - timedelta(days=31))
    assert [id_of(name) for name in spool.waiting()] == [one.id for one in made[2:]]
    assert spool.trim(NOW) == Dropped()
    assert spool.trim(NOW + timedelta(days=28, hours=12)).count == 2
    assert [id_of(name) for name in spool.waiting()] == [made[4].id]


def test_the_spool_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=25_000)
    for hours in (3, 2, 1):
        spool.put(replace(heartbeat(ago=timedelta(hours=hours)), message="x" * 10_000), None)
    assert spool.trim(NOW).count == 1
    assert spool.waiting_since() == NOW - timedelta(hours=2)


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number, content in enumerate((b"", b"[]", b'{"url": null, "heartbeat": {"x": 1}}', b"\xff")):
        name = f"{number:020d}-x.json"
        (tmp_path / name).write_bytes(content)
        assert spool.read(name) is None
    assert not spool.waiting()
    assert len(list((tmp_path / "rejected").iterdir())) == 4


def test_a_draft_of_a_killed_process_is_no_signal_and_goes_away(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(heartbeat(), None)
    (tmp_path / ".draft-1-ab").write_text("{")
    assert len(spool.waiting()) == 1
    spool.trim(datetime.now(UTC))
    assert (tmp_path / ".draft-1-ab").exists()
    spool.trim(datetime.now(UTC) + timedelta(hours=2))
    assert not (tmp_path / ".draft-1-ab").exists()


def test_a_rejected_signal_keeps_its_answer(tmp_path: Path) -> None:
    spool, put = Spool(tmp_path), heartbeat()
    name = spool.put(put, "http://m")
    spool.reject(put, "http://m", status=404, answer="There is no service s.")
    assert not spool.waiting()
    kept = json.loads((tmp_path / "rejected" / name).read_text())
    assert kept["status"] == 404
    assert kept["answer"] == "There is no service s."
