"""The audit log by API: filters, pages, CSV, and who may see it."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text

from medic import audit
from medic.audit_seals import seal
from medic.db import database_now, in_transaction
from medic.settings import Settings
from medic.times import format_time
from medic_api import audit as audit_api
from medic_api.app import create_app
from tests.api.caller import Api, MakeApi, problem

START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def written(admin: Api, engine: Engine) -> Api:
    """The admin, with five entries of five hours, two of them of one name, and those of keys."""

    def work(session: Any) -> None:
        for hour, (kind, who, action, name) in enumerate((
            ("shell", "me", "service.create", "web"), ("slack", "U1", "service.change", "web"),
            ("shell", "me", "target.create", "web"), ("shell", "you", "service.create", '=HYPERLINK("x")'),
            ("trigger", "7", "service_x.create", "a,b\r\nc"),
        )):  # fmt: skip
            audit.append(
                session, now=START + timedelta(hours=hour), actor=audit.Actor(kind, who, source="192.0.2.1"),
                action=action, object_kind=action.split(".", maxsplit=1)[0], object_id=name, detail={"hour": hour},
            )  # fmt: skip

    in_transaction(engine, work)
    return admin


def hours(api: Api, query: str) -> list[int]:
    response = api("GET", f"/v1/audit?to=2026-11-02T00:00:00Z&{query}")
    assert response.status_code == 200, response.text
    return [item["detail"]["hour"] for item in response.get_json()["items"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [4, 3, 2, 1, 0]),
        ("actor=shell", [3, 2, 0]),
        ("actor=shell:me", [2, 0]),
        ("actor=me", []),
        ("action=service.create", [3, 0]),
        ("action=service", [3, 1, 0]),
        ("object=service:web", [1, 0]),
        ("object=service", [3, 1, 0]),
        ("object=service:", []),
        ("from=2026-11-01T03:00:00Z", [4, 3]),
        ("actor=shell&object=target:web", [2]),
        ("action=%25", []),
    ],
)
def test_the_list_is_narrowed(written: Api, query: str, found: list[int]) -> None:
    assert hours(written, query) == found


def test_an_entry_tells_who_did_what_from_where_and_its_seal(written: Api, engine: Engine) -> None:
    shown = written("GET", "/v1/audit?object=target:web").get_json()["items"][0]
    assert shown | {"id": 1} == {
        "id": 1, "at": "2026-11-01T02:00:00Z", "actor": "shell:me", "action": "target.create", "object": "target:web",
        "source": "192.0.2.1", "request_id": None, "detail": {"hour": 2}, "seal": None,
    }  # fmt: skip
    in_transaction(engine, lambda session: seal(session, b"k" * 32, now=database_now(session)))
    assert written("GET", "/v1/audit?object=target:web").get_json()["items"][0]["seal"] > 0
    made = written("POST", "/v1/services", {"name": "db", "every": "5m"}, X_Request_ID="job-7")
    assert made.status_code == 201
    newest = written("GET", "/v1/audit?limit=1").get_json()["items"][0]
    assert (newest["object"], newest["request_id"]) == ("service:db", "job-7")
    assert newest["actor"].startswith("key:")


def test_pages_follow_each_other_whatever_is_written_meanwhile(written: Api, engine: Engine) -> None:
    seen: list[int] = []
    after = ""
    while True:
        page = written("GET", f"/v1/audit?to=2026-11-02T00:00:00Z&limit=2{after}").get_json()
        seen += [item["detail"]["hour"] for item in page["items"]]
        in_transaction(engine, lambda s: audit.append(
            s, now=START + timedelta(hours=4, minutes=1), actor=audit.MEDIC, action="a.b", object_kind="a", object_id=1,
        ))  # fmt: skip
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("after=x", "after"),
        ("after=MjAyNi0xMS0wMVQwMDowMDowMFogeA", "after"),
        ("from=soon", "from"),
        ("from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z", ""),
        ("format=xml", "format"),
        ("format=csv&limit=5", "format"),
        ("format=csv&after=x", "format"),
        ("who=me", "who"),
        ("actor=%00", "actor"),
    ],
)
def test_a_wrong_query_is_refused(written: Api, query: str, path: str) -> None:
    problem(written("GET", f"/v1/audit?{query}"), 422, path)


@pytest.mark.parametrize(("query", "accept"), [("&format=csv", "*/*"), ("", "text/csv")])
def test_csv_holds_all_that_fits_and_no_formula(
    written: Api, monkeypatch: pytest.MonkeyPatch, query: str, accept: str
) -> None:
    monkeypatch.setattr(audit_api, "CSV_PAGE", 2)
    response = written("GET", f"/v1/audit?to=2026-11-02T00:00:00Z{query}", Accept=accept)
    assert response.content_type == "text/csv; charset=utf-8; header=present"
    assert response.headers["Content-Disposition"] == 'attachment; filename="medic-audit.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text, newline=""), strict=True))
    assert [json.loads(row["detail"])["hour"] for row in rows] == [4, 3, 2, 1, 0]
    assert rows[0]["object"] == "service_x:a,b\r\nc"
    assert rows[4] | {"id": "1"} == {
        "id": "1", "at": format_time(START), "actor": "shell:me", "action": "service.create", "object": "service:web",
        "source": "192.0.2.1", "request_id": "", "detail": '{"hour": 0}', "seal": "",
    }  # fmt: skip


def test_an_export_that_breaks_off_says_so_in_its_last_row(
    written: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_api, "CSV_PAGE", 2)
    response = written.client.get(
        "/v1/audit?format=csv", headers={"Authorization": f"Bearer {written.key}"}, buffered=False
    )
    pages = iter(response.response)
    sent = [next(pages), next(pages)]
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_entries RENAME COLUMN detail TO elsewhere"))
    try:
        sent += pages
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE audit_entries RENAME COLUMN elsewhere TO detail"))
    response.close()
    rows = list(csv.reader(io.StringIO(b"".join(sent).decode(), newline="")))
    assert len(rows) == 4
    assert rows[3] == [audit_api.BROKE_OFF, *[""] * 8]


def test_a_formula_in_a_request_id_or_source_is_only_text(written: Api, engine: Engine) -> None:
    formula = '=HYPERLINK("http://x","y")'
    in_transaction(engine, lambda session: audit.append(
        session, now=START, actor=audit.Actor("shell", "me", source="@a", request_id=formula), action="a.b",
        object_kind="a", object_id="1",
    ))  # fmt: skip
    text_ = written("GET", "/v1/audit?format=csv&action=a.b").text
    (row,) = csv.DictReader(io.StringIO(text_, newline=""))
    assert (row["request_id"], row["source"]) == (f"'{formula}", "'@a")


def test_json_is_what_comes_when_both_will_do(written: Api) -> None:
    for accept in ("*/*", "application/json, text/csv;q=0.5", "text/html"):
        assert written("GET", "/v1/audit?limit=1", Accept=accept).is_json
    assert written("GET", "/v1/audit?limit=1&format=json", Accept="text/csv").is_json


def test_who_has_the_scope_and_is_not_narrowed_sees_it(api_with: MakeApi, outsider: Api) -> None:
    assert api_with("audit:read")("GET", "/v1/audit").status_code == 200
    problem(api_with("audit:read", patterns=["web"])("GET", "/v1/audit"), 403)
    problem(api_with("services:read")("GET", "/v1/audit?format=csv"), 403)
    problem(outsider("GET", "/v1/audit"), 401)


def test_health_tells_that_nothing_is_sealed_and_ready_does_not_mind(
    app: APIFlask, engine: Engine, settings: Settings
) -> None:
    def parts(made: APIFlask, path: str) -> Any:
        made.extensions.pop("medic.health", None)
        response = Api(made.test_client(), None)("GET", path)
        assert response.status_code == 200
        return response.get_json()["components"]

    assert parts(app, "/health")["audit"]["status"] == "ok"
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO audit_entries (at, actor_kind, actor, action, object_kind, object_id)"
                 " VALUES (now() - interval '5 minutes', 'shell', 'a', 'b.c', 'd', 'e')")
        )  # fmt: skip
    late = parts(app, "/health")["audit"]
    assert late["status"] == "degraded"
    assert "300 s" in late["detail"]
    assert "audit" not in parts(app, "/health/ready")
    bare = create_app(settings.model_copy(update={"audit_key": None}), engine=engine)
    assert parts(bare, "/health")["audit"]["status"] == "off"
