"""/v1/deliveries: every key sees the deliveries of its own services."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.api.caller import Api, MakeApi, problem

SEEN = ["services:read"]


@pytest.fixture
def told(engine: Engine, web: Api) -> dict[str, int]:
    """Deliveries of alerts of two services to two targets, and a notice."""
    assert web("POST", "/v1/services", {"name": "db", "every": "5m"}).status_code == 201
    with engine.begin() as connection:

        def one(sql: str, **values: Any) -> int:
            found: int = connection.execute(text(sql), values).scalar_one()
            return found

        ids: dict[str, int] = {}
        for target in ("ops", "lead"):
            ids[target] = one(
                "INSERT INTO targets (name, kind) VALUES (:name, 'webhook') RETURNING id", name=target
            )
        for service in ("web", "db"):
            ids[service] = one(
                "INSERT INTO alerts (service_id, service_name, priority, reasons, opened_at, detected_at)"
                " SELECT id, name, 'p1', '{missed}', now(), now() FROM services WHERE name = :name RETURNING id",
                name=service,
            )
            for target in ("ops", "lead"):
                one(
                    "INSERT INTO deliveries (uuid, target_id, alert_id, kind, due_at, created_at)"
                    " VALUES (gen_random_uuid(), :target, :alert, 'opened', now(), now()) RETURNING id",
                    target=ids[target], alert=ids[service],
                )  # fmt: skip
        one(
            "INSERT INTO deliveries (uuid, target_id, kind, state, created_at, finished_at, error)"
            " VALUES (gen_random_uuid(), :target, 'notice', 'failed', now(), now(), 'no answer') RETURNING id",
            target=ids["lead"],
        )
    return ids


def listed(caller: Api, query: str = "") -> list[tuple[str, str | None, str | None]]:
    answer = caller("GET", f"/v1/deliveries{query}")
    assert answer.status_code == 200, answer.text
    return [(item["kind"], item["service"], item["target"]) for item in answer.get_json()["items"]]


def test_the_list_shows_the_newest_first_and_takes_filters(admin: Api, told: dict[str, int]) -> None:
    assert listed(admin) == [
        ("notice", None, "lead"),
        ("opened", "db", "lead"), ("opened", "db", "ops"), ("opened", "web", "lead"), ("opened", "web", "ops"),
    ]  # fmt: skip
    assert listed(admin, f"?alert={told['web']}&target=ops") == [("opened", "web", "ops")]
    assert listed(admin, "?state=failed") == [("notice", None, "lead")]
    assert listed(admin, "?target=nobody") == []
    (failed,) = admin("GET", "/v1/deliveries?state=failed").get_json()["items"]
    assert (failed["error"], failed["tries"], failed["due_at"], failed["route"]) == (
        "no answer",
        0,
        None,
        None,
    )
    assert "payload" not in failed


def test_the_pages_hold_each_delivery_once(admin: Api, told: dict[str, int]) -> None:
    seen: list[int] = []
    after = ""
    while True:
        page = admin("GET", f"/v1/deliveries?limit=2{after}").get_json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)


def test_a_narrow_key_sees_its_own_services_only(api_with: MakeApi, told: dict[str, int]) -> None:
    narrow = api_with(*SEEN, patterns=["web*"])
    assert listed(narrow) == [("opened", "web", "lead"), ("opened", "web", "ops")]
    assert listed(narrow, f"?alert={told['db']}") == []
    assert listed(api_with(*SEEN, patterns=["x"])) == []


def test_a_delivery_is_shown_to_whom_it_belongs_with_what_the_target_answered(
    admin: Api, api_with: MakeApi, told: dict[str, int], engine: Engine
) -> None:
    (one,) = admin("GET", f"/v1/deliveries?alert={told['web']}&target=ops").get_json()["items"]
    assert one["receipt"] is None
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE deliveries SET receipt = CAST(:receipt AS jsonb) WHERE id = :id"),
            {
                "id": one["id"],
                "receipt": '{"dedup_key": "medic-alert-7", "url": "https://u:p@x.example.com/",'
                ' "refused": {"a@example.com": "550 token=hunter2hunter2"}}',
            },
        )
    path = f"/v1/deliveries/{one['id']}"
    shown = admin("GET", path).get_json()
    assert shown["receipt"] == {
        "dedup_key": "medic-alert-7",
        "refused": {"a@example.com": "550 token=[redacted]"},
    }
    assert api_with(*SEEN, patterns=["web*"])("GET", path).get_json() == shown
    problem(api_with(*SEEN, patterns=["db"])("GET", path), 404)
    problem(admin("GET", "/v1/deliveries/999999"), 404)
    notice = admin("GET", "/v1/deliveries?state=failed").get_json()["items"][0]["id"]
    problem(api_with(*SEEN, patterns=["web*"])("GET", f"/v1/deliveries/{notice}"), 404)


def test_an_outsider_sees_nothing(outsider: Api, api_with: MakeApi) -> None:
    problem(outsider("GET", "/v1/deliveries"), 401)
    problem(api_with("heartbeats:write")("GET", "/v1/deliveries"), 403)


def test_a_filter_that_is_none_is_refused(admin: Api) -> None:
    problem(admin("GET", "/v1/deliveries?state=lost"), 422, "state")
    problem(admin("GET", "/v1/deliveries?alert=0"), 422, "alert")
    problem(admin("GET", "/v1/deliveries?after=x"), 422, "after")
