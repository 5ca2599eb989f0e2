from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETUP = """
import os
from medic.settings import Settings
from medic.telemetry import instrumentation, logs, traces
settings = Settings.from_env(os.environ)
logs.configure_logging(settings, "worker")
traces.configure_tracing(settings, "worker")
"""


def on(url: str) -> dict[str, str]:
    return {"OTEL_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url}


def test_https_means_tls(run: Callable[..., str], listen: Any, tmp_path: Path) -> None:
    import grpc
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    credentials = grpc.ssl_server_credentials(
        [
            (
                certificate.private_key_pem.bytes(),
                b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
            )
        ]
    )
    receiver = listen(credentials=credentials).receiver
    code = SETUP + "with traces.get_tracer('x').start_as_current_span('work'): pass"
    run(code, **on(receiver.url), OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "ca.pem"))
    receiver.wait("work")
    output = run(code, **on(receiver.url), OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert "traces.collector_unreachable" in output
    assert len(receiver.spans) == 1


def test_a_collector_that_is_away_costs_one_warning_and_is_found_again(
    start: Callable[..., Any], listen: Any, free_port: int, eventually: Callable[..., Any]
) -> None:
    process = start(
        SETUP
        + """
import time, sys
tracer = traces.get_tracer("x")
print("ready", flush=True)
while True:
    with tracer.start_as_current_span("beat"): pass
    time.sleep(0.02)
""",
        **on(f"http://127.0.0.1:{free_port}"),
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    seen: list[str] = []
    while not any("collector_unreachable" in line for line in seen):
        seen.append(process.stdout.readline())
        assert seen[-1]
    receiver = listen(port=free_port).receiver
    receiver.wait("beat", timeout=30)
    while not any("collector_reached" in line for line in seen):
        seen.append(process.stdout.readline())
        assert seen[-1]
    process.send_signal(signal.SIGTERM)
    seen += process.communicate(timeout=30)[0].splitlines()
    assert sum("collector_unreachable" in line for line in seen) == 1
    assert [line for line in seen if "opentelemetry" in line or "grpc" in line] == []


def test_a_stop_waits_seconds_not_minutes_for_a_collector_that_is_away(run: Callable[..., str]) -> None:
    code = (
        SETUP
        + """
import time
tracer = traces.get_tracer("x")
for _ in range(2000):
    with tracer.start_as_current_span("work"): pass
t = time.perf_counter(); traces.shutdown_tracing(); print("took", time.perf_counter() - t)
traces.shutdown_tracing()
with tracer.start_as_current_span("late"): pass
"""
    )
    with socket.socket() as silent:  # takes connections and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        output = run(
            code, **on(f"http://127.0.0.1:{silent.getsockname()[1]}"), OTEL_EXPORTER_OTLP_TIMEOUT="1"
        )
    assert float(output.split("took ")[1].split()[0]) < 4
    assert output.count("collector_unreachable") == 1


def test_a_span_costs_little_while_the_collector_is_away(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
import time
tracer = traces.get_tracer("x")
t = time.perf_counter()
for _ in range(5000):
    with tracer.start_as_current_span("work"): pass
print("took", (time.perf_counter() - t) / 5000)
""",
        **on("http://127.0.0.1:9"),
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert float(output.split("took ")[1].split()[0]) < 0.002
