"""`medic audit`: listing and exporting over the API, verifying in the database."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from medic.audit_seals import seal
from medic.cli import audit as command
from medic.db import database_now, in_transaction
from medic.settings import Settings
from tests.cli.conftest import data_of


def seal_all(engine: Engine, environ: dict[str, str]) -> None:
    key = Settings.from_env(environ).audit_keys[0]
    in_transaction(engine, lambda session: seal(session, key, now=database_now(session)))


def forge(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL session_replication_role = replica; {sql}"))


def test_what_was_done_is_listed_and_narrowed(admin: Any) -> None:
    admin("service", "create", "audited", "--every", "5m")
    lines = admin("audit", "list", "--object", "service:audited").stdout.splitlines()
    assert len(lines) == 2
    assert "service.create" in lines[1]
    items = data_of(admin("audit", "list", "--action", "service", "--output", "json"))
    assert [item["object"] for item in items] == ["service:audited"]
    assert admin("audit", "list", "--actor", "slack").stderr == "Nothing of this kind was done.\n"
    assert admin("audit", "list", "--from", "soon").exit_code == 1


def test_it_is_exported_page_by_page_as_csv_and_as_json(
    admin: Any, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id, source)"
                 " SELECT now(), 'shell', 'me', 'a.b', 'c', n, '=1+1' FROM generate_series(1, 7) n")
        )  # fmt: skip
    monkeypatch.setattr(command, "PAGE", 3)
    done = admin("audit", "export", "--action", "a.b")
    assert (done.exit_code, done.stderr) == (0, "7 entries are exported.\n")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["object"] for row in rows] == [f"c:{n}" for n in range(7, 0, -1)]
    assert {row["source"] for row in rows} == {"'=1+1"}
    assert admin("audit", "export", "--action", "a.b", "--format", "json", "--file", "log").exit_code == 0
    items = [json.loads(line) for line in Path("log").read_text().splitlines()]
    assert [item["object"] for item in items] == [row["object"] for row in rows]
    assert admin("audit", "export", "--file", "nowhere/log").exit_code == 1


def test_verifying_tells_whole_from_broken_and_counts_the_tail(
    medic: Any, admin: Any, environ: dict[str, str], engine: Engine
) -> None:
    assert "Not sealed yet: 1, the oldest for" in medic("audit", "verify", **environ).stdout
    admin("service", "create", "audited", "--every", "5m")
    seal_all(engine, environ)
    assert admin("service", "create", "later", "--every", "5m").exit_code == 0
    found = data_of(medic("audit", "verify", "--output", "json", **environ))
    assert (found["whole"], found["broken"], found["sealed"], found["first"]) == (True, None, 2, 1)
    assert found["unsealed"]["count"] == 1
    assert found["unsealed"]["oldest_s"] < 60
    told = medic("audit", "verify", "--anchor", found["anchor"], **environ)
    assert told.exit_code == 0
    assert told.stdout.startswith("Whole: 2 entries are as they were sealed, from seal 1 on.\n")

    forge(engine, "UPDATE audit_entries SET actor = 'you' WHERE object_id = 'audited'")
    broken = medic("audit", "verify", **environ)
    assert broken.exit_code == 1
    assert broken.stdout.startswith("BROKEN at seal 2, entry ")
    assert "Before that, 1 entries" in broken.stdout
    as_json = medic("audit", "verify", "--output", "json", **environ)
    assert (as_json.exit_code, json.loads(as_json.stdout)["broken"]["why"]) == (1, "changed")

    forge(engine, "DELETE FROM audit_seals WHERE number = 2")
    assert medic("audit", "verify", **environ).exit_code == 0
    cut = medic("audit", "verify", "--anchor", found["anchor"], **environ)
    assert (cut.exit_code, "cut off" in cut.stdout) == (1, True)


def test_verifying_needs_the_key_and_the_database(medic: Any, environ: dict[str, str]) -> None:
    without = {name: value for name, value in environ.items() if name != "MEDIC_AUDIT_KEY"}
    assert medic("audit", "verify", **without).exit_code == 78
    assert medic("audit", "verify", "--anchor", "x", **environ).exit_code == 1
    away = environ | {"MEDIC_DATABASE_URL": "postgresql://medic:hunter2@127.0.0.1:1/medic"}
    gone = medic("audit", "verify", **away)
    assert gone.exit_code == 5
    assert "hunter2" not in gone.output


def test_the_doctor_says_that_nothing_is_sealed(medic: Any, environ: dict[str, str], engine: Engine) -> None:
    def verdict(**more: str) -> tuple[str, str]:
        checks = json.loads(medic("doctor", "--output", "json", **(environ | more)).stdout)["checks"]
        return next((item["verdict"], item["text"]) for item in checks if item["name"] == "audit log")

    assert verdict()[0] == "ok"
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id)"
                 " VALUES (now() - interval '5 minutes', 'shell', 'a', 'b.c', 'd', 'e')")
        )  # fmt: skip
    assert verdict()[0] == "warn"
    assert verdict(MEDIC_AUDIT_KEY="") == (
        "warn", "MEDIC_AUDIT_KEY is unset: audit entries are kept, and not sealed"
    )  # fmt: skip
