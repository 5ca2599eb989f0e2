"""The document against the application: whatever Schemathesis makes of it, nothing answers 5xx."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from apiflask import APIFlask
from hypothesis import HealthCheck, Phase, Verbosity, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.api.caller import Api

PER_OPERATION = 5
PER_WAY_IN = 50
WAYS_IN = {
    "POST /v1/heartbeats", "POST /v1/heartbeats/batch", "POST /heartbeat", "POST /v2/heartbeat/{service_id}/{signal}",
    *(f"{method} {path}"
      for method in ("GET", "POST")
      for path in ("/v1/heartbeats/{name}", "/v1/heartbeats/{name}/{signal}", "/ping/{uuid}", "/ping/{uuid}/{signal}",
                   "/ping/{ping_key}/{slug}", "/ping/{ping_key}/{slug}/{signal}")),
}  # fmt: skip


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the settings are read: a ping URL may be called as often as the rest."""
    monkeypatch.setenv("RATE_LIMIT_PING_REQUESTS", "100000")


def test_nothing_in_the_document_leads_to_a_5xx(app: APIFlask, restart: Api) -> None:
    called: dict[str, set[int]] = {}
    reached = 0
    for operation in _operations(app):
        if operation.label == "DELETE /v1/keys/{key_id}":
            continue  # it may end the very key that this runs with
        reached += 1

        @_settings(PER_OPERATION)
        @given(case=st.one_of(operation.as_strategy(), _negative(operation)))
        def check(case: schemathesis.Case) -> None:
            _call(case, restart, called)

        check()
    assert len(called) == reached
    # Not everything was refused at the door.
    assert sum(1 for codes in called.values() if codes & {200, 201, 202, 204}) >= 12, called


def test_no_heartbeat_leads_to_a_5xx_whichever_way_it_comes(app: APIFlask, web: Api) -> None:
    """Longer than the rest, and for services that are there: what is refused at the door proves little."""
    shown = web("GET", "/v1/services/web").get_json()
    assert web("PUT", "/v1/teams/ops", {}).status_code == 201
    assert web("POST", "/v1/services", {"name": "db", "every": "5m", "team": "ops"}).status_code == 201
    there = {
        "name": "web", "service": "web", "heartbeat_name": "Web", "service_id": shown["id"], "slug": "db",
        "uuid": urlsplit(shown["ping_url"]).path.removeprefix("/ping/"),
        "ping_key": web("POST", "/v1/teams/ops/ping-key").get_json()["ping_key"],
    }  # fmt: skip
    for url in (f"/ping/{there['uuid']}", f"/ping/{there['ping_key']}/db"):
        assert web("GET", url).status_code == 200  # known before the strangers come, so never taken for one
    called: dict[str, set[int]] = {}
    ways = [operation for operation in _operations(app) if operation.label in WAYS_IN]
    assert {way.label for way in ways} == WAYS_IN
    for way in ways:

        @_settings(PER_WAY_IN)
        @given(
            case=st.one_of(way.as_strategy(), _negative(way)),
            is_there=st.sampled_from((True, True, True, False)),
        )
        def check(case: schemathesis.Case, is_there: bool) -> None:
            if is_there:
                _fill(case.path_parameters, there)
                for item in case.body if isinstance(case.body, list) else [case.body]:
                    _fill(item, there)
            _call(case, web, called)

        check()
    for label, codes in called.items():
        assert codes & {200, 202, 201}, f"{label} stored nothing: {codes}"
        assert codes & {400, 404, 422}, f"{label} refused nothing: {codes}"
    assert 207 in called["POST /v1/heartbeats/batch"]


def _operations(app: APIFlask) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    return [found.ok() for found in schema.get_all_operations()]


def _settings(examples: int) -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        phases=[Phase.explicit, Phase.generate], verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def _call(case: schemathesis.Case, api: Api, called: dict[str, set[int]]) -> None:
    response = case.call(headers={"Authorization": f"Bearer {api.key}"})
    called.setdefault(case.operation.label, set()).add(response.status_code)
    assert response.status_code < 500 or case.path.startswith("/health"), (
        case.as_curl_command(), response.text,
    )  # fmt: skip


def _fill(part: Any, there: dict[str, Any]) -> None:
    """Name what is there wherever something is named."""
    if isinstance(part, dict):
        part |= {name: value for name, value in there.items() if name in part}


def _negative(operation: schemathesis.schemas.APIOperation) -> st.SearchStrategy[schemathesis.Case]:
    from schemathesis.generation import GenerationMode

    return operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
