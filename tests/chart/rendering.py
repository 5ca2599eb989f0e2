"""The chart as Helm's engine renders it, and what a cluster would say to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parents[2]
CHART = HERE / "charts" / "medic"

Object = dict[str, Any]

KEYS = {
    "MEDIC_DATABASE_URL": "postgresql://medic:word@db/medic",
    "REDIS_URL": "redis://:word@redis:6379/0",
    "MEDIC_SECRETS_KEY": "c2VjcmV0",
    "MEDIC_API_KEY_PEPPER": "pepper",
    "MEDIC_AUDIT_KEY": "audit",
    "MEDIC_FLOWER_BASIC_AUTH": "ops:word",
}
SECRET = {"secret": {"create": True, "data": KEYS}}
EXTERNAL = {
    "externalSecret": {
        "enabled": True,
        "data": [{"secretKey": key, "remoteRef": {"key": "medic", "property": key}} for key in KEYS],
    }
}
SCALED = {
    "api": {"autoscaling": {"enabled": True}},
    "workers": {"autoscaling": {"enabled": True, "redis": {"address": "redis:6379"}}},
}


@cache
def _chart() -> Any:
    import helm_python

    return helm_python.Chart.load(CHART)


def defaults() -> dict[str, Any]:
    """A fresh copy of values.yaml."""
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def pools(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """The default pools, some of them changed by name."""
    listed = defaults()["workers"]["pools"]
    return {"workers": {"pools": [pool | dict(changes.get(pool["name"], {})) for pool in listed]}}


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over one another, as Helm does it: maps join, the rest is replaced."""
    whole: dict[str, Any] = {}
    for layer in values:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged(whole[key], value) if both else value
    return whole


@dataclass(frozen=True)
class Rendered:
    """Everything that one set of values makes."""

    objects: list[Object]
    notes: str

    def of(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        found = [item for item in self.of(kind) if item["metadata"]["name"] == name]
        assert len(found) == 1, (kind, name, [item["metadata"]["name"] for item in self.of(kind)])
        return found[0]

    def containers(self) -> Iterator[tuple[str, Object]]:
        """Each container of each Deployment, init containers included."""
        for deployment in self.of("Deployment"):
            pod = deployment["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield deployment["metadata"]["name"], container


def render(*values: Mapping[str, Any], name: str = "medic", namespace: str = "ops") -> Rendered:
    """What the chart makes of these values.

    :raises helm_python.HelmError: when it refuses them.
    """
    return _render(json.dumps(merged(*values)), name, namespace)


@cache
def _render(values: str, name: str, namespace: str) -> Rendered:
    files = _chart().render(json.loads(values), name=name, namespace=namespace)
    notes = next(text for path, text in files.items() if path.endswith("NOTES.txt"))
    objects = [
        item
        for path, text in sorted(files.items())
        if not path.endswith("NOTES.txt")
        for item in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if item
    ]
    return Rendered(objects, notes)


def restricted_violations(pod: Object) -> list[str]:
    """What the "restricted" Pod Security Standard forbids in this pod's spec."""
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    of_pod = pod.get("securityContext", {})
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod.get("volumes", []):
        found += [f"volume {volume['name']}: {kind}" for kind in set(volume) - {"name"} - allowed]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        name = container["name"]
        if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot", False)):
            found.append(f"{name}: may run as root")
        if own.get("runAsUser", of_pod.get("runAsUser")) == 0:
            found.append(f"{name}: is root")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: may gain privileges")
        if own.get("privileged"):
            found.append(f"{name}: is privileged")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {
            "NET_BIND_SERVICE"
        }:
            found.append(f"{name}: keeps capabilities")
        seccomp = own.get("seccompProfile", of_pod.get("seccompProfile", {})).get("type")
        if seccomp not in {"RuntimeDefault", "Localhost"}:
            found.append(f"{name}: no seccomp profile")
        found += [f"{name}: host port" for port in container.get("ports", []) if port.get("hostPort")]
    return found
