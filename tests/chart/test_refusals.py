"""Values that cannot work fail before anything reaches the cluster, with a line that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest
from pydantic import SecretBytes, SecretStr

from medic.cli.settings_table import variables
from medic.settings import Settings
from tests.chart.rendering import CHART, EXTERNAL, KEYS, SCALED, SECRET, defaults, merged, pools, render

NEEDED = ["MEDIC_SECRETS_KEY", "MEDIC_API_KEY_PEPPER", "MEDIC_AUDIT_KEY", "REDIS_URL", "MEDIC_DATABASE_URL",
          "MEDIC_FLOWER_BASIC_AUTH"]  # fmt: skip


def refusal(*values: Mapping[str, Any]) -> str:
    from helm_python.errors import HelmError

    with pytest.raises(HelmError) as caught:
        render(*values)
    return str(caught.value)


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_fails_the_render(key: str) -> None:
    some = {name: value for name, value in KEYS.items() if name != key}
    assert f"{key} is missing" in refusal({"secret": {"create": True, "data": some}})
    assert f"{key} is missing" in refusal({"secret": {"create": True, "data": KEYS | {key: ""}}})
    fetched = [item for item in EXTERNAL["externalSecret"]["data"] if item["secretKey"] != key]
    assert f"{key} is missing" in refusal({"externalSecret": {"enabled": True, "data": fetched}})


def test_two_sources_may_bring_a_half_each() -> None:
    half = dict(list(KEYS.items())[:3])
    rest = [item for item in EXTERNAL["externalSecret"]["data"] if item["secretKey"] not in half]
    render({"secret": {"create": True, "data": half}, "externalSecret": {"enabled": True, "data": rest}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": {"MEDIC_SECRETS_KEY": "x"}}, "config.MEDIC_SECRETS_KEY: this is a secret"),
        ({"config": {"REDIS_URL": "x"}}, "config.REDIS_URL: this is a secret"),
        ({"config": {"MEDIC_HOST": "::"}}, "config.MEDIC_HOST: the chart sets this"),
        ({"externalSecret": {"enabled": True}}, "give data or dataFrom"),
        ({"ingress": {"enabled": True}}, "ingress.host is missing"),
        ({"ingress": {"enabled": True, "host": "h", "tls": {"enabled": True}}}, "certificateArn"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "wants a key"),
        ({"workers": {"autoscaling": {"enabled": True}}}, "workers.autoscaling.redis.address is missing"),
        (merged(SCALED, {"workers": {"autoscaling": {"redis": {"sentinel": {"enabled": True}}}}}), "sentinel.master is missing"),
        ({"config": {"MEDIC_STEP_TIMEOUT_CAP": 301}}, "a deploy would interrupt steps"),
        # Medic takes 10m too, but the chart compares it with the drains.
        ({"config": {"MEDIC_STEP_TIMEOUT_CAP": "10m"}}, "want integer"),
        (pools(system={"concurrency": 2}), "medic.system takes concurrency 1"),
        (pools(system={"scaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2}}), "medic.system always runs"),
        (pools(steps={"name": "scripts"}), "two of the name scripts"),
        (pools(steps={"scaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 2}}), "maxReplicas is below"),
        (merged(SCALED, {"workers": {"autoscaling": {"trigger": "postgresql"}}},
                pools(steps={"scaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2}})), "scaling.query is missing"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name(values: Mapping[str, Any], said: str) -> None:
    assert said in refusal(values)


@pytest.mark.parametrize("name", [variable.name for variable in variables() if variable.is_secret])
def test_no_secret_goes_into_the_config_map(name: str) -> None:
    assert f"config.{name}: this is a secret" in refusal({"config": {name: "x"}})


@pytest.mark.parametrize("name", [variable.name for variable in variables() if not variable.is_secret])
def test_what_is_no_secret_is_not_taken_for_one(name: str) -> None:
    validate = (CHART / "templates" / "validate.yaml").read_text(encoding="utf-8")
    lists = [line for line in validate.splitlines() if "MEDIC_WEBHOOK_SECRET" in line]
    assert len(lists) == 1
    assert f'"{name}"' not in lists[0]


def test_what_does_not_print_is_what_counts_as_a_secret() -> None:
    """By the settings' own values, so that a secret of another annotation cannot slip past the lists."""
    typed = {
        str(field.alias)
        for field in Settings.model_fields.values()
        if {SecretStr, SecretBytes} & {field.annotation, *get_args(field.annotation)}
    }
    assert typed == {variable.name for variable in variables() if variable.is_secret}
    assert "MEDIC_WATCHDOG_URL" in typed, "who knows it can say that Medic is well"


def paths(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every map of the values that the schema closes."""
    free = {"config", "data", "annotations", "podAnnotations", "labels", "nodeSelector", "affinity", "podSecurityContext",
            "securityContext", "capabilities", "seccompProfile", "requests", "limits", "httpGet", "exec"}  # fmt: skip
    found = [path]
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in free:
            found += paths(value, (*path, key))
    return found


@pytest.mark.parametrize("path", paths(defaults()), ids=".".join)
def test_a_key_that_the_chart_does_not_know_is_refused(path: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"replicas_of_nobody": 1}
    for key in reversed(path):
        values = {key: values}
    assert "replicas_of_nobody" in refusal(values)


def test_a_pool_that_nobody_knows_is_refused() -> None:
    assert "workers" in refusal(pools(steps={"queues": ["medic.step"]}))
    assert "workers" in refusal(pools(steps={"replicas": 3}))


def test_the_failure_shows_no_secret() -> None:
    said = refusal(SECRET, {"secret": {"data": {"MEDIC_AUDIT_KEY": ""}}})
    assert not any(value in said for value in KEYS.values() if len(value) > 6)
