"""Whatever the values, each object is one that a cluster takes, and each pod one that it may run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from medic.settings import Settings
from tests.chart.conftest import Validate
from tests.chart.rendering import (
    CHART,
    EXTERNAL,
    SCALED,
    SECRET,
    Rendered,
    merged,
    pools,
    render,
    restricted_violations,
)

Values = Mapping[str, Any]

EVERYTHING: Values = merged(
    SECRET,
    SCALED,
    {
        "namespace": {"create": True},
        "image": {"tag": "1.2.3", "pullSecrets": ["registry"]},
        "api": {"autoscaling": {"prometheus": {"enabled": True}}, "podAnnotations": {"team": "sre"}},
        "workers": {"autoscaling": {"authentication": {"redis": [{"parameter": "password", "key": "REDIS_PASSWORD"}]}}},
        "pdb": {"enabled": True},
        "metrics": {
            "serviceMonitor": {"enabled": True, "bearerToken": {"secretName": "scrape", "key": "key"}},
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True},
        },
        "grafana": {"dashboards": {"enabled": True, "annotations": {"folder": "Medic"}}},
        "networkPolicy": {
            "apiFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "flowerFrom": [{"podSelector": {}}],
            "postgresql": {"port": 5433, "to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]},
            "redis": {"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}]},
            "telemetry": {"to": [{"namespaceSelector": {}}]},
            "extraEgress": [{"to": [{"podSelector": {}}]}],
        },
        "config": {"OTEL_ENABLED": True},
        "scheduling": {
            "nodeSelector": {"pool": "medic"},
            "tolerations": [{"key": "medic", "operator": "Exists"}],
            "priorityClassName": "high",
        },
        "service": {"annotations": {"a": "b"}},
        "ingress": {"enabled": True, "host": "medic.example.com"},
    },
)  # fmt: skip

ACCOUNTS: dict[str, Values] = {
    "own account": {"serviceAccount": {"roleArn": "arn:aws:iam::1:role/medic"}},
    "account of another": {"serviceAccount": {"create": False, "name": "theirs"}},
}
INGRESSES: dict[str, Values] = {
    "plain": {"host": "m.example.com"},
    "nginx": {"host": "m.example.com", "className": "nginx", "annotations": {"x": "y"}},
    "load balancer's TLS": {"host": "m.example.com", "tls": {"enabled": True, "certificateArn": "arn:aws:acm:1"}},
    "a Secret's TLS": {"host": "m.example.com", "className": "nginx", "tls": {"enabled": True, "secretName": "tls"}},
}  # fmt: skip
REDIS: dict[str, Values] = {
    "TLS": {"address": "redis:6380", "tls": True, "databaseIndex": 3},
    "TLS of no certificate": {"address": "redis:6380", "tls": True, "unsafeSsl": True},
    "sentinel": {"address": "s1:26379,s2:26379", "sentinel": {"enabled": True, "master": "main"}},
}


def matrix() -> dict[str, Values]:
    found: dict[str, Values] = {"defaults": {}, "everything": EVERYTHING}
    for external, create, account in itertools.product((False, True), (False, True), ACCOUNTS):
        name = f"External Secrets {external}, Secret {create}, {account}"
        found[name] = merged(EXTERNAL if external else {}, SECRET if create else {}, ACCOUNTS[account])
    found |= {f"ingress {name}": {"ingress": {"enabled": True, **one}} for name, one in INGRESSES.items()}
    found |= {
        f"KEDA, Redis {name}": merged(SCALED, {"workers": {"autoscaling": {"redis": one}}})
        for name, one in REDIS.items()
    }
    found["KEDA"] = SCALED
    found["KEDA, PostgreSQL"] = merged(SCALED, {"workers": {"autoscaling": {"trigger": "postgresql"}}})
    found["KEDA, to zero"] = merged(
        SCALED, pools(steps={"scaling": {"enabled": True, "minReplicas": 0, "maxReplicas": 3, "query": ""}})
    )
    found |= {
        f"no {name}": pools(**{name: {"enabled": False}})
        for name in ("system", "deliveries", "steps", "scripts")
    }
    found["no pool"] = {"workers": {"pools": []}}
    found["no beat, no Flower, no policies, no migrations"] = {
        "beat": {"enabled": False},
        "flower": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "migrations": {"enabled": False},
    }
    found["affinity of their own"] = {
        "scheduling": {"affinity": {"nodeAffinity": {}}, "zoneSpread": False, "podAntiAffinity": False}
    }
    found["a pool apart"] = pools(scripts={"hostUsers": False, "serviceAccountName": "scripts"})
    found["External Secrets of old, whole entries"] = {
        "externalSecret": {
            "enabled": True,
            "apiVersion": "external-secrets.io/v1beta1",
            "dataFrom": [{"extract": {"key": "medic/production"}}],
        }
    }
    return found


MATRIX = matrix()


def rendered(name: str) -> Rendered:
    return render(MATRIX[name])


def test_the_chart_passes_the_strict_lint() -> None:
    import helm_python

    for values in ({}, EVERYTHING):
        report = helm_python.lint(CHART, values, strict=True, namespace="ops", kube_version="v1.29.0")
        found = [message for message in report["messages"] if message["severity"] > 1]
        assert (report["errors"], found) == ([], [])


@pytest.mark.parametrize("name", MATRIX)
def test_each_object_is_valid_and_each_pod_restricted(name: str, is_valid: Validate) -> None:
    result = rendered(name)
    is_valid(result.objects)
    for deployment in result.of("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert restricted_violations(pod) == [], deployment["metadata"]["name"]
    names = [(item["kind"], item["metadata"]["name"]) for item in result.objects]
    assert len(names) == len(set(names)), "two objects of one kind and name"


@pytest.mark.parametrize("name", MATRIX)
def test_each_custom_resource_is_valid_by_its_definition(name: str, is_valid_custom: Validate) -> None:
    is_valid_custom(rendered(name).objects)


@pytest.mark.parametrize("name", MATRIX)
def test_each_variable_is_one_that_medic_reads(name: str) -> None:
    result = rendered(name)
    known = {str(field.alias) for field in Settings.model_fields.values()}
    assert set(result.one("ConfigMap", "medic-config")["data"]) <= known
    for secret in result.of("Secret"):
        assert set(secret["stringData"]) <= known
    for where, container in result.containers():
        assert {variable["name"] for variable in container.get("env", [])} - {"HOME"} <= known, where


@pytest.mark.parametrize("name", MATRIX)
def test_selectors_choose_their_own_pods_and_nothing_else(name: str) -> None:
    result = rendered(name)
    deployments = result.of("Deployment")
    for deployment in deployments:
        wanted = deployment["spec"]["selector"]["matchLabels"].items()
        chosen = [
            d["metadata"]["name"]
            for d in deployments
            if wanted <= d["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert chosen == [deployment["metadata"]["name"]]
    for service in result.of("Service"):
        wanted = service["spec"]["selector"].items()
        chosen = [d for d in deployments if wanted <= d["spec"]["template"]["metadata"]["labels"].items()]
        ports = {
            port["name"] for c in chosen[0]["spec"]["template"]["spec"]["containers"] for port in c["ports"]
        }
        assert (len(chosen), {port["targetPort"] for port in service["spec"]["ports"]} <= ports) == (1, True)


@pytest.mark.parametrize("name", MATRIX)
def test_the_configuration_is_one_that_medic_starts_with(name: str) -> None:
    Settings.from_env(rendered(name).one("ConfigMap", "medic-config")["data"])
