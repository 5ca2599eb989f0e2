"""The spool: whole files, bounds, locks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medic.client.heartbeat import Heartbeat
from medic.client.spool import Spool, id_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def heartbeat(*, ago: timedelta = timedelta(0), service: str = "s") -> Heartbeat:
    return Heartbeat(service, "complete", NOW - ago, run_id="r", metrics={"rows": 3.0})


def test_a_signal_comes_back_as_it_was_put(tmp_path: Path) -> None:
    spool, put = Spool(tmp_path / "a" / "b"), heartbeat()
    name = spool.put(put, "http://m")
    assert spool.put(put, "http://m") == name
    assert spool.waiting() == [name]
    with spool.claim(name) as spooled:
        assert spooled is not None
        assert (spooled.heartbeat, spooled.url) == (put, "http://m")


def test_the_oldest_comes_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    made = [heartbeat(ago=timedelta(minutes=minutes)) for minutes in (5, 50, 1)]
    for one in made:
        spool.put(one, None)
    assert [id_of(name) for name in spool.waiting()] == [made[1].id, made[0].id, made[2].id]
    assert spool.waiting_since() == NOW - timedelta(minutes=50)


def test_a_file_is_held_by_one_sender_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    name = spool.put(heartbeat(), None)
    with spool.claim(name) as first:
        assert first is not None
        with Spool(tmp_path).claim(name) as second:
            assert second is None
        spool.remove(name)
    with spool.claim(name) as third:
        assert third is None


def test_what_is_too_much_and_too_old_is_dropped_oldest_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_files=3, max_age=timedelta(days=30))
    made = [heartbeat(ago=timedelta(days=days)) for days in (40, 31, 3, 2, 1)]
    for one in made:
        spool.put(one, None)
    assert spool.trim(NOW) == 2
    assert [id_of(name) for name in spool.waiting()] == [one.id for one in made[2:]]
    assert spool.trim(NOW) == 0
    assert spool.trim(NOW + timedelta(days=28, hours=12)) == 2
    assert [id_of(name) for name in spool.waiting()] == [made[4].id]


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number, content in enumerate((b"", b"[]", b'{"url": null, "heartbeat": {"x": 1}}', b"\xff")):
        name = f"{number:020d}-x.json"
        (tmp_path / name).write_bytes(content)
        with spool.claim(name) as spooled:
            assert spooled is None
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
