"""/v1/heartbeats/{service}…: the same heartbeats, for what only calls URLs."""

from __future__ import annotations

import pytest

from tests.api.caller import Api, MakeApi, problem


def last(api: Api, name: str = "web") -> dict[str, object]:
    shown: dict[str, object] = api("GET", f"/v1/services/{name}/heartbeats").get_json()["items"][0]
    return shown


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "kind", "exit_code"),
    [("", "ok", None), ("/start", "start", None), ("/complete", "complete", None), ("/fail", "fail", None),
     ("/log", "log", None), ("/0", "complete", 0), ("/3", "fail", 3), ("/255", "fail", 255)],
)  # fmt: skip
def test_each_form_says_what_it_says(
    web: Api, method: str, path: str, kind: str, exit_code: int | None
) -> None:
    response = web(method, f"/v1/heartbeats/web{path}")
    assert response.status_code == 202
    assert response.get_json()["service"] == "web"
    shown = last(web)
    assert (shown["id"], shown["kind"], shown["exit_code"]) == (response.get_json()["id"], kind, exit_code)


def test_head_is_a_heartbeat_too(web: Api) -> None:
    response = web("HEAD", "/v1/heartbeats/web/fail")
    assert (response.status_code, response.data) == (202, b"")
    assert last(web)["kind"] == "fail"


def test_query_and_body_are_kept(web: Api) -> None:
    web("POST", "/v1/heartbeats/web/0?run_id=r1&duration_ms=1500", raw="größer\0 \xff".encode("latin-1"))
    shown = last(web)
    assert (shown["run_id"], shown["duration_ms"]) == ("r1", 1500)
    assert shown["message"] == "gr\ufffd\ufffder\ufffd \ufffd"
    web("GET", "/v1/heartbeats/web/start?rid=r2")
    assert last(web)["run_id"] == "r2"
    cut = web("POST", "/v1/heartbeats/web", raw=b"x" * 12_000)
    assert cut.get_json()["message_cut"] is True
    assert last(web)["message"] == "x" * 10_000


def test_an_id_makes_a_repeat_harmless(web: Api) -> None:
    codes = [web("GET", "/v1/heartbeats/web?id=a").status_code for _ in range(2)]
    assert codes == [202, 200]
    assert len(web("GET", "/v1/services/web/heartbeats").get_json()["items"]) == 1


def test_what_is_wrong_is_told_and_stores_nothing(web: Api) -> None:
    problem(web("GET", "/v1/heartbeats/web?run=r"), 422, "run")
    problem(web("GET", "/v1/heartbeats/web?duration_ms=x"), 422, "duration_ms")
    problem(web("GET", "/v1/heartbeats/web?rid=a&run_id=b"), 422, "rid")
    problem(web("GET", "/v1/heartbeats/web/256"), 404)
    problem(web("GET", "/v1/heartbeats/web/-1"), 404)
    problem(web("GET", "/v1/heartbeats/web/begin"), 404)
    problem(web("GET", "/v1/heartbeats/batch"), 404)
    problem(web("POST", "/v1/heartbeats/web", raw=b"x" * 1_048_577), 413)
    assert web("GET", "/v1/services/web/heartbeats").get_json()["items"] == []


def test_an_unknown_service_is_made_where_the_key_may(web: Api, api_with: MakeApi) -> None:
    sender = api_with("heartbeats:write")
    problem(sender("GET", "/v1/heartbeats/job"), 404)
    problem(sender("GET", "/v1/heartbeats/job?create=1"), 403)
    assert web("GET", "/v1/heartbeats/job/start?create=1&every=10m").status_code == 202
    assert web("GET", "/v1/services/job").get_json()["every"] == "10m"
    assert sender("GET", "/v1/heartbeats/job").status_code == 202


def test_the_key_decides(web: Api, api_with: MakeApi, outsider: Api) -> None:
    problem(outsider("GET", "/v1/heartbeats/web"), 401)
    problem(api_with("services:read")("GET", "/v1/heartbeats/web"), 403)
    problem(api_with("heartbeats:write", patterns=["db-*"])("POST", "/v1/heartbeats/web/fail"), 403)
    assert api_with("heartbeats:write", patterns=["w*"])("GET", "/v1/heartbeats/web").status_code == 202
