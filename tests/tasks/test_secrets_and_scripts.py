"""What steps get to work with: secrets, which leave no trace, and scripts, which get values as data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from medic import scripts, vault
from medic import settings as settings_
from medic.db import database_now
from tests.recorder import Received, Recorder
from tests.tasks.house import ACTOR, House
from tests.tasks.processes import Workers

TOKEN = "sup3r-s3cret-token-0f-ops"


@pytest.fixture
def secret(house: House, worker: Workers) -> str:
    ring = vault.key_ring(settings_.current())
    house.do(
        lambda s: vault.put(
            s, ring, name="OPS_TOKEN", value=SecretStr(TOKEN), actor=ACTOR, now=database_now(s)
        )
    )
    return TOKEN


def everything_kept(house: House) -> str:
    """All rows of all tables that an execution writes, as one text."""
    tables = (
        "executions",
        "execution_steps",
        "step_attempts",
        "approvals",
        "audit_entries",
        "playbook_versions",
    )
    return json.dumps({table: house.rows(f"SELECT * FROM {table}") for table in tables}, default=str)


def test_a_secret_is_sent_and_leaves_no_trace_whatever_the_world_answers(
    house: House, secret: str, worker: Workers, outside: Recorder
) -> None:
    def echo(request: Received) -> tuple[int, bytes]:
        said = {"you_sent": request.headers["authorization"], secret: "as a key"}
        return (500 if request.path.startswith("/fail") else 200), json.dumps(said).encode()

    outside.answer = echo
    house.playbook(f"""
name: secretive
approval: required
steps:
  - name: call
    type: webhook
    url: "{outside.url}/call?token=${{secrets.OPS_TOKEN}}"
    headers: {{Authorization: "Bearer ${{secrets.OPS_TOKEN}}"}}
  - name: failing
    type: webhook
    url: "{outside.url}/fail"
    headers: {{Authorization: "Bearer ${{secrets.OPS_TOKEN}}"}}
""")
    execution = house.start("secretive")
    house.decide(execution, "approved")
    assert house.swept_to_the_end(execution) == "failed"
    assert [request.headers["authorization"] for request in outside.requests] == [f"Bearer {secret}"] * 2
    assert house.steps(execution)[0]["output"]["body"]["you_sent"] == "Bearer [secret:OPS_TOKEN]"
    assert secret not in everything_kept(house)
    assert secret not in worker.said()


def test_a_variable_never_becomes_a_secret(house: House, secret: str, outside: Recorder) -> None:
    house.playbook(f"""
name: naive
variables: {{WHO: {{default: "nobody"}}}}
steps:
  - {{name: call, type: webhook, url: "{outside.url}/call", body: {{who: "${{WHO}}"}}}}
""")
    execution = house.start("naive", WHO="${secrets.OPS_TOKEN}")
    assert house.ended(execution) == "completed"
    assert outside.requests[0].json == {"who": "${secrets.OPS_TOKEN}"}


def test_a_secret_that_is_not_there_fails_the_step_before_anything_is_sent(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.playbook(f"""
name: unset
steps:
  - {{name: call, type: webhook, url: "{outside.url}/call", headers: {{X-Key: "${{secrets.NOWHERE}}"}}}}
""")
    execution = house.start("unset")
    assert house.ended(execution) == "failed"
    error: dict[str, Any] = house.row(execution)["error"]
    assert error["code"] == "cannot_render"
    assert "NOWHERE" in error["message"]
    assert outside.requests == []


SCRIPT = """
input=$(cat)
printf '{"env": "%s", "variable": "%s", "key": "%s", "fence": "%s", "stdin": %s, "pepper": "%s"}' \
  "$HOST_NAME" "$REGION" "$MEDIC_IDEMPOTENCY_KEY" "$MEDIC_FENCING_TOKEN" "$input" "$MEDIC_API_KEY_PEPPER"
"""


def test_a_script_gets_its_values_as_environment_and_json_and_nothing_of_the_worker(
    house: House, worker: Workers, outside: Recorder
) -> None:
    house.do(
        lambda s: scripts.put(
            s, name="look", interpreter="bash", content=SCRIPT,
            parameters={"HOST_NAME": {"type": "text", "required": True}}, network=False, description="",
            actor=ACTOR, now=database_now(s),
        )
    )  # fmt: skip
    house.playbook(f"""
name: scripted
variables: {{REGION: {{default: "eu"}}}}
steps:
  - {{name: look, type: script, script: look, parameters: {{HOST_NAME: "w1; touch /tmp/pwned"}}}}
  - {{name: tell, type: webhook, url: "{outside.url}/tell", body: {{env: "${{steps.look.json.env}}"}}}}
""")
    execution = house.start("scripted")
    assert house.ended(execution) == "completed", house.steps(execution)
    assert house.steps(execution)[0]["output"]["json"] == {
        "env": "w1; touch /tmp/pwned",
        "variable": "eu",
        "key": f"{execution}.look",
        "fence": "1",
        "stdin": {"HOST_NAME": "w1; touch /tmp/pwned"},
        "pepper": "",
    }
    assert outside.requests[0].json == {"env": "w1; touch /tmp/pwned"}


def test_an_answer_with_characters_that_the_database_refuses_is_kept_all_the_same(
    house: House, worker: Workers, outside: Recorder
) -> None:
    outside.answer = lambda _: (200, b'{"odd": "a\\u0000b\\ud800"}')
    house.playbook(f'name: odd\nsteps:\n  - {{name: call, type: webhook, url: "{outside.url}/call"}}\n')
    execution = house.start("odd")
    assert house.ended(execution) == "completed"
    assert house.steps(execution)[0]["output"]["body"]["odd"].startswith("a\ufffdb")
