"""Dashboards and alert rules: each metric that they name, with its labels, stands on the /metrics of a Medic at work."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from medic import access
from medic.db import database_now
from medic.settings import Settings
from tests.recorder import Recorder
from tests.tasks.house import HUMAN, House
from tests.tasks.processes import Workers
from tests.waiting import eventually

FILES = Path(__file__).parents[2] / "charts" / "medic" / "files"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
GROUPS = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))["groups"]

_NAMED = re.compile(r"\b(medic_[a-z0-9_]+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_MATCHED = re.compile(r"(\w+)\s*[=!]~?")
_ADDED = {"instance", "le"}
"""Labels that Prometheus itself gives, and those of buckets."""


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the expression."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    for group in GROUPS:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_there_are_the_three_dashboards_and_the_rules_that_are_promised() -> None:
    assert [path.stem for path in DASHBOARDS] == ["executions", "ingest", "overview"]
    names = [rule["alert"] for group in GROUPS for rule in group["rules"]]
    assert len(names) == len(set(names))
    assert {
        "MedicSweepLag", "MedicNoSweep", "MedicDeliveriesFail", "MedicBreakerOpen", "MedicExecutionsStuck",
        "MedicExecutionsInDoubt", "MedicWatchdogFails",
    } <= set(names)  # fmt: skip
    for group in GROUPS:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}
            assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == f"medic-{path.stem}"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for place in (panel["gridPos"],)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places)), "panels lie on one another"
    assert max(x for x, _ in places) < 24
    for panel in panels:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")


class Scrapes:
    """What was seen on any /metrics: each series' name, and the labels that it has."""

    def __init__(self) -> None:
        self.labels: dict[str, set[str]] = {}
        self.values: dict[tuple[str, str], set[str]] = {}

    def take(self, text: str) -> bool:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)
                for label, value in sample.labels.items():
                    self.values.setdefault((sample.name, label), set()).add(value)
        return True

    def wrong(self) -> list[str]:
        found = []
        for where, expression in expressions():
            for name, matchers in _NAMED.findall(expression):
                if name not in self.labels:
                    found.append(f"{where}: nothing is called {name}")
                    continue
                asked = set(_MATCHED.findall(matchers)) | {
                    label.strip() for group in _GROUPED.findall(expression) for label in group.split(",")
                }
                if not asked - _ADDED <= self.labels[name]:
                    found.append(f"{where}: {name} has {self.labels[name]}, not {asked}")
                for label, value in re.findall(r'(\w+)="([^"]*)"', matchers):
                    if value not in self.values.get((name, label), set()):
                        found.append(f"{where}: {name} has no {label}={value}")
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Web:
    """The API as `medic api` starts it, and the pages of workers and beat."""

    def __init__(self, environ: dict[str, str], key: str) -> None:
        self.port = free_port()
        self.key = key
        self.session = requests.Session()
        self.session.trust_env = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medic", "api"],
            env=os.environ | environ | {"PORT": str(self.port)}, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        eventually(self.lives, within=60)

    def lives(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.call("GET", "/health/live").ok
        except requests.ConnectionError:
            return False

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, port: int = 0
    ) -> requests.Response:
        return self.session.request(
            method, f"http://127.0.0.1:{port or self.port}{path}", json=body, timeout=20,
            headers={"Authorization": f"Bearer {key or self.key}"},
        )  # fmt: skip

    def done(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.call(method, path, body)
        assert answer.ok, answer.text
        return answer.json()

    def stop(self) -> None:
        self.session.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def web(house: House, task_environ: dict[str, str]) -> Iterator[Web]:
    pepper = Settings.from_env(task_environ).need_pepper()
    key = house.do(
        lambda s: access.create_key(
            s, name="test", scopes=["admin"], pepper=pepper, actor=HUMAN, now=database_now(s)
        )
    )[1].get_secret_value()
    made = Web(task_environ | {"RATE_LIMIT_DOCS_REQUESTS": "1"}, key)
    yield made
    made.stop()


def test_every_metric_of_a_panel_or_a_rule_is_on_the_pages_of_a_medic_at_work(
    house: House, own: Workers, web: Web, outside: Recorder
) -> None:
    seen = Scrapes()
    ports = {name: free_port() for name in ("system", "beat", "steps", "deliveries")}

    def scrape() -> bool:
        seen.take(web.call("GET", "/metrics").text)
        for port in ports.values():
            try:
                seen.take(web.call("GET", "/metrics", port=port).text)
            except requests.ConnectionError:
                continue  # it is not started yet
        return not seen.wrong()

    # A step that no worker takes yet, a key that is none, a caller who asks too much, a job that failed.
    house.playbook(f"""
name: ask
steps:
  - {{name: act, type: webhook, url: "{outside.url}/act"}}
  - {{name: sure, type: approval}}
""")
    execution = house.start("ask")
    scrape()
    assert web.call("GET", "/v1/services", key="mdk_0123456789ab_wrong").status_code == 401
    # An earlier test's calls from this address may have used the place up, so the first may be refused too.
    assert 429 in {web.call("GET", "/openapi.json").status_code for _ in range(3)}
    assert web.call("GET", "/health").ok
    web.done(
        "POST", "/v1/targets", {"name": "hook", "kind": "webhook", "config": {"url": f"{outside.url}/told"}}
    )
    web.done("POST", "/v1/services", {"name": "web", "every": "5m"})
    web.done("POST", "/v1/heartbeats", {"service": "web", "status": "fail"})
    web.done("POST", "/v1/targets/hook/test", {})

    for name, start in (("steps", own.steps), ("deliveries", own.deliveries)):
        own.environ["METRICS_PORT"] = str(ports[name])
        start()
    own.environ["METRICS_PORT"] = str(ports["beat"])
    own.beat()
    own.environ["METRICS_PORT"] = str(ports["system"])
    own._start("system", "worker", "--name", "system", "--queues", "medic.system", "--concurrency", "1")
    try:
        house.comes_to(execution, "pending_approval", within=60)
    except AssertionError as error:
        error.add_note(f"{house.row(execution)}\n{own.said()[-6000:]}")
        raise
    (question,) = house.rows("SELECT id FROM approvals WHERE state = 'pending'")
    web.done("POST", f"/v1/approvals/{question['id']}/approve", {})
    assert house.ended(execution, within=60) == "completed"
    try:
        eventually(scrape, within=60, every=0.5)
    except AssertionError:
        raise AssertionError("\n".join(seen.wrong()) + own.said()[-2000:]) from None
