from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.errors import Invalid, Misconfigured
from medic.sandbox import build_environment, check_additional_names
from medic.settings import Settings

SECRETS = [
    str(field.alias) for field in Settings.model_fields.values() if "SecretStr" in str(field.annotation)
]
NEVER = [
    *SECRETS,
    *(f"{name}_FILE" for name in SECRETS),
    "DB_HOST", "DB_NAME", "PG_USER", "PG_PASS", "PGPASSWORD", "PGPASSFILE", "DATABASE_URL", "REDIS_URL",
    "REDIS_PASSWORD", "MEDIC_TEST_DATABASE_URL", "MEDIC_TEST_REDIS_URL", "CELERY_BROKER_URL",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "aws_access_key_id", "OTEL_EXPORTER_OTLP_HEADERS",
]  # fmt: skip
names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,20}\Z")
values = st.text(st.characters(exclude_characters="\0"), max_size=30)


def build(**changes: object) -> dict[str, str]:
    plain: dict[str, object] = {
        "worker": {}, "additional": (), "execution_id": 7, "playbook_id": 8, "service_id": 9, "variables": {},
    }  # fmt: skip
    return build_environment(**plain | changes)  # type: ignore[arg-type]


def test_the_keys_that_matter_are_known_as_secrets() -> None:
    assert {
        "MEDIC_SECRETS_KEY", "MEDIC_API_KEY_PEPPER", "MEDIC_AUDIT_KEY", "MEDIC_WEBHOOK_SECRET",
        "MEDIC_DATABASE_URL", "REDIS_URL", "SLACK_API_TOKEN", "PAGERDUTY_ROUTING_KEY",
    } <= set(SECRETS)  # fmt: skip


@pytest.mark.parametrize("name", NEVER)
def test_a_secret_of_medic_in_the_list_stops_the_start_and_names_itself(name: str) -> None:
    with pytest.raises(Misconfigured, match=rf"MEDIC_ADDITIONAL_SCRIPT_ENV_VARS: {name} "):
        check_additional_names(["HARMLESS", f" {name} "])


@pytest.mark.parametrize("name", ["WITH SPACE", "9LIVES", "A=B", "DASH-ED", "Ä", "A\n"])
def test_what_is_no_name_of_a_variable_stops_the_start(name: str) -> None:
    if name.strip() == "A":
        check_additional_names([name])  # blanks around a name are ignored
        return
    with pytest.raises(Misconfigured, match="not the name"):
        check_additional_names([name])


def test_blanks_in_the_list_are_ignored() -> None:
    check_additional_names(["", "  ", "HTTP_PROXY"])
    assert "HTTP_PROXY" in build(additional=["", " HTTP_PROXY "], worker={"HTTP_PROXY": "p"})


def test_harmless_names_pass() -> None:
    check_additional_names(["HTTP_PROXY", "KUBECONFIG", "MEDIC_ENVIRONMENT", "PGX"[:2], "DBUS_ADDRESS"])


def test_only_the_allow_list_is_taken_from_the_worker() -> None:
    worker = dict.fromkeys(NEVER, "s3cr3t-value") | {
        "PATH": "/bin", "HOME": "/h", "USER": "u", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "EXTRA": "e",
        "LD_PRELOAD": "x.so",
    }  # fmt: skip
    assert build(worker=worker, additional=("EXTRA", "UNSET")) == {
        "PATH": "/bin", "HOME": "/h", "USER": "u", "LANG": "C", "LC_ALL": "C", "TZ": "UTC", "EXTRA": "e",
        "MEDIC_EXECUTION_ID": "7", "MEDIC_PLAYBOOK_ID": "8", "MEDIC_SERVICE_ID": "9",
    }  # fmt: skip


def test_the_three_ids_are_always_there_and_a_path_too() -> None:
    made = build(service_id=None)
    assert made.pop("PATH").startswith("/")
    assert made == {"MEDIC_EXECUTION_ID": "7", "MEDIC_PLAYBOOK_ID": "8", "MEDIC_SERVICE_ID": ""}


def test_a_variable_of_the_step_wins_over_the_worker_but_not_over_an_id() -> None:
    assert build(worker={"TZ": "UTC"}, variables={"TZ": "Europe/Berlin"})["TZ"] == "Europe/Berlin"
    with pytest.raises(Invalid, match="MEDIC_EXECUTION_ID"):
        build(variables={"MEDIC_EXECUTION_ID": "1"})


@pytest.mark.parametrize(("name", "value"), [("A B", ""), ("", ""), ("A=", ""), ("OK", "nul\0")])
def test_a_variable_that_no_environment_can_hold_is_refused(name: str, value: str) -> None:
    with pytest.raises(Invalid) as refused:
        build(variables={name: value})
    assert refused.value.problems[0].path == f"variables.{name}"


@given(
    worker=st.dictionaries(names, values, max_size=8), variables=st.dictionaries(names, values, max_size=8)
)
def test_nothing_arrives_that_was_not_allowed(worker: dict[str, str], variables: dict[str, str]) -> None:
    made = build(worker=worker, variables=variables)
    allowed = {"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ"}
    ids = {"MEDIC_EXECUTION_ID", "MEDIC_PLAYBOOK_ID", "MEDIC_SERVICE_ID"}
    assert set(made) <= allowed | ids | set(variables)
    assert all(made[name] == value for name, value in variables.items())
