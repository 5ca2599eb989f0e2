"""What the chart makes, object by object."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml

from medic.cli.settings_table import variables
from tests.chart.rendering import (
    CHART,
    EXTERNAL,
    SCALED,
    SECRET,
    Object,
    Rendered,
    defaults,
    merged,
    pools,
    render,
    restricted_violations,
)

POOLS = ("system", "deliveries", "steps", "scripts")


def pod_of(result: Rendered, name: str) -> Object:
    pod: Object = result.one("Deployment", name)["spec"]["template"]["spec"]
    return pod


def env_of(container: Object) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def test_the_components_are_deployments_of_one_image() -> None:
    result = render({"image": {"repository": "registry.example.com/medic", "tag": "1.2.3"}})
    assert {item["metadata"]["name"] for item in result.of("Deployment")} == {
        "medic-api", "medic-beat", "medic-flower", *(f"medic-worker-{pool}" for pool in POOLS),
    }  # fmt: skip
    assert {c["image"] for _, c in result.containers()} == {"registry.example.com/medic:1.2.3"}
    assert result.one("Deployment", "medic-beat")["spec"]["strategy"] == {"type": "Recreate"}
    assert {c["args"][0] for _, c in result.containers()} == {"api", "worker", "beat", "flower", "migrate"}


def test_names_follow_the_release_and_stay_short_enough() -> None:
    result = render(name="r" * 53)
    for item in result.objects:
        assert len(item["metadata"]["name"]) <= 63
        assert item["metadata"].get("namespace", "ops") == "ops"
    assert render({"fullnameOverride": "other"}).one("Service", "other-api")
    assert render(name="prod").one("Service", "prod-medic-api")


def test_a_worker_works_on_its_pools_queues_and_says_its_name() -> None:
    result = render()
    for pool in defaults()["workers"]["pools"]:
        container = pod_of(result, f"medic-worker-{pool['name']}")["containers"][0]
        assert container["args"] == [
            "worker", "--name", pool["name"], "--queues", ",".join(pool["queues"]), "--concurrency", str(pool["concurrency"]),
        ]  # fmt: skip
        assert env_of(container)["MEDIC_WORKER_POOL"] == pool["name"]
        assert container["livenessProbe"]["exec"]["command"] == ["medic", "doctor", "--worker"]
        assert "readinessProbe" not in container
    worked = [queue for pool in defaults()["workers"]["pools"] for queue in pool["queues"]]
    assert sorted(worked) == sorted(
        ["medic.system", "medic.deliveries", "medic.steps", "medic.scripts", "medic.housekeeping"]
    )


def test_a_command_line_of_the_chart_is_one_of_medics() -> None:
    from medic.cli import main

    asked = {tuple(container["args"]) for _, container in render().containers()}
    probes = {
        tuple(c["livenessProbe"]["exec"]["command"])
        for _, c in render().containers()
        if "exec" in c.get("livenessProbe", {})
    }
    assert {probe[0] for probe in probes} == {"medic"}
    for name, *arguments in asked | {probe[1:] for probe in probes}:
        context = main.make_context("medic", [name, *arguments])
        command = main.get_command(context, name)
        assert command is not None, name
        command.make_context(name, arguments, parent=context)


def test_a_pod_has_its_drain_and_a_margin_to_end() -> None:
    result = render(pools(steps={"drainSeconds": 900}), {"workers": {"drainMarginSeconds": 45}})
    assert pod_of(result, "medic-worker-steps")["terminationGracePeriodSeconds"] == 945
    assert pod_of(render(), "medic-worker-scripts")["terminationGracePeriodSeconds"] == 330


def test_the_api_is_probed_where_it_answers() -> None:
    container = pod_of(render(), "medic-api")["containers"][0]
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    changed = {"api": {"livenessProbe": {"periodSeconds": 7}, "readinessProbe": {"failureThreshold": 9}}}
    container = pod_of(render(changed), "medic-api")["containers"][0]
    assert container["livenessProbe"]["periodSeconds"] == 7
    assert container["readinessProbe"]["failureThreshold"] == 9


def test_each_pod_is_locked_down_more_than_restricted_asks() -> None:
    for deployment in render().of("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
        assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
            assert container["resources"]["limits"]["memory"]
            assert [next(iter(source.values()))["name"] for source in container["envFrom"]] == [
                "medic-config",
                "medic",
            ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "hostPath"),
        ({"securityContext": {"runAsNonRoot": False}}, "root"),
        ({"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "Unconfined"}}}, "seccomp"),
        (
            {"containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": False}}]},
            "capabilities",
        ),
        (
            {"containers": [{"name": "c", "securityContext": {"capabilities": {"drop": ["ALL"]}}}]},
            "privileges",
        ),
    ],
)
def test_the_check_for_restricted_pods_sees_a_fault(change: Object, said: str) -> None:
    good = pod_of(render(), "medic-api")
    assert restricted_violations(good) == []
    assert any(said in violation for violation in restricted_violations(good | change))


def test_migrations_are_an_init_container_of_what_touches_the_tables() -> None:
    result = render()
    with_init = {
        item["metadata"]["name"] for item in result.of("Deployment") if "initContainers" in item["spec"]["template"]["spec"]
    }  # fmt: skip
    assert with_init == {"medic-api", "medic-beat", *(f"medic-worker-{pool}" for pool in POOLS)}
    assert {tuple(c["args"]) for _, c in result.containers() if c["name"] == "migrate"} == {
        ("migrate", "--or-later")
    }
    assert not any("helm.sh/hook" in item["metadata"].get("annotations", {}) for item in result.objects)


def test_pods_roll_when_the_charts_own_config_or_secret_changes() -> None:
    def sums(*values: Object) -> dict[str, str]:
        pod = render(SECRET, *values).one("Deployment", "medic-api")["spec"]["template"]["metadata"]
        return {key: value for key, value in pod["annotations"].items() if key.startswith("checksum/")}

    before = sums()
    assert set(before) == {"checksum/config", "checksum/secret"}
    config, secret = (
        sums({"config": {"LOG_LEVEL": "DEBUG"}}),
        sums({"secret": {"data": {"MEDIC_AUDIT_KEY": "other"}}}),
    )
    assert (
        config["checksum/config"] != before["checksum/config"],
        config["checksum/secret"] == before["checksum/secret"],
    ) == (True, True)
    assert (
        secret["checksum/secret"] != before["checksum/secret"],
        secret["checksum/config"] == before["checksum/config"],
    ) == (True, True)
    assert "rollout restart" in render(EXTERNAL).notes
    assert "rollout restart" not in render(SECRET).notes


def test_pods_are_spread_softly_and_follow_the_schedulings_values() -> None:
    for deployment in render().of("Deployment"):
        pod, labels = deployment["spec"]["template"]["spec"], deployment["spec"]["selector"]["matchLabels"]
        (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
        (spread,) = pod["topologySpreadConstraints"]
        assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == (
            "topology.kubernetes.io/zone",
            "ScheduleAnyway",
        )
        assert spread["labelSelector"]["matchLabels"] == labels


def test_the_service_and_the_ingress_lead_to_the_api() -> None:
    service = render().one("Service", "medic-api")["spec"]
    assert (service["type"], service["ports"][0]["port"], service["ports"][0]["targetPort"]) == (
        "ClusterIP",
        8080,
        "http",
    )
    result = render({"ingress": {"enabled": True, "host": "m.example.com"}})
    (rule,) = result.one("Ingress", "medic")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["pathType"], path["backend"]["service"]["name"]) == (
        "m.example.com",
        "Prefix",
        "medic-api",
    )
    assert result.one("ConfigMap", "medic-config")["data"]["MEDIC_TRUSTED_PROXIES"] == "1"
    assert "MEDIC_TRUSTED_PROXIES" not in render().one("ConfigMap", "medic-config")["data"]


@pytest.mark.parametrize("on", [True, False])
def test_a_load_balancers_tls_is_annotated_only_when_it_is_on_and_has_a_certificate(on: bool) -> None:
    arn = {"enabled": on, "certificateArn": "arn:aws:acm:1"}
    ingress = render({"ingress": {"enabled": True, "host": "h", "tls": arn}}).one("Ingress", "medic")
    own = {key.rpartition("/")[2] for key in ingress["metadata"].get("annotations", {})}
    assert own == ({"certificate-arn", "listen-ports", "ssl-redirect"} if on else set())
    assert "tls" not in ingress["spec"]
    named = {"enabled": on, "secretName": "cert"}
    ingress = render({"ingress": {"enabled": True, "host": "h", "tls": named}}).one("Ingress", "medic")
    assert "annotations" not in ingress["metadata"]
    assert ingress["spec"].get("tls") == ([{"hosts": ["h"], "secretName": "cert"}] if on else None)


@pytest.mark.parametrize(("external", "create"), list(itertools.product((True, False), (True, False))))
def test_every_container_reads_the_secret_that_the_release_has(external: bool, create: bool) -> None:
    result = render(EXTERNAL if external else {}, SECRET if create else {}, {"secret": {"name": "keys"}})
    assert len(result.of("Secret")) == create
    assert len(result.of("ExternalSecret")) == external
    if external:
        spec = result.one("ExternalSecret", "keys")["spec"]
        assert spec["refreshInterval"] == "1h"
        assert spec["secretStoreRef"] == {"name": "aws-secrets-manager", "kind": "ClusterSecretStore"}
        assert spec["target"] == {
            "name": "keys", "creationPolicy": "Merge" if create else "Owner", "deletionPolicy": "Retain",
        }  # fmt: skip
    assert {
        source["secretRef"]["name"]
        for _, c in result.containers()
        for source in c["envFrom"]
        if "secretRef" in source
    } == {"keys"}
    assert ("must be there" in result.notes) == (not external and not create)


SECRETS = [variable.name for variable in variables() if variable.is_secret]


def test_every_secret_setting_goes_by_the_secret_and_by_nothing_else() -> None:
    result = render({"secret": {"create": True, "data": {name: f"value-of-{name}" for name in SECRETS}}})
    assert set(result.one("Secret", "medic")["stringData"]) == set(SECRETS)
    others = str([item for item in result.objects if item["kind"] != "Secret"]) + result.notes
    assert "value-of-" not in others


def test_every_secret_setting_may_be_fetched_from_outside() -> None:
    data = [{"secretKey": name, "remoteRef": {"key": "medic", "property": name}} for name in SECRETS]
    result = render({"externalSecret": {"enabled": True, "data": data}})
    assert result.one("ExternalSecret", "medic")["spec"]["data"] == data
    assert not result.of("Secret")


def test_the_values_name_every_secret_setting_where_secrets_are_given() -> None:
    values = (CHART / "values.yaml").read_text(encoding="utf-8")
    comment = values[values.index("# Where the keys come from") : values.index("\nsecret:\n")]
    assert set(SECRETS) <= set(re.findall("[A-Z_]+", comment))


def test_every_pod_runs_as_the_charts_account() -> None:
    def accounts(result: Rendered) -> set[str]:
        return {item["spec"]["template"]["spec"]["serviceAccountName"] for item in result.of("Deployment")}

    result = render({"serviceAccount": {"roleArn": "arn:aws:iam::1:role/medic"}})
    account = result.one("ServiceAccount", "medic")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/medic"}
    assert account["automountServiceAccountToken"] is False
    assert accounts(result) == {"medic"}
    assert accounts(render({"serviceAccount": {"create": False, "name": "theirs"}})) == {"theirs"}
    assert accounts(render({"serviceAccount": {"create": False}})) == {"default"}


def test_each_component_has_a_disruption_budget_of_its_own_selector() -> None:
    result = render({"pdb": {"enabled": True}})
    budgets = {item["metadata"]["name"]: item for item in result.of("PodDisruptionBudget")}
    assert set(budgets) == {item["metadata"]["name"] for item in result.of("Deployment")}
    for name, budget in budgets.items():
        assert budget["spec"]["minAvailable"] == 1
        assert budget["spec"]["selector"] == result.one("Deployment", name)["spec"]["selector"]
        assert budget["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "false"}


def ports(rules: list[Object]) -> set[Any]:
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


def test_nothing_passes_but_what_a_component_needs() -> None:
    result = render()
    deny = result.one("NetworkPolicy", "medic-default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    for deployment in result.of("Deployment"):
        policy = result.one("NetworkPolicy", deployment["metadata"]["name"])["spec"]
        assert policy["podSelector"] == deployment["spec"]["selector"]
        assert (
            deny["podSelector"]["matchLabels"].items()
            <= deployment["spec"]["template"]["metadata"]["labels"].items()
        )
    allowed = {name: ports(result.one("NetworkPolicy", f"medic-{name}")["spec"]["egress"])
               for name in ("api", "worker-scripts", "worker-steps", "flower")}  # fmt: skip
    assert allowed["worker-scripts"] == {53, 5432, 6379}
    assert allowed["api"] == {53, 5432, 6379}
    assert allowed["flower"] == {53, 6379}
    assert allowed["worker-steps"] == {53, 5432, 6379, 80, 443, 8443}
    assert "ingress" not in result.one("NetworkPolicy", "medic-flower")["spec"]


def test_scripts_reach_no_more_whatever_else_is_opened() -> None:
    more = {
        "networkPolicy": {"extraEgress": [{"to": [{"podSelector": {}}]}]},
        "config": {"OTEL_ENABLED": True},
    }
    before, after = (
        render(v).one("NetworkPolicy", "medic-worker-scripts")["spec"]["egress"] for v in ({}, more)
    )
    assert before == after
    assert 4317 in ports(render(more).one("NetworkPolicy", "medic-worker-steps")["spec"]["egress"])


def test_the_api_reaches_the_internet_only_where_slacks_answers_are_wanted() -> None:
    def reached(values: Object) -> set[Any]:
        return ports(render(values).one("NetworkPolicy", "medic-api")["spec"]["egress"])

    assert reached({}) == {53, 5432, 6379}
    assert reached({"api": {"internet": True}}) == {53, 5432, 6379, 80, 443, 8443}


def test_the_internet_is_nothing_private() -> None:
    policy = render().one("NetworkPolicy", "medic-worker-deliveries")["spec"]
    (rule,) = [rule for rule in policy["egress"] if ports([rule]) == {80, 443, 8443}]
    block = next(peer["ipBlock"] for peer in rule["to"] if peer["ipBlock"]["cidr"] == "0.0.0.0/0")
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"} <= set(
        block["except"]
    )


def test_monitors_name_ports_that_exist() -> None:
    result = render(
        {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True, "bearerToken": {"secretName": "s", "key": "k"}}}}
    )  # fmt: skip
    monitor = result.one("ServiceMonitor", "medic-api")["spec"]
    assert {e["port"] for e in monitor["endpoints"]} <= {
        p["name"] for p in result.one("Service", "medic-api")["spec"]["ports"]
    }
    assert (
        monitor["selector"]["matchLabels"].items()
        <= result.one("Service", "medic-api")["metadata"]["labels"].items()
    )
    monitor = result.one("PodMonitor", "medic-tasks")["spec"]
    (expression,) = monitor["selector"]["matchExpressions"]
    chosen = [d for d in result.of("Deployment")
              if d["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] in expression["values"]]  # fmt: skip
    assert len(chosen) == 5
    for deployment in chosen:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        (port,) = container["ports"]
        assert {e["port"] for e in monitor["podMetricsEndpoints"]} == {port["name"]}
        assert env_of(container)["METRICS_PORT"] == str(port["containerPort"])


def test_the_rules_and_dashboards_are_those_of_the_files() -> None:
    result = render(
        {"metrics": {"prometheusRule": {"enabled": True}}, "grafana": {"dashboards": {"enabled": True}}}
    )
    alerts = CHART / "files" / "alerts.yaml"
    boards = sorted((CHART / "files" / "dashboards").glob("*.json"))
    assert boards
    rule = result.one("PrometheusRule", "medic")["spec"]["groups"]
    assert rule == yaml.safe_load(alerts.read_text(encoding="utf-8"))["groups"]
    shown = {
        name: text
        for item in result.of("ConfigMap")
        for name, text in item["data"].items()
        if name.endswith(".json")
    }
    assert shown == {board.name: board.read_text(encoding="utf-8").strip() for board in boards}


def uses(values: Object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [found for key, value in values.items()
            for found in (uses(value, (*path, key)) if isinstance(value, dict) and value else [(*path, key)])]  # fmt: skip


def test_every_value_is_used_by_a_template() -> None:
    templates = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir())
    whole = {"config", "data", "labels", "resources", "behavior", "livenessProbe", "readinessProbe", "podSecurityContext",
             "securityContext", "podAnnotations", "annotations", "secretStoreRef"}  # fmt: skip
    for path in uses(defaults()):
        name = next((part for part in path if part in whole), path[-1])
        assert f".{name}" in templates, ".".join(path)


def test_scaled_pools_are_only_those_that_may() -> None:
    result = render(SCALED)
    assert {item["metadata"]["name"] for item in result.of("ScaledObject")} == {
        "medic-api", "medic-worker-deliveries", "medic-worker-steps", "medic-worker-scripts",
    }  # fmt: skip
    for deployment in result.of("Deployment"):
        scaled = any(
            item["metadata"]["name"] == deployment["metadata"]["name"] for item in result.of("ScaledObject")
        )
        assert ("replicas" in deployment["spec"]) is not scaled
    assert render().of("ScaledObject") == []


def test_a_pool_is_scaled_on_what_waits_and_runs_in_it() -> None:
    result = render(SCALED, {"config": {"MEDIC_BROKER_PREFIX": "prod:"}})
    scaled = result.one("ScaledObject", "medic-worker-steps")
    assert scaled["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "false"}
    spec = scaled["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "medic-worker-steps",
    }
    assert (spec["pollingInterval"], spec["cooldownPeriod"], spec["minReplicaCount"]) == (10, 300, 1)
    assert spec["advanced"]["scalingModifiers"] == {
        "formula": "queued_0 + queued_1 + running", "target": "4", "activationTarget": "0",
    }  # fmt: skip
    assert [(t["type"], t["name"], t["metadata"]["listName"]) for t in spec["triggers"]] == [
        ("redis", "queued_0", "prod:medic.steps"),
        ("redis", "queued_1", "prod:medic.housekeeping"),
        ("redis", "running", "prod:unacked.steps"),
    ]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert {policy["periodSeconds"] for policy in behavior["scaleUp"]["policies"]} == {15}
    assert behavior["scaleDown"] == {
        "stabilizationWindowSeconds": 300, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }  # fmt: skip
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}


def test_kedas_way_to_redis_follows_the_values() -> None:
    more = {"redis": {"tls": True, "unsafeSsl": True, "databaseIndex": 2},
            "authentication": {"redis": [{"parameter": "password", "key": "REDIS_PASSWORD"}]}}  # fmt: skip
    result = render(SECRET, SCALED, {"workers": {"autoscaling": more}})
    for trigger in result.one("ScaledObject", "medic-worker-scripts")["spec"]["triggers"]:
        assert trigger["metadata"]["enableTLS"] == trigger["metadata"]["unsafeSsl"] == "true"
        assert (trigger["metadata"]["address"], trigger["metadata"]["databaseIndex"]) == ("redis:6379", "2")
        assert trigger["authenticationRef"] == {"name": "medic-worker"}
    assert result.one("TriggerAuthentication", "medic-worker")["spec"] == {
        "secretTargetRef": [{"parameter": "password", "name": "medic", "key": "REDIS_PASSWORD"}]
    }
    sentinel = {"address": "s1:26379", "sentinel": {"enabled": True, "master": "main"}}
    result = render(SCALED, {"workers": {"autoscaling": {"redis": sentinel}}})
    trigger = result.one("ScaledObject", "medic-worker-steps")["spec"]["triggers"][0]
    assert (trigger["type"], trigger["metadata"]["addresses"], trigger["metadata"]["sentinelMaster"]) == (
        "redis-sentinel", "s1:26379", "main",
    )  # fmt: skip
    assert "address" not in trigger["metadata"]
    assert result.of("TriggerAuthentication") == []


def test_kedas_way_to_postgresql_is_the_url_of_the_secret() -> None:
    result = render(SCALED, {"workers": {"autoscaling": {"trigger": "postgresql"}}})
    (trigger,) = result.one("ScaledObject", "medic-worker-deliveries")["spec"]["triggers"]
    assert (trigger["type"], trigger["metadata"]["targetQueryValue"]) == ("postgresql", "4")
    assert result.one("TriggerAuthentication", "medic-worker")["spec"] == {
        "secretTargetRef": [{"parameter": "connection", "name": "medic", "key": "MEDIC_DATABASE_URL"}]
    }


def test_the_api_is_scaled_on_its_cpu_and_if_wanted_on_prometheus() -> None:
    spec = render(SCALED).one("ScaledObject", "medic-api")["spec"]
    assert (spec["pollingInterval"], spec["cooldownPeriod"]) == (30, 300)
    assert spec["triggers"] == [{"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}]
    assert (
        spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        == defaults()["workers"]["autoscaling"]["behavior"]
    )
    more = merged(SCALED, {"api": {"autoscaling": {"prometheus": {"enabled": True}}}})
    trigger = render(more).one("ScaledObject", "medic-api")["spec"]["triggers"][1]
    assert set(trigger["metadata"]) == {"serverAddress", "metricName", "threshold", "query"}


def test_the_notes_name_a_queue_that_nobody_works_on() -> None:
    assert "No pool works on" not in render().notes
    assert "No pool works on medic.system" in render(pools(system={"enabled": False})).notes
