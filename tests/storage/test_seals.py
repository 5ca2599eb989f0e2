"""The chain over the audit log: what commits late is not lost, and what is changed is found."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from medic import audit, audit_verify, csv_text, retention
from medic.audit_seals import Sealed, seal, waits_s
from medic.audit_verify import Verified, read_anchor, verify, write_anchor
from medic.crypto.audit_chain import Head
from medic.db import in_transaction
from medic.errors import Invalid, Misconfigured
from medic.settings import Settings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32


class Log:
    """The audit log of one test."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, sql: str, **values: Any) -> Any:
        with self.engine.begin() as connection:
            found = connection.execute(text(sql), values)
            return found.all() if found.returns_rows else None

    def forge(self, sql: str) -> None:
        """As the database's owner could."""
        self.run(f"SET LOCAL session_replication_role = replica; {sql}")

    def write(self, *names: str, detail: Any = None, at: datetime = NOW) -> None:
        for name in names:
            in_transaction(self.engine, lambda session, name=name: note(session, name, detail=detail, at=at))

    def seal(self, key: bytes = KEY, **more: Any) -> Sealed:
        done = in_transaction(self.engine, lambda session: seal(session, key, now=NOW, **more))
        assert done is not None
        return done

    def verify(self, *keys: bytes, anchor: Head | None = None) -> Verified:
        return in_transaction(self.engine, lambda session: verify(session, keys or (KEY,), anchor=anchor))

    def chain(self) -> list[str]:
        return [row[0] for row in self.run(
            "SELECT e.object_id FROM audit_seals s JOIN audit_entries e ON e.id = s.entry_id ORDER BY s.number"
        )]  # fmt: skip


def note(session: Session, name: str, *, detail: Any = None, at: datetime = NOW) -> None:
    audit.append(
        session, now=at, actor=audit.Actor("shell", "me"), action="service.create", object_kind="service",
        object_id=name, detail=detail,
    )  # fmt: skip


@pytest.fixture
def log(engine: Engine) -> Log:
    return Log(engine)


def broken(found: Verified) -> tuple[int, str] | None:
    return (found.broken.number, found.broken.why) if found.broken else None


def test_what_is_committed_is_sealed_once_and_in_batches(log: Log) -> None:
    log.write("a", "b", "c")
    assert log.verify().unsealed == 3
    assert [log.seal(limit=2).count for _ in range(3)] == [2, 1, 0]
    found = log.verify()
    assert (broken(found), found.sealed, found.first, found.head.n, found.unsealed) == (None, 3, 1, 3, 0)
    assert log.chain() == ["a", "b", "c"]


def test_an_entry_that_commits_behind_a_later_one_is_sealed_behind_it_and_holds_up_nobody(
    log: Log, engine: Engine
) -> None:
    horizon = log.seal().horizon
    with Session(engine) as slow:
        note(slow, "slow")  # has its id, and is not committed
        log.write("quick")
        for _ in range(3):
            done = log.seal(horizon=horizon)
            horizon = done.horizon
        assert log.chain() == ["quick"]
        slow.commit()
    assert log.seal(horizon=horizon).count == 1
    assert log.chain() == ["quick", "slow"]
    ids = [row[0] for row in log.run("SELECT entry_id FROM audit_seals ORDER BY number")]
    assert ids[0] > ids[1]
    found = log.verify()
    assert (broken(found), found.sealed, found.unsealed) == (None, 2, 0)


def test_a_look_asks_only_for_what_may_have_come_since(log: Log, engine: Engine) -> None:
    log.write("a", "b")
    newest = log.run("SELECT max(id) FROM audit_entries")[0][0]
    horizon = log.seal().horizon
    assert horizon.newest == newest
    while horizon.below < newest:  # somebody else of this server may still be at work
        horizon = log.seal(horizon=horizon).horizon
    asked: list[str] = []

    def listen(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", listen)
    try:
        assert log.seal(horizon=horizon).count == 0
        assert not [statement for statement in asked if "NOT EXISTS" in statement]
        log.write("c")
        assert log.seal(horizon=horizon).count == 1
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert len([statement for statement in asked if "NOT EXISTS" in statement]) == 1


def test_the_horizon_waits_for_every_transaction_that_had_begun(log: Log, engine: Engine) -> None:
    with Session(engine) as slow:
        slow.execute(text("SELECT pg_current_xact_id()"))
        log.write("quick")
        horizon = log.seal().horizon
        for _ in range(3):
            horizon = log.seal(horizon=horizon).horizon
        assert horizon.below < horizon.newest
        note(slow, "slow")
        slow.commit()
    assert log.seal(horizon=horizon).count == 1


def test_a_second_sealer_goes_away_at_once(log: Log, engine: Engine) -> None:
    log.write("a")
    with Session(engine) as first:
        assert seal(first, KEY, now=NOW) is not None
        with Session(engine) as second:
            assert seal(second, KEY, now=NOW) is None
        first.commit()
    assert log.chain() == ["a"]


def test_a_sealer_whose_seals_are_gone_says_so_and_begins_anew(log: Log) -> None:
    log.write("a", "b")
    horizon = log.seal().horizon
    assert log.seal(horizon=horizon).is_whole
    log.forge("DELETE FROM audit_seals WHERE number = 2")
    done = log.seal(horizon=horizon)
    assert (done.is_whole, done.count) == (False, 1)
    assert log.seal(horizon=done.horizon).is_whole


FORGERIES: dict[str, tuple[str, tuple[int, str]]] = {
    "edited": ("UPDATE audit_entries SET actor = 'you' WHERE object_id = 'c'", (3, "changed")),
    "backdated": ("UPDATE audit_entries SET at = at - interval '1 microsecond' WHERE object_id = 'c'", (3, "changed")),
    "out of time": ("UPDATE audit_entries SET at = 'infinity' WHERE object_id = 'c'", (3, "changed")),
    "detail": ("""UPDATE audit_entries SET detail = '{"n": 1.25}' WHERE object_id = 'c'""", (3, "changed")),
    "deleted": ("DELETE FROM audit_entries WHERE object_id = 'c'", (3, "missing")),
    "deleted with its seal": (
        ("WITH gone AS (DELETE FROM audit_entries WHERE object_id = 'c' RETURNING id)"
        " DELETE FROM audit_seals WHERE entry_id IN (SELECT id FROM gone)"), (3, "missing")),
    "beginning deleted": (
        ("WITH gone AS (DELETE FROM audit_entries WHERE object_id IN ('a', 'b') RETURNING id)"
        " DELETE FROM audit_seals WHERE entry_id IN (SELECT id FROM gone)"), (1, "missing")),
    "let go by nobody": (
        "DELETE FROM audit_entries WHERE object_id IN ('a', 'b'); DELETE FROM audit_seals WHERE number = 1",
        (2, "checkpoint")),
    "swapped": (
        "UPDATE audit_entries SET object_id = CASE object_id WHEN 'c' THEN 'x' ELSE 'c' END WHERE object_id IN ('c', 'd')",
        (3, "changed")),
    "seals swapped": (
        ("UPDATE audit_seals SET entry_id = -entry_id WHERE number IN (3, 4);"
        "UPDATE audit_seals s SET entry_id = -o.entry_id FROM audit_seals o WHERE s.number + o.number = 7"
        " AND s.number IN (3, 4)"), (3, "reordered")),
    "inserted": (
        ("UPDATE audit_seals SET number = -1 - number WHERE number > 2; UPDATE audit_seals SET number = -number WHERE number < 0;"
        "INSERT INTO audit_entries (id, at, actor_kind, actor, action, object_kind, object_id) OVERRIDING SYSTEM VALUE"
        " VALUES (1000000000, now(), 'key', 'a', 'b.c', 'd', 'e');"
        "INSERT INTO audit_seals SELECT 3, 1000000000, digest, now() FROM audit_seals WHERE number = 4"), (3, "reordered")),
    "replayed": ("INSERT INTO audit_seals SELECT 6, 1000000000, digest, now() FROM audit_seals WHERE number = 5", (6, "missing")),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_somebody_did_to_the_tables_is_found_where_it_is(log: Log, forgery: str) -> None:
    sql, where = FORGERIES[forgery]
    log.write("a", "b", "c", "d", "e", detail={"n": 1.5, "big": 2**60, "list": [None, True]})
    log.seal()
    assert broken(log.verify()) is None
    log.forge(sql)
    found = log.verify()
    assert broken(found) == where
    assert found.head.n == found.sealed or where[1] == "checkpoint"


def test_without_the_key_nobody_makes_a_chain_that_holds(log: Log) -> None:
    log.write("a", "b")
    log.seal(OTHER)
    assert broken(log.verify()) == (1, "changed")


def test_an_anchor_shows_that_the_end_was_cut_off_or_made_anew(log: Log) -> None:
    log.write("a", "b", "c")
    anchor = log.seal().horizon.head
    assert read_anchor(write_anchor(anchor)) == anchor
    log.write("d")
    log.seal()
    assert broken(log.verify(anchor=anchor)) is None
    log.forge("DELETE FROM audit_entries WHERE object_id = 'b'; DELETE FROM audit_seals WHERE number > 1")
    assert broken(log.verify()) is None  # what is left holds by itself
    assert broken(log.verify(anchor=anchor)) == (2, "anchor")
    log.seal()
    assert broken(log.verify()) is None
    assert broken(log.verify(anchor=anchor)) == (3, "anchor")
    for wrong in ("", "3", "0:" + "a" * 64, "3:zz", f"{write_anchor(anchor)}0"):
        with pytest.raises(Invalid):
            read_anchor(wrong)


def test_keys_follow_each_other_and_an_older_one_never_comes_back(log: Log) -> None:
    log.write("a", "b")
    log.seal(OTHER)
    log.write("c")
    log.seal(KEY)
    assert broken(log.verify(KEY, OTHER)) is None
    assert broken(log.verify(KEY)) == (1, "changed")
    log.write("d")
    log.seal(OTHER)
    assert broken(log.verify(KEY, OTHER)) == (4, "changed")


def test_it_is_verified_over_pages_and_from_the_checkpoint_of_retention(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_verify, "PAGE", 2)
    old = NOW - timedelta(days=91)
    log.write("a", "b", "c", at=old)
    first = log.seal().horizon.head
    log.write("d", "e")
    log.seal()
    gone = in_transaction(
        log.engine, lambda s: retention.let_go_of_audit(s, settings=Settings.from_env({}), now=NOW)
    )
    assert gone == 3
    found = log.verify(anchor=first)
    assert (broken(found), found.first, found.sealed, found.unsealed) == (None, 4, 2, 1)
    log.seal()
    found = log.verify(anchor=first)
    assert (broken(found), found.sealed, found.unsealed) == (None, 3, 0)
    with pytest.raises(Invalid, match="older"):
        log.verify(anchor=Head(1, bytes(32)))
    log.forge("DELETE FROM audit_entries WHERE object_id = 'd'")
    assert broken(log.verify()) == (4, "missing")


def test_the_tail_is_reported_with_its_age(log: Log, engine: Engine) -> None:
    with engine.connect() as connection:
        assert waits_s(connection) == 0
    log.write("a", at=datetime.now(UTC) - timedelta(minutes=5))
    with engine.connect() as connection:
        assert 299 < waits_s(connection) < 360
    assert log.verify().unsealed_since is not None
    log.seal()
    with engine.connect() as connection:
        assert waits_s(connection) == 0
    assert log.verify().unsealed_since is None


def test_the_settings_take_several_keys_and_refuse_a_short_one() -> None:
    assert Settings.from_env({}).audit_keys == ()
    assert Settings.from_env({"MEDIC_AUDIT_KEY": f"{'n' * 32}, {'o' * 40}"}).audit_keys == (
        b"n" * 32,
        b"o" * 40,
    )
    for wrong in ("short", f"{'n' * 32},", f",{'n' * 32}", f"{'n' * 32},short"):
        with pytest.raises(Misconfigured, match="MEDIC_AUDIT_KEY: each key must be 32 characters"):
            Settings.from_env({"MEDIC_AUDIT_KEY": wrong})


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.lists(st.one_of(texts, st.sampled_from("=+-@\t\r\n;,\"'").flatmap(
    lambda start: texts.map(lambda rest: start + rest)), st.integers(), st.none()), min_size=1), min_size=1))  # fmt: skip
def test_csv_is_read_back_and_no_cell_of_it_is_a_formula(rows: list[list[str | int | None]]) -> None:
    written = csv_text.lines(rows)
    assert written.endswith('"\r\n')
    read = list(csv.reader(io.StringIO(written, newline=""), strict=True))
    assert len(read) == len(rows)
    for cells, row in zip(read, rows, strict=True):
        for cell, value in zip(cells, row, strict=True):
            plain = "" if value is None else str(value)
            assert cell in {plain, f"'{plain}"}
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
            assert (cell == plain) == (not plain.startswith(tuple("=+-@\t\r\n＝＋－＠")))  # noqa: RUF001
