"""The schemas of what the chart makes: Kubernetes' own, and those of other projects where they are at hand."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import HERE, Object

KUBERNETES = ("1.29", "1.37")
CUSTOM = {
    "ScaledObject": "scaledobject",
    "TriggerAuthentication": "triggerauthentication",
    "ExternalSecret": "externalsecret",
    "ServiceMonitor": "servicemonitor",
    "PodMonitor": "podmonitor",
    "PrometheusRule": "prometheusrule",
}


@pytest.fixture(scope="session", autouse=True)
def engine_of_helm() -> None:
    """Intel Macs have no wheel of it."""
    pytest.importorskip("helm_python")


@pytest.fixture(scope="session")
def crd_schemas() -> Path:
    """The folder of third-party schemas; they are not part of this repository."""
    folder = Path(os.environ.get("MEDIC_TEST_CRD_SCHEMAS") or HERE.parent / "shared" / "crd-schemas")
    if not folder.is_dir():
        pytest.skip("no CRD schemas here; MEDIC_TEST_CRD_SCHEMAS names their folder")
    return folder


Validate = Callable[[Iterable[Object]], None]


@pytest.fixture(scope="session")
def is_valid() -> Validate:
    """Every object of Kubernetes' own kinds is valid, strictly, in the oldest and the newest version.

    By the schemas of kubernetes-validate, whose own function reads a megabyte of them for each object.
    """
    import jsonschema
    import kubernetes_validate
    from kubernetes_validate.utils import schema_contents
    from referencing import Registry, Resource

    assert kubernetes_validate.latest_version().startswith(KUBERNETES[-1]), "a newer one is out: take it in"

    @functools.cache
    def registry(folder: str) -> Registry[Any]:
        definitions = Resource.from_contents(schema_contents(f"{folder}/_definitions.json", folder))
        return (definitions @ Registry()).crawl()

    @functools.cache
    def validator(kind: str, api_version: str, version: str) -> jsonschema.Draft202012Validator:
        folder = f"kubernetes-json-schema/v{version}.0-local-strict"
        group, _, number = api_version.rpartition("/")
        name = "-".join([kind.lower(), *([group.partition(".")[0]] if group else []), number])
        schema = schema_contents(f"{folder}/{name}.json", version)
        return jsonschema.Draft202012Validator(schema, registry=registry(folder))

    seen: set[str] = set()

    def check(objects: Iterable[Object]) -> None:
        for item in objects:
            # The checksums differ from rendering to rendering, and most of the rest does not.
            text = re.sub("[0-9a-f]{64}", "", json.dumps(item))
            if item["kind"] in CUSTOM or text in seen:
                continue
            for version in KUBERNETES:
                validator(item["kind"], item["apiVersion"], version).validate(item)
            seen.add(text)

    return check


@pytest.fixture(scope="session")
def is_valid_custom(crd_schemas: Path) -> Validate:
    """Every custom resource is valid against the schema of its definition."""
    import jsonschema

    @functools.cache
    def validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
        path = crd_schemas / f"{CUSTOM[kind]}_{version}.json"
        return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))

    def check(objects: Iterable[Object]) -> None:
        for item in objects:
            if item["kind"] in CUSTOM:
                validator(item["kind"], item["apiVersion"].partition("/")[2]).validate(item)

    return check
