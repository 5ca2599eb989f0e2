"""What holds for every endpoint: a guard, a place in the document, a line in the docs, three kinds of callers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from apiflask import APIFlask

from medic.access import SCOPES
from medic.ratelimit.policy import RateClass
from medic_api.intake import read_json
from tests.api.caller import Api, MakeApi, problem

ROOT = Path(__file__).resolve().parents[2]
STATIC = {"static"}
UNDOCUMENTED = {"/", "/docs", "/docs/assets/{asset}", "/openapi.json", "/static/{filename}"}
OWN_PROOF = {"/v2/webhooks/playbooks/{playbook_id}/trigger", "/v1/slack/interactions"}
SAMPLES = {
    "name": "web", "key_id": "A" * 12, "alert_id": "7", "approval_id": "7", "delivery_id": "7", "trigger_id": "7", "token": "t" * 32, "asset": "swagger-ui.css",
    "mute_id": "7", "execution_id": "01890a5d-ac96-774b-bcce-b302099a8057", "filename": "console.js",
    "uuid": "01890a5d-ac96-474b-bcce-b302099a8057", "ping_key": "k" * 22, "slug": "web", "signal": "start",
    "heartbeat_name": "Web", "service_id": "7", "playbook_id": "7", "snapshot_id": "7", "slack_id": "U0123456789",
}  # fmt: skip


def operations(app: APIFlask) -> Iterator[tuple[str, str, Any]]:
    """Method, path and guard of everything that answers."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint in STATIC:
            continue
        path = re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, path, getattr(app.view_functions[rule.endpoint], "__medic_guard__", None)


def filled(path: str) -> str:
    return re.sub(r"{(\w+)}", lambda match: SAMPLES[match[1]], path)


def test_every_view_is_guarded(app: APIFlask) -> None:
    for method, path, guarded in operations(app):
        assert guarded is not None, f"{method} {path} has no guard"
        assert guarded.scope is None or guarded.scope in SCOPES
        assert guarded.rate_class in set(RateClass)


def test_every_operation_is_in_the_document(app: APIFlask, outsider: Api) -> None:
    document = outsider("GET", "/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    written = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in {"get", "put", "post", "delete"}
    }
    assert written == {(method, path) for method, path, _ in operations(app) if path not in UNDOCUMENTED}
    for method, path, guarded in operations(app):
        if path in UNDOCUMENTED:
            continue
        operation = document["paths"][path][method.lower()]
        assert operation["summary"]
        assert operation["security"] == ([{"bearer": []}] if guarded.scope else [])
        assert operation["x-rate-class"] == guarded.rate_class
        assert operation.get("x-scope") == guarded.scope
        for status, response in operation["responses"].items():
            assert response["description"]
            if path.startswith("/ping/"):
                assert list(response["content"]) == ["text/plain"]
            elif int(status) >= 400 and (status, path[:7]) != ("503", "/health"):
                assert list(response["content"]) == ["application/problem+json"]


def test_the_document_has_no_loose_ends(outsider: Api) -> None:
    response = outsider("GET", "/openapi.json")
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', response.text))
    schemas = response.get_json()["components"]["schemas"]
    assert references
    assert references <= set(schemas)


def test_the_docs_list_what_the_application_has(app: APIFlask) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+) (\S+)` \| (\S+) \| (\S+) \|", text, re.MULTILINE)
    written = {(method, path, scope.strip("`"), rate.strip("`")) for method, path, scope, rate in rows}
    assert len(written) == len(rows)
    assert written == {
        (method, path, guarded.scope or "open", guarded.rate_class)
        for method, path, guarded in operations(app)
    }


@pytest.mark.parametrize("key", [None, "mdk_wrong", "Basic"])
def test_an_outsider_gets_401_everywhere_that_is_not_open(app: APIFlask, key: str | None) -> None:
    for method, path, guarded in operations(app):
        response = Api(app.test_client(), key)(method, filled(path), raw=b"{not json")
        if guarded.scope is None:
            assert response.status_code < 500, path
        elif response.status_code != 429:  # an address that guesses too often is told to wait
            problem(response, 401)
            assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_without_the_scope_gets_403_everywhere(app: APIFlask, api_with: MakeApi) -> None:
    for method, path, guarded in operations(app):
        if guarded.scope is not None:
            other = "metrics:read" if guarded.scope != "metrics:read" else "heartbeats:write"
            body = problem(api_with(other)(method, filled(path), raw=b"{not json"), 403)
            assert guarded.scope in body["detail"]


def test_an_admin_passes_every_guard(app: APIFlask, admin: Api) -> None:
    for method, path, _ in operations(app):
        response = admin(method, filled(path), raw=b"{not json")
        assert response.status_code not in {401, 403} or path in OWN_PROOF, f"{method} {path}"
        assert response.status_code < 500, f"{method} {path}: {response.text}"


def test_every_answer_carries_the_security_headers(app: APIFlask, outsider: Api) -> None:
    for path in ("/", "/docs", "/openapi.json", "/health/live", "/v1/services", "/nothing"):
        headers = outsider("GET", path).headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'self';" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


def test_a_request_id_is_echoed_if_it_is_one_and_made_if_not(outsider: Api) -> None:
    assert outsider("GET", "/v1/services", X_Request_ID="job-7.a_B").headers["X-Request-ID"] == "job-7.a_B"
    made = outsider("GET", "/v1/services", X_Request_ID="a b\tc")
    assert made.headers["X-Request-ID"] == made.get_json()["request_id"]
    assert made.headers["X-Request-ID"] != "a b\tc"


def test_pages_hold_no_inline_script(outsider: Api) -> None:
    for path in ("/", "/docs"):
        text = outsider("GET", path).text
        assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
        assert re.findall(r"\son\w+=", text) == []
        assert "//" not in re.sub(r"<!DOCTYPE html>", "", text).replace("http://www.w3.org", "")
        for asset in re.findall(r'(?:src|href)="(/(?:static|docs/assets)/[^"]+)"', text):
            assert outsider("GET", asset).status_code == 200, asset


def test_the_page_makes_text_and_never_markup() -> None:
    for script in (ROOT / "medic_api" / "static").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        for danger in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "localStorage",
        ):
            assert danger not in text, script.name


def test_a_method_or_address_that_is_not_there_is_a_problem(admin: Api) -> None:
    assert problem(admin("PATCH", "/v1/services/web"), 405)["code"] == "method_not_allowed"
    assert "PUT" in admin("PATCH", "/v1/services/web").headers["Allow"]
    for path in (
        "/v1/nothing",
        "/v1/services/UPPER",
        "/v1/alerts/0",
        f"/v1/alerts/{2**63}",
        "/v1/executions/7",
    ):
        problem(admin("GET", path), 404)


def test_every_operation_shows_what_it_takes_and_what_it_answers(app: APIFlask, outsider: Api) -> None:
    document = outsider("GET", "/openapi.json").get_json()
    for method, path, _ in operations(app):
        if path in UNDOCUMENTED:
            continue
        operation = document["paths"][path][method.lower()]
        answers = [found for status, found in operation["responses"].items() if int(status) < 300]
        assert answers, f"{method} {path} never goes well"
        for part in (operation.get("requestBody"), *answers):
            for kind, content in ((part or {}).get("content") or {}).items():
                assert "example" in content, f"{method} {path} has no example of its {kind}"
                schema = content["schema"] | {"components": document["components"]}
                jsonschema.Draft202012Validator(schema).validate(content["example"])


def test_what_the_document_shows_as_a_request_is_read(app: APIFlask, outsider: Api) -> None:
    document = outsider("GET", "/openapi.json").get_json()
    seen = 0
    for rule in app.url_map.iter_rules():
        model = getattr(app.view_functions[rule.endpoint], "_spec", {}).get("body")
        path = re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"} if model else ():
            content = document["paths"][path][method.lower()]["requestBody"]["content"]
            read_json(model, json.dumps(content["application/json"]["example"]).encode())
            seen += 1
    assert seen >= 30
