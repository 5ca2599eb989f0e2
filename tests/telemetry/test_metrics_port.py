from __future__ import annotations

import socket
import urllib.request
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


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_a_worker_serves_its_pools_metrics_and_a_second_one_only_warns(
    run: Callable[..., str], free_port: int
) -> None:
    output = run(
        SETUP
        + f"""
import logging; logging.basicConfig(level="WARNING", format="LOG %(message)s")
import urllib.request
assert exposition.serve_metrics(0, "127.0.0.1", registry) is None
server = exposition.serve_metrics({free_port}, "127.0.0.1", registry)
assert exposition.serve_metrics({free_port}, "127.0.0.1", registry) is None
os.waitpid(fork(lambda: metrics.HEARTBEATS.labels("success").inc(7)), 0)
print(urllib.request.urlopen("http://127.0.0.1:{free_port}/metrics").read().decode())
""",
        SHARE="1",
    )
    assert output.count("LOG metrics.port_unavailable") == 1
    assert (
        samples(output.replace("LOG metrics.port_unavailable\n", ""))[
            "medic_heartbeats_total", (("status", "success"),)
        ]
        == 7
    )


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("0.0.0.0", "0.0.0.0"),
        ("10.1.2.3", "0.0.0.0"),
        ("medic.internal", "0.0.0.0"),
        ("::", "::"),
        ("[fd00::1]", "::"),
    ],
)
def test_metrics_leave_the_machine_only_where_the_api_does(host: str, bound: str) -> None:
    from medic.telemetry.exposition import _bind_address

    assert _bind_address(host) == bound


def test_a_loopback_host_keeps_the_metrics_on_loopback(start: Callable[..., Any], free_port: int) -> None:
    process = start(
        SETUP
        + f"server = exposition.serve_metrics({free_port}, '127.0.0.1', registry)\nprint(server.server_address[0], flush=True)\nimport signal; signal.pause()"
    )
    assert process.stdout.readline().strip() == "127.0.0.1"
    assert "medic_build_info" in scrape(free_port)
    with socket.socket() as other:  # the wildcard address would be taken as well, were it bound there
        other.bind(("127.0.0.2", free_port))
