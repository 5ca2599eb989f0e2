"""Inbound hooks by API: proofs, what a body says, groups of Alertmanager, repeats, and bodies that nobody meant."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from apiflask import APIFlask
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from medic import hook_store
from medic.crypto.key_ring import KeyRing
from medic.crypto.signatures import sign_webhook, webhook_key
from medic.db import in_transaction
from medic.errors import Misconfigured
from tests.api.caller import Api, problem

FIX = """\
name: fix
variables: {HOST: w1, NOTE: none}
steps:
  - {name: pause, type: wait, duration: 1m}
"""
MAPPING = {"HOST": "commonLabels.host", "NOTE": "/alerts/0/annotations/a~1b"}
GROUP: dict[str, Any] = {
    "version": "4", "groupKey": '{}:{alertname="Disk"}', "status": "firing", "receiver": "medic",
    "commonLabels": {"host": "w7", "service": "web"},
    "alerts": [{"status": "firing", "annotations": {"a/b": "full"}}, {"status": "firing"}],
}  # fmt: skip


@dataclass
class Caller:
    """Another system that was told a hook's address and secret."""

    api: Api
    path: str
    secret: str
    trigger_id: int

    def __call__(self, body: Any = None, *, raw: bytes | None = None, **headers: str) -> TestResponse:
        sent = {"Authorization": f"Bearer {self.secret}", **headers}
        return self.api("POST", self.path, body, raw=raw, **sent)

    def signed(self, body: bytes, *, message_id: str, at: int | None = None, **headers: str) -> TestResponse:
        key = webhook_key(SecretStr(self.secret))
        names = sign_webhook([key], message_id=message_id, timestamp=at or int(time.time()), body=body)
        sent = {name.replace("-", "_"): value for name, value in names.items()}
        return self.api("POST", self.path, raw=body, **{**sent, **headers})


@pytest.fixture
def owner(web: Api) -> Api:
    """The admin, with a service ``web`` and a playbook ``fix``."""
    assert web.put_yaml("/v1/playbooks/fix", FIX).status_code == 201
    return web


def hook(owner: Api, **more: Any) -> Caller:
    body = {"playbook": "fix", "kind": "hook", **more}
    answer = owner("POST", "/v1/triggers", body)
    assert answer.status_code == 201, answer.text
    made = answer.get_json()
    path = "/v1/hooks/" + made["hook_url"].rpartition("/")[2]
    return Caller(Api(owner.client, None), path, made["hook_secret"], made["id"])


def status(response: TestResponse) -> tuple[int, str, int]:
    answer = response.get_json()
    return response.status_code, answer["status"], len(answer["executions"])


def execution(owner: Api, response: TestResponse) -> dict[str, Any]:
    (found,) = response.get_json()["executions"]
    shown: dict[str, Any] = owner("GET", f"/v1/executions/{found}").get_json()
    return shown


def count(owner: Api) -> int:
    return len(owner("GET", "/v1/executions").get_json()["items"])


def test_a_call_starts_the_playbook_with_values_of_its_body(owner: Api) -> None:
    call = hook(owner, mapping=MAPPING, service="web")
    response = call(GROUP)
    assert status(response) == (202, "started", 1)
    found = execution(owner, response)
    assert (found["playbook"], found["service"], found["started_by"]) == (
        "fix",
        "web",
        f"hook:{call.trigger_id}",
    )
    variables = found["variables"]
    assert (variables["HOST"], variables["NOTE"], variables["trigger"]) == ("w7", "full", "webhook")


def test_what_the_body_lacks_is_the_playbooks_default_or_an_error_that_names_it(owner: Api) -> None:
    call = hook(owner, mapping={"HOST": "host"})
    assert execution(owner, call(raw=b""))["variables"]["HOST"] == "w1"
    assert execution(owner, call({"host": ["a", {"b": None}]}))["variables"]["HOST"] == ["a", {"b": None}]
    needs = FIX.replace("HOST: w1", "HOST: {required: true}")
    owner.put_yaml("/v1/playbooks/fix", needs)
    assert "needs it as HOST" in problem(call({}), 422, "host")["detail"]
    problem(call({"host": "a" * 70_000}), 422, "variables")
    problem(call({"host": "a\x00b"}), 422, "host")
    # A version that declares it no more is not given it.
    owner.put_yaml("/v1/playbooks/fix", FIX.replace("HOST: w1, ", ""))
    assert "HOST" not in execution(owner, call({"host": "w9"}))["variables"]


def test_the_body_may_name_the_service_within_the_pattern(owner: Api) -> None:
    owner("POST", "/v1/services", {"name": "db", "every": "5m"})
    call = hook(owner, service_from="commonLabels.service", service_pattern="web*")
    assert execution(owner, call({"commonLabels": {"service": "WEB"}}))["service"] == "web"
    for wrong in ("db", "webs", "", None, 7, "a\x00"):
        problem(call({"commonLabels": {"service": wrong}}), 422)
    assert count(owner) == 1


def test_a_call_without_the_proof_starts_nothing(owner: Api) -> None:
    call = hook(owner)
    for wrong in (
        "",
        "Bearer ",
        "Bearer nonsense",
        f"Basic {call.secret}",
        f"Bearer {call.secret}x",
        "Bearer ü",
    ):
        refused = call.api("POST", call.path, GROUP, Authorization=wrong)
        problem(refused, 401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert count(owner) == 0
    assert status(call(GROUP)) == (202, "started", 1)


def test_a_signature_is_over_the_raw_bytes_and_the_time(owner: Api) -> None:
    call = hook(owner, verification="standard_webhooks")
    body = b'{ "a":1.0 }'
    assert call.signed(body, message_id="m1").status_code == 202
    now = int(time.time())
    problem(call.signed(body, message_id="m2", at=now - 301), 401)
    problem(call.signed(body, message_id="m2", at=now + 301), 401)
    problem(call.signed(body, message_id="m2", webhook_id="m3"), 401)
    key = webhook_key(SecretStr(call.secret))
    names = sign_webhook([key], message_id="m2", timestamp=now, body=body)
    sent = {name.replace("-", "_"): value for name, value in names.items()}
    problem(call.api("POST", call.path, raw=b'{"a":1.0}', **sent), 401)
    problem(call(json.loads(body)), 401)
    assert count(owner) == 1


def test_a_message_that_comes_again_starts_nothing_more(owner: Api) -> None:
    signed = hook(owner, verification="standard_webhooks")
    first = signed.signed(b"{}", message_id="m1")
    # Only the signed id counts: with a header of his own a thief could replay what he saw.
    again = signed.signed(b"{}", message_id="m1", Idempotency_Key="another")
    assert (status(first), status(again)) == ((202, "started", 1), (200, "already", 1))
    assert again.get_json()["executions"] == first.get_json()["executions"]
    problem(signed.signed(b'{"a": 1}', message_id="m1"), 422, "Idempotency-Key")
    bearer = hook(owner)
    assert [status(bearer({}, Idempotency_Key="m1"))[1] for _ in range(2)] == ["started", "already"]
    assert [status(bearer({}, webhook_id="m2"))[1] for _ in range(2)] == ["started", "already"]
    problem(bearer({}, Idempotency_Key="a b"), 422, "Idempotency-Key")
    assert count(owner) == 3


def test_a_group_of_alertmanager_is_one_execution_until_it_is_over(owner: Api, engine: Engine) -> None:
    call = hook(owner)
    assert status(call(GROUP)) == (202, "started", 1)
    # More alerts in it, another Alertmanager that tells of it, a repeat after four hours.
    assert status(call(GROUP | {"alerts": GROUP["alerts"] * 3})) == (200, "already", 0)
    assert status(call(GROUP | {"groupKey": "another"})) == (202, "started", 1)
    assert status(call(GROUP | {"status": "resolved"})) == (200, "ignored", 0)
    assert status(call(GROUP | {"status": "resolved", "groupKey": "unheard of"})) == (200, "ignored", 0)
    assert status(call(GROUP)) == (202, "started", 1)
    assert count(owner) == 3
    with engine.connect() as connection:
        unanswered = "SELECT action FROM audit_entries WHERE action ~ '^hook[.]' ORDER BY id"
        kept = connection.execute(text(unanswered)).scalars().all()
    assert kept == ["hook.already", "hook.ignored", "hook.ignored"]
    with engine.begin() as connection:
        connection.execute(text("UPDATE hook_groups SET heard_at = heard_at - interval '25 hours'"))
    assert status(call(GROUP)) == (202, "started", 1)


def test_several_alertmanagers_that_tell_of_a_group_at_once_start_one_execution(owner: Api) -> None:
    call = hook(owner)
    app = call.api.client.application
    gate = threading.Barrier(4)
    answers: list[str] = []

    def tell() -> None:
        mine = replace(call, api=Api(app.test_client(), None))
        gate.wait()
        answers.append(status(mine(GROUP))[1])

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["already", "already", "already", "started"]
    assert count(owner) == 1


def test_the_end_of_a_group_starts_the_playbook_once_where_that_is_asked_for(owner: Api) -> None:
    call = hook(owner, on_resolved=True)
    over = GROUP | {"status": "resolved"}
    assert [status(call(body))[1] for body in (GROUP, over, over, GROUP)] == [
        "started", "started", "already", "started"
    ]  # fmt: skip


def test_repeat_every_starts_again_while_a_group_fires(owner: Api, engine: Engine) -> None:
    call = hook(owner, repeat_every="5m")
    assert [status(call(GROUP))[1] for _ in range(2)] == ["started", "already"]
    with engine.begin() as connection:
        connection.execute(text("UPDATE hook_groups SET started_at = started_at - interval '5 minutes'"))
    assert [status(call(GROUP))[1] for _ in range(2)] == ["started", "already"]


def test_a_refusal_is_recorded_and_does_not_count_as_done(owner: Api, engine: Engine) -> None:
    call = hook(owner, cooldown="1h")
    owner("POST", "/v1/stop", {"reason": "drill"})
    problem(call(GROUP, Idempotency_Key="m1"), 409)
    owner("DELETE", "/v1/stop")
    assert status(call(GROUP, Idempotency_Key="m1")) == (202, "started", 1)
    assert "cooldown" in problem(call(GROUP | {"groupKey": "another"}), 409)["detail"]
    owner("PUT", f"/v1/triggers/{call.trigger_id}", {"playbook": "fix", "kind": "hook", "enabled": False})
    assert "switched off" in problem(call({}), 409)["detail"]
    with engine.connect() as connection:
        refused = connection.execute(
            text("SELECT detail FROM audit_entries WHERE action = 'execution.refuse' ORDER BY id")
        ).scalars().all()  # fmt: skip
    assert [detail["code"] for detail in refused] == ["stopped", "cooldown"]
    assert all(detail["reason"].endswith(".") and detail["trigger"] for detail in refused)


def test_a_hook_in_the_shadow_records_what_it_would_have_started(owner: Api) -> None:
    call = hook(owner, mode="shadow", mapping=MAPPING)
    response = call(GROUP)
    assert status(response) == (202, "shadow", 1)
    found = execution(owner, response)
    assert (found["state"], found["steps"][0]["state"], found["variables"]["HOST"]) == (
        "completed",
        "skipped",
        "w7",
    )
    assert status(call(GROUP)) == (200, "already", 0)


def test_another_address_and_secret_end_the_old_ones(owner: Api) -> None:
    for verification in ("bearer", "standard_webhooks"):
        call = hook(owner, verification=verification)
        answer = owner("POST", f"/v1/triggers/{call.trigger_id}/rotate").get_json()
        new = replace(call, path="/v1/hooks/" + answer["hook_url"].rpartition("/")[2])
        problem(call({}), 404)
        if verification == "bearer":
            problem(new({}), 401)
            new.secret = answer["hook_secret"]
            assert new({}).status_code == 202
        else:
            problem(new.signed(b"{}", message_id="a"), 401)
            new.secret = answer["hook_secret"]
            assert new.signed(b"{}", message_id="a").status_code == 202


def test_a_key_that_sealed_a_hooks_secret_and_is_gone_is_told(owner: Api, engine: Engine) -> None:
    hook(owner, verification="standard_webhooks")
    other = KeyRing.parse(SecretStr(base64.b64encode(b"another key of 32 bytes, exactly").decode()))
    with pytest.raises(Misconfigured, match="MEDIC_SECRETS_KEY"):
        in_transaction(engine, lambda session: hook_store.check_key(session, other))


def test_an_address_that_guesses_is_told_to_wait(owner: Api, app: APIFlask) -> None:
    call = hook(owner)
    codes = [call.api("POST", f"/v1/hooks/{n:032d}").status_code for n in range(31)]
    assert codes == [404] * 30 + [429]
    # Who has a hook's address and was wrong too often is not compared; a secret that passed here before is.
    other = hook(owner)
    app.extensions["medic"].strangers._seen.clear()
    assert other({}).status_code == 202
    codes = [call.api("POST", call.path, Authorization=f"Bearer {n}").status_code for n in range(31)]
    assert codes == [401] * 30 + [429]
    assert other({}).status_code == 202


def test_calls_of_one_hook_are_limited_by_themselves(
    owner: Api, app: APIFlask, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hook(owner), hook(owner)
    seen: list[tuple[str, str]] = []
    limiter = app.extensions["medic"].limiter
    hit = type(limiter).hit

    def noted(self: Any, policy: Any, subject: str, **rest: Any) -> Any:
        seen.append((str(policy), subject))
        return hit(self, policy, subject, **rest)

    monkeypatch.setattr(type(limiter), "hit", noted)
    assert (one({}).status_code, other({}).status_code) == (202, 202)
    problem(one.api("POST", one.path, {}, Authorization="Bearer wrong"), 401)  # costs the hook nothing
    assert [policy for policy, _ in seen] == ["trigger", "trigger"]
    assert len({subject for _, subject in seen}) == 2
    assert all(subject.startswith("hook:") for _, subject in seen)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", 400), (b"\xff\xfe", 400), (b'{"a": NaN}', 400), (b'"\\ud800"', 400), (b"[" * 5_000, 400),
        (b"9" * 5_000, 400), (b" " * 262_144, 202), (b" " * 262_145, 413), (b"null", 202), (b"[[], 7]", 202),
    ],
)  # fmt: skip
def test_a_body_that_is_not_json_or_too_large_is_the_callers_mistake(
    owner: Api, raw: bytes, code: int
) -> None:
    call = hook(owner)
    assert call(raw=raw).status_code == code


@pytest.mark.parametrize(
    ("value", "code"),
    [("9" * 4_000, 202), ("-0.0", 202), ("1e999", 422), ('"\\u0000"', 422), ('{"\\u0000": 1}', 422),
     ("[" * 90 + "]" * 90, 202)],
)  # fmt: skip
def test_a_value_is_kept_as_it_is_or_refused(owner: Api, value: str, code: int) -> None:
    call = hook(owner, mapping={"HOST": "host"})
    response = call(raw=f'{{"host": {value}}}'.encode())
    assert response.status_code == code, response.text
    if code == 202:
        assert execution(owner, response)["variables"]["HOST"] == json.loads(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["firing", "web"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "alerts", "groupKey", "commonLabels", "host", "service", "\x00"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("more", [{"mapping": MAPPING}, {"service_from": "commonLabels.service"}])
def test_no_body_makes_an_error_of_medics_own(owner: Api, more: dict[str, Any]) -> None:
    call = hook(owner, **more)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20))
    @example(b'{"groupKey": "a", "status": [], "alerts": []}')
    @example(b'{"groupKey": "a", "status": {}, "alerts": []}')
    def send(raw: bytes) -> None:
        response = call(raw=raw)
        assert response.status_code in {200, 202, 400, 409, 422}, response.text

    send()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_any_path_is_read_or_refused(path: str) -> None:
    from medic.errors import Invalid
    from medic.payloads import parse_path, value_at

    try:
        parts = parse_path(path, path="p")
    except Invalid:
        return
    value_at({"a": [{"b": 1}]}, parts)
