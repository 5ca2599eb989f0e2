from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

SETUP = """
import os
from medic.settings import Settings
from medic.telemetry.multiprocess import prepare_multiprocess
if os.environ.get("SHARE"):
    directory = prepare_multiprocess()
from medic.telemetry import metrics, exposition
settings = Settings.from_env(dict(MEDIC_VERSION="2.1", MEDIC_ENVIRONMENT="prod"))
registry = exposition.scrape_registry(settings)
def show(registry=registry): print(exposition.render_metrics(registry)[0].decode(), flush=True)
def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid
"""

NAMES = {
    "medic_build_info": (),
    "medic_http_server_request_total": ("method", "route", "status_code"),
    "medic_http_server_request_duration_seconds": ("method", "route"),
    "medic_heartbeats_total": ("status",),
    "medic_alerts_total": ("priority",),
    "medic_alerts_resolved_total": (),
    "medic_deliveries_total": ("kind", "outcome"),
    "medic_delivery_latency_seconds": ("kind",),
    "medic_worker_cycle_duration_seconds": (),
    "medic_worker_services_checked_total": (),
    "medic_sweep_lag_seconds": (),
    "medic_sweep_set_aside_total": (),
    "medic_ingest_uncovered_seconds": (),
    "medic_detection_latency_seconds": (),
    "medic_playbook_executions_total": ("status",),
    "medic_step_duration_seconds": ("type", "outcome"),
    "medic_auth_failures_total": ("reason",),
    "medic_rate_limit_refusals_total": ("rate_class",),
    "medic_rate_limit_degraded": (),
    "medic_rate_limit_degradations_total": (),
    "medic_playbook_execution_duration_seconds": ("status",),
    "medic_playbook_refusals_total": ("code",),
    "medic_approval_latency_seconds": ("verdict", "by"),
    "medic_health_status": ("component",),
    "medic_watchdog_pings_total": ("outcome",),
    "medic_db_client_operation_duration_seconds": ("operation",),
    "medic_db_pool_in_use": (),
    "medic_db_pool_size": (),
    "medic_db_connection_errors_total": (),
}


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("share", ["", "1"])
def test_every_metric_of_the_list_is_shown_and_no_other(run: Callable[..., str], share: str) -> None:
    output = run(
        SETUP
        + """
m = metrics
m.observe_request("GET", "/v1/services/<name>", 200, 0.01)
m.HEARTBEATS.labels("success").inc(); m.ALERTS.labels("p1").inc(); m.ALERTS_RESOLVED.inc()
m.CYCLE_SECONDS.observe(0.2); m.SERVICES_CHECKED.inc(3); m.SWEEP_SET_ASIDE.inc(); m.SWEEP_LAG_SECONDS.set(1.5); m.DETECTION_SECONDS.observe(2)
m.EXECUTIONS.labels("completed").inc(); m.STEP_SECONDS.labels("webhook", "success").observe(0.4)
m.AUTH_FAILURES.labels("unknown").inc(); m.RATE_LIMIT_REFUSALS.labels("ingest").inc(); m.RATE_LIMIT_DEGRADED.set(1)
m.DELIVERIES.labels("slack", "delivered").inc(); m.DELIVERY_SECONDS.labels("slack").observe(0.4)
m.DB_CONNECTION_ERRORS.inc(); m.INGEST_UNCOVERED_SECONDS.set(0); m.DB_SECONDS.labels("select").observe(0.01)
m.RATE_LIMIT_DEGRADATIONS.inc(); m.EXECUTION_SECONDS.labels("completed").observe(3); m.EXECUTION_REFUSALS.labels("breaker").inc()
m.APPROVAL_SECONDS.labels("approved", "human").observe(9); m.HEALTH.labels("database").set(1); m.WATCHDOG_PINGS.labels("sent").inc()
m.DB_POOL_IN_USE.inc(); m.DB_POOL_SIZE.set(10)
show()
""",
        SHARE=share,
    )
    seen = samples(output)
    bare = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name, _ in seen}
    assert bare == set(NAMES)
    for name, labels in NAMES.items():
        found = {
            tuple(k for k, _ in pairs if k != "le")
            for key, pairs in seen
            if key.startswith(name) and name != "medic_build_info"
        }
        assert all(set(each) == set(labels) for each in found), name
    assert seen["medic_sweep_lag_seconds", ()] == 1.5
    assert seen["medic_step_duration_seconds_count", (("outcome", "success"), ("type", "webhook"))] == 1
    assert (
        seen[
            "medic_step_duration_seconds_bucket", (("le", "0.5"), ("outcome", "success"), ("type", "webhook"))
        ]
        == 1
    )
    (build,) = [dict(pairs) for name, pairs in seen if name == "medic_build_info"]
    assert (build["service_version"], build["deployment_environment"], build["service_name"]) == (
        "2.1",
        "prod",
        "medic",
    )


def test_a_clients_invented_methods_and_paths_make_no_new_series(run: Callable[..., str]) -> None:
    output = run(
        SETUP + "for n in range(50): metrics.observe_request(f'M{n}', None, 404, 0.1)\nshow()",
    )
    series = [pairs for name, pairs in samples(output) if name == "medic_http_server_request_total"]
    assert series == [(("method", "other"), ("route", "unmatched"), ("status_code", "404"))]


def test_a_scrape_of_one_process_shows_the_sum_of_all(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
import signal
ready, say = os.pipe()
def work():
    metrics.HEARTBEATS.labels("success").inc(5)
    metrics.STEP_SECONDS.labels("wait", "success").observe(0.3)
    os.write(say, b"x")
    signal.pause()
metrics.HEARTBEATS.labels("success").inc()
children = [fork(work) for _ in range(3)]
for _ in children: os.read(ready, 1)
show()
for pid in children:
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
""",
        SHARE="1",
    )
    seen = samples(output)
    assert seen["medic_heartbeats_total", (("status", "success"),)] == 16
    assert seen["medic_step_duration_seconds_count", (("outcome", "success"), ("type", "wait"))] == 3


def test_processes_that_ended_leave_their_counts_and_no_files(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
import json
def work():
    metrics.HEARTBEATS.labels("success").inc(2)
    metrics.STEP_SECONDS.labels("wait", "success").observe(0.3)
    metrics.STEP_SECONDS.labels("wait", "success").observe(40)
    metrics.SWEEP_LAG_SECONDS.set(99)
    metrics.RATE_LIMIT_DEGRADED.set(1)
for round in range(3):
    for pid in [fork(work) for _ in range(4)]: os.waitpid(pid, 0)
    exposition.render_metrics(registry)
(directory / "counter_999999999.db").touch()  # killed in the moment in which it made its file
exposition.render_metrics(registry)
print(json.dumps(sorted(p.name for p in directory.glob("*.db") if str(os.getpid()) not in p.name)))
show()
""",
        SHARE="1",
    )
    files, text = output.split("\n", 1)
    assert json.loads(files) == ["counter_0.db", "histogram_0.db"]
    seen = samples(text)
    assert seen["medic_heartbeats_total", (("status", "success"),)] == 24
    labels = (("outcome", "success"), ("type", "wait"))
    assert seen["medic_step_duration_seconds_count", labels] == 24
    assert seen["medic_step_duration_seconds_sum", labels] == pytest.approx(12 * 40.3)
    assert seen["medic_step_duration_seconds_bucket", (("le", "0.5"), *labels)] == 12
    assert seen["medic_step_duration_seconds_bucket", (("le", "60.0"), *labels)] == 24
    assert seen.get(("medic_rate_limit_degraded", ()), 0) == 0
    assert seen.get(("medic_sweep_lag_seconds", ()), 0) == 0


def test_no_count_is_lost_or_doubled_while_processes_come_and_go_under_scrapes(
    run: Callable[..., str],
) -> None:
    output = run(
        SETUP
        + """
import threading
from prometheus_client.parser import text_string_to_metric_families
def total():
    text = exposition.render_metrics(registry)[0].decode()
    return sum(s.value for f in text_string_to_metric_families(text) for s in f.samples if s.name == "medic_heartbeats_total")
going, seen = True, ([], [])
def scrapes(mine):
    while going: mine.append(total())
threads = [threading.Thread(target=scrapes, args=[mine]) for mine in seen]
for t in threads: t.start()
import subprocess, sys
work = "from medic.telemetry import metrics\\nfor _ in range(50): metrics.HEARTBEATS.labels('success').inc()"
for _ in range(4):
    both = [subprocess.Popen([sys.executable, "-c", work]) for _ in range(2)]
    for p in both: assert p.wait() == 0
going = False
for t in threads: t.join()
print(total(), all(mine == sorted(mine) for mine in seen), all(len(mine) > 5 for mine in seen))
""",
        SHARE="1",
    )
    assert output.split() == ["400.0", "True", "True"]


def test_the_directory_of_a_process_goes_with_it_but_not_with_its_forks(run: Callable[..., str]) -> None:
    from pathlib import Path

    output = run(
        SETUP
        + "import sys\npid = os.fork()\nif pid == 0: sys.exit()\nos.waitpid(pid, 0)\nprint(directory, directory.is_dir())",
        SHARE="1",
    )
    path, alive = output.split()
    assert alive == "True"
    assert not Path(path).exists()


def test_sharing_must_be_prepared_before_the_first_metric(run: Callable[..., str]) -> None:
    output = run(
        "import prometheus_client\nfrom medic.telemetry.multiprocess import prepare_multiprocess\n"
        "try: prepare_multiprocess()\nexcept RuntimeError as e: print(e)"
    )
    assert "before prometheus_client" in output


def test_a_child_program_joins_its_parents_directory(run: Callable[..., str], tmp_path: Any) -> None:
    code = "from medic.telemetry.multiprocess import prepare_multiprocess; print(prepare_multiprocess())"
    assert run(code, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "x")).strip() == str(tmp_path / "x")


def test_the_census_is_read_at_each_scrape_and_its_failure_costs_only_itself(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
import logging; logging.basicConfig(level="WARNING", format="LOG %(message)s")
from medic.telemetry.exposition import Census
answers = [Census({"up": 3, "down": 1}, 2, {"waiting": 7}), None, None, Census({"up": 4}, 0, {})]
def read():
    answer = answers.pop(0)
    if answer is None: raise ConnectionError("secret dsn")
    return answer
registry = exposition.scrape_registry(settings, read)
assert len(answers) == 4
for _ in range(4):
    show(registry); print("=====", flush=True)
"""
    )
    assert output.count("LOG metrics.census_failed") == 1
    assert "secret dsn" not in output
    first, second, third, last, _ = output.replace("LOG metrics.census_failed\n", "").split("=====\n")
    seen = samples(first)
    assert seen["medic_services", (("status", "up"),)] == 3
    assert seen["medic_alerts_active", ()] == 2
    assert seen["medic_executions", (("state", "waiting"),)] == 7
    for text in (second, third):
        assert "medic_services" not in text
        assert "medic_build_info" in text
    assert samples(last)["medic_services", (("status", "up"),)] == 4
