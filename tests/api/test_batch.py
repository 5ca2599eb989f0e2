"""POST /v1/heartbeats/batch: each item is judged and answered by itself."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, text

from medic.errors import Malformed, TooLarge
from medic_api.batch_body import unpack
from tests.api.caller import Api, MakeApi, problem

BATCH = "/v1/heartbeats/batch"


def stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM heartbeats")).scalar_one())


def make(admin: Api, *names: str) -> None:
    for name in names:
        assert admin("POST", "/v1/services", {"name": name, "every": "5m"}).status_code == 201


def statuses(response: Any) -> list[int]:
    return [item["status"] for item in response.get_json()["items"]]


def test_an_array_is_stored_in_its_order(web: Api, engine: Engine) -> None:
    make(web, "db")
    items = [{"service": name, "message": str(n)} for n, name in enumerate(["web", "db", "web"])]
    response = web("POST", BATCH, items)
    assert response.status_code == 202
    body = response.get_json()
    assert (body["stored"], body["repeated"], body["refused"]) == (3, 0, 0)
    assert [item["service"] for item in body["items"]] == ["web", "db", "web"]
    with engine.connect() as connection:
        rows: dict[int, str] = dict(connection.execute(text("SELECT id, message FROM heartbeats")).all())
    assert [rows[item["id"]] for item in body["items"]] == ["0", "1", "2"]


def test_ndjson_is_read_line_by_line(web: Api, engine: Engine) -> None:
    raw = b'{"service": "web"}\r\n\n{"service": "web", "status": "fail"}\n{not json\n'
    response = web("POST", BATCH, raw=raw, Content_Type="application/x-ndjson")
    assert response.status_code == 207
    assert statuses(response) == [202, 202, 400]
    assert stored(engine) == 2


def test_one_bad_item_rejects_itself_and_not_its_neighbours(
    web: Api, api_with: MakeApi, engine: Engine
) -> None:
    make(web, "db")
    bad: list[tuple[Any, int, str]] = [
        ({"service": "web", "staus": "ok"}, 422, "staus"),
        ({"service": "WEB"}, 422, "service"),
        ("web", 422, ""),
        (None, 422, ""),
        ({"service": "nobody"}, 404, "nobody"),
        ({"service": "db"}, 403, "db"),
        ({"service": "web", "occurred_at": "2999-01-01T00:00:00Z"}, 422, "occurred_at"),
        # No field is wrong by itself; the start that it would have is no time of PostgreSQL.
        ({"service": "web", "run_id": "r", "status": "complete", "duration_ms": 2**53}, 422, "stored"),
    ]
    items: list[Any] = [{"service": "web", "id": "first"}]
    for item, _, _ in bad:
        items += [item, {"service": "web"}]
    response = api_with("heartbeats:write", patterns=["web", "nobody"])("POST", BATCH, items)
    assert response.status_code == 207
    shown = response.get_json()["items"]
    for (_, status, word), item in zip(bad, shown[1::2], strict=True):
        assert (item["status"], item["id"]) == (status, None)
        assert item["code"]
        assert word in item["detail"]
    assert {item["status"] for item in shown[::2]} == {202}
    assert stored(engine) == len(bad) + 1


def test_a_text_that_cannot_be_read_rejects_its_item_alone(web: Api, engine: Engine) -> None:
    raw = b'[{"service": "web", "message": "\\ud800"}, {"service": "web"}]'
    response = web("POST", BATCH, raw=raw)
    assert statuses(response) == [400, 202]
    assert stored(engine) == 1


def test_a_repeat_is_told_from_what_is_new(web: Api, engine: Engine) -> None:
    items = [{"service": "web", "id": f"a{n}"} for n in range(150)]
    first = web("POST", BATCH, items).get_json()
    again = web("POST", BATCH, [*items, {"service": "web", "id": "a150"}, {"service": "web", "id": "a150"}])
    assert again.status_code == 202
    body = again.get_json()
    assert (body["stored"], body["repeated"]) == (1, 151)
    assert [item["id"] for item in body["items"][:150]] == [item["id"] for item in first["items"]]
    assert body["items"][150]["id"] == body["items"][151]["id"]
    assert stored(engine) == 151


def test_none_stored_is_an_error(web: Api, engine: Engine) -> None:
    body = problem(web("POST", BATCH, [{"service": "web", "x": 1}, {"service": 7}]), 422)
    assert [found["path"] for found in body["problems"]] == ["0", "1"]
    problem(web("POST", BATCH, [{"service": "nobody"}]), 404)
    problem(web("POST", BATCH, []), 422)
    problem(web("POST", BATCH, raw=b""), 422)
    problem(web("POST", BATCH, raw=b"[{"), 400)
    problem(web("POST", BATCH, raw=b"[" * 100_000), 400)
    assert stored(engine) == 0


def test_ten_thousand_are_taken_and_one_more_is_not(app: APIFlask, web: Api, engine: Engine) -> None:
    names = [f"s{n}" for n in range(200)]
    with engine.begin() as connection:
        connection.execute(
            text("WITH made AS (INSERT INTO services (uuid, name, every_s)"
                 " SELECT gen_random_uuid(), n, 60 FROM unnest(CAST(:names AS text[])) n RETURNING id)"
                 " INSERT INTO service_states (service_id, due_at) SELECT id, now() FROM made"),
            {"names": names},
        )  # fmt: skip
    items = [{"service": names[n % 200], "id": str(n)} for n in range(10_000)]
    problem(web("POST", BATCH, [*items, items[0]]), 413)
    lines = b"\n".join(json.dumps(item).encode() for item in [*items, items[0]])
    problem(web("POST", BATCH, raw=lines), 413)
    assert stored(engine) == 0
    assert web("POST", BATCH, items).status_code == 202
    assert stored(engine) == 10_000


def test_gzip_is_unpacked_and_bounded(web: Api, engine: Engine) -> None:
    raw = json.dumps([{"service": "web"}] * 3).encode()
    packed = gzip.compress(raw[:10]) + gzip.compress(raw[10:])  # of two members, as some tools write it
    assert web("POST", BATCH, raw=packed, Content_Encoding="gzip").status_code == 202
    bomb = gzip.compress(b" " * (33 * 1_048_576))
    assert len(bomb) < 100_000
    began = time.monotonic()
    problem(web("POST", BATCH, raw=bomb, Content_Encoding="gzip"), 413)
    assert time.monotonic() - began < 5
    problem(web("POST", BATCH, raw=packed[:-5], Content_Encoding="gzip"), 400)
    problem(web("POST", BATCH, raw=raw, Content_Encoding="gzip"), 400)
    problem(web("POST", BATCH, raw=raw, Content_Encoding="br"), 415)
    assert stored(engine) == 3


def test_unpacking_stops_at_the_limit_over_all_members() -> None:
    member = gzip.compress(b"x" * 600)
    assert unpack(member + b"\0" * 512, limit=600) == b"x" * 600
    with pytest.raises(TooLarge):
        unpack(member * 2, limit=1000)
    with pytest.raises(Malformed):
        unpack(zlib.compress(b"x"), limit=1000)


def test_a_batch_may_be_larger_than_other_bodies_up_to_16_mib(web: Api, engine: Engine) -> None:
    items = [{"service": "web", "message": "x" * 9000} for _ in range(300)]
    assert len(json.dumps(items)) > 2 * 1_048_576
    assert web("POST", BATCH, items).status_code == 202
    body = problem(web("POST", BATCH, raw=b" " * (16 * 1_048_576 + 1)), 413)
    assert "16 MiB" in body["detail"]
    assert stored(engine) == 300


def test_what_is_beyond_a_services_limit_is_told_to_wait(
    app: APIFlask, web: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from medic.ratelimit import limiter_from

    shared = app.extensions["medic"]
    tight = shared.settings.model_copy(update={"rate_limit_heartbeat": 40, "rate_limiter_type": "memory"})
    app.extensions["medic"] = replace(shared, limiter=limiter_from(tight))
    make(web, "db")
    response = web("POST", BATCH, [{"service": "web"}] * 25 + [{"service": "db"}] * 5)
    # 20 of a service at once, and 20 + 2 x 10 of a key for two services.
    assert statuses(response) == [202] * 20 + [429] * 5 + [202] * 5
    assert stored(engine) == 25
    refused = web("POST", BATCH, [{"service": "web"}] * 5)
    problem(refused, 429)
    assert int(refused.headers["Retry-After"]) >= 1


def test_a_large_batch_does_not_hold_up_a_single_heartbeat(app: APIFlask, web: Api, engine: Engine) -> None:
    make(web, "db")
    with engine.connect() as blocker, blocker.begin():
        # The batch waits in its lane for this row.
        blocker.execute(
            text(
                "SELECT 1 FROM service_states t JOIN services s ON s.id = t.service_id WHERE s.name = 'db' FOR UPDATE"
            )
        )
        with ThreadPoolExecutor(1) as pool:
            began = threading.Event()

            def send() -> int:
                client = Api(app.test_client(), web.key)
                began.set()
                return client("POST", BATCH, [{"service": "db"}] * 101).status_code

            waiting = pool.submit(send)
            began.wait(5)
            assert web("POST", "/v1/heartbeats", {"service": "web"}).status_code == 202
            assert not waiting.done()
            blocker.rollback()
            assert waiting.result() == 202
    assert stored(engine) == 102


def test_large_batches_leave_threads_to_the_rest(app: APIFlask, web: Api, engine: Engine) -> None:
    room = app.extensions["medic"].large_batches
    places = 0
    while room.acquire(blocking=False):
        places += 1
    try:
        assert 1 <= places <= app.extensions["medic"].settings.api_threads // 2
        large = [{"service": "web", "message": "x" * 5000}] * 20
        refused = web("POST", BATCH, large)
        problem(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        packed = gzip.compress(json.dumps(large).encode())
        problem(web("POST", BATCH, raw=packed, Content_Encoding="gzip"), 503)
        assert web("POST", BATCH, [{"service": "web"}] * 20).status_code == 202
        assert stored(engine) == 20
    finally:
        room.release(places)
    assert web("POST", BATCH, raw=packed, Content_Encoding="gzip").status_code == 202
    assert [web("POST", BATCH, large).status_code for _ in range(places + 2)] == [202] * (places + 2)


def test_without_the_scope_nothing_is_read(
    web: Api, api_with: MakeApi, outsider: Api, engine: Engine
) -> None:
    problem(outsider("POST", BATCH, [{"service": "web"}]), 401)
    problem(api_with("services:write")("POST", BATCH, [{"service": "web"}]), 403)
    problem(api_with("heartbeats:write", patterns=["db-*"])("POST", BATCH, [{"service": "web"}]), 403)
    assert stored(engine) == 0
