from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

from medic.telemetry import GRANIAN_LOGS


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


APP = """
import os, logging
from celery import Celery, signals
from medic.settings import Settings
from medic.telemetry import logs
app = Celery("app", broker=os.environ["BROKER"])
app.conf.update(
    worker_hijack_root_logger=False, task_ignore_result=True, task_acks_late=True, broker_connection_retry_on_startup=True,
)
@signals.setup_logging.connect
def _(**_): logs.configure_logging(Settings.from_env(os.environ), "worker")
@app.task(bind=True, name="medic.probe")
def probe(self):
    logs.bind_context(task_id=self.request.id)
    logging.getLogger("medic.inside").info("task.ran")
    logs.clear_context()
"""


def test_a_celery_worker_and_its_pool_write_this_format_only(
    start: Callable[..., Any], tmp_path: Any, valkey: str, acknowledged: Callable[[], None]
) -> None:
    broker = f"redis+socket://{valkey}"
    (tmp_path / "probe_app.py").write_text(APP)
    start("from probe_app import probe; probe.apply_async(task_id='t-1')", BROKER=broker).wait(30)
    worker = start(
        "", "-A", "probe_app", "-q", "worker", "-c", "1", "-l", "INFO", "--without-mingle", "--without-gossip",
        "--without-heartbeat", module="celery", BROKER=broker, stderr=subprocess.DEVNULL,  # banners; its records go to stdout
    )  # fmt: skip
    output = ""
    while "task.ran" not in output:
        read = worker.stdout.readline()
        assert read, output
        output += read
    acknowledged()
    worker.send_signal(signal.SIGTERM)
    output += worker.communicate(timeout=30)[0]
    # Celery writes this one past every logger, straight to the file descriptor.
    seen = lines(output.replace("\nworker: Warm shutdown (MainProcess)\n", ""))
    assert {line["Resource"]["medic.component"] for line in seen} == {"worker"}
    (ran,) = [line for line in seen if line["Body"] == "task.ran"]
    assert ran["Attributes"]["task_id"] == "t-1"
    assert any(line["Body"].endswith("ready.") for line in seen)
    # What Celery says of each message is noise beside a tick every other second.
    assert not [line for line in seen if "received" in line["Body"] or "succeeded" in line["Body"]]


WSGI = """
import logging
from medic.settings import Settings
from medic.telemetry import logs
logs.configure_logging(Settings.from_env({}), "api")
def app(environ, start_response):
    logging.getLogger("medic.inside").info("request.served")
    start_response("200 OK", [])
    return [b"ok"]
"""


def test_granian_writes_this_format_only(
    start: Callable[..., Any], tmp_path: Any, eventually: Callable[..., Any], free_port: int
) -> None:
    (tmp_path / "wsgi_app.py").write_text(WSGI)
    server = start(
        "", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(free_port), "--access-log",
        "--log-config", str(GRANIAN_LOGS), "wsgi_app:app", module="granian",
    )  # fmt: skip

    def answered() -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{free_port}/ping/0123456789abcdef?x=1", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    eventually(answered)
    os.kill(server.pid, signal.SIGTERM)
    output = server.communicate(timeout=30)[0]
    bodies = [line["Body"] for line in lines(output)]
    assert "request.served" in bodies
    assert any(body.startswith("Listening at") for body in bodies)
    (access,) = [line for line in lines(output) if line["InstrumentationScope"]["Name"] == "granian.access"]
    assert "/ping/[redacted]" in access["Body"]
    assert "0123456789abcdef" not in output
