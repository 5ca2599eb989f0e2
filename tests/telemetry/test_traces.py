from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_off_imports_nothing_answers_at_once_and_changes_nothing(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
import sys, time
assert not traces.configure_tracing(settings, "api") and not traces.tracing_enabled()
for act in (instrumentation.instrument_celery, instrumentation.instrument_clients): act()
instrumentation.instrument_flask(None); instrumentation.instrument_engine(None)
assert traces.current_traceparent() is None and traces.get_current_trace_id() is None
with traces.continue_trace("00-" + "a" * 32 + "-" + "b" * 16 + "-01"): assert traces.current_ids() is None
with traces.start_trace("execution") as traceparent: assert traceparent is None
traces.shutdown_tracing()
print(sorted({name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "grpc", "google", "celery", "flask", "sqlalchemy"}))
n = 20_000
t = time.perf_counter()
for _ in range(n): traces.current_ids()
print((time.perf_counter() - t) / n < 5e-6)
with traces.get_tracer("x").start_as_current_span("nothing"): assert traces.get_current_trace_id() is None
assert not any(name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "grpc")) for name in sys.modules)
""",
        OTEL_EXPORTER_OTLP_ENDPOINT="nonsense",
    )
    assert output.split("\n")[:2] == ["[]", "True"]


def test_spans_reach_the_collector_with_the_resource_of_the_settings(
    run: Callable[..., str], collector: Any
) -> None:
    run(
        SETUP + "with traces.get_tracer('x').start_as_current_span('work'): pass",
        **on(collector.url),
        MEDIC_VERSION="2.1",
        MEDIC_ENVIRONMENT="prod",
        OTEL_SERVICE_NAME="pulse",
        OTEL_RESOURCE_ATTRIBUTES="team=sre, zone=a%2Cb",
    )
    resource = collector.wait("work")["work"].resource
    expected = {
        "service.name": "pulse",
        "service.version": "2.1",
        "deployment.environment": "prod",
        "medic.component": "worker",
        "team": "sre",
        "zone": "a,b",
    }
    assert expected.items() <= resource.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "alloy:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team"),
    ],
)
def test_a_wrong_setting_stops_the_start_by_name(name: str, value: str) -> None:
    from medic.errors import Misconfigured
    from medic.settings import Settings
    from medic.telemetry.traces import configure_tracing, tracing_enabled

    wrong = Settings.from_env({**on("http://127.0.0.1:1"), name: value})
    with pytest.raises(Misconfigured, match=f"^{name}: "):
        configure_tracing(wrong, "api")
    assert not tracing_enabled()


@given(st.dictionaries(st.from_regex(r"[a-z][a-z.]{0,8}", fullmatch=True), st.text(max_size=8), max_size=4))
@settings(max_examples=50, deadline=None)
def test_resource_attributes_that_are_written_are_read_back(given_: dict[str, str]) -> None:
    from urllib.parse import quote

    from medic.telemetry.otlp import parse_resource_attributes

    text = ",".join(f"{name}={quote(value, safe='')}" for name, value in given_.items())
    assert parse_resource_attributes(text) == given_


def test_each_log_line_in_a_span_carries_its_ids(run: Callable[..., str], collector: Any) -> None:
    code = (
        SETUP
        + """
import logging
log = logging.getLogger("medic.x")
log.info("before")
with traces.get_tracer("x").start_as_current_span("work"):
    log.info("inside")
    assert traces.get_current_trace_id() == traces.current_ids()[0]
"""
    )
    before, inside = (json.loads(line) for line in run(code, **on(collector.url)).splitlines())
    span = collector.wait("work")["work"]
    assert (inside["TraceId"], inside["SpanId"]) == (span.trace_id, span.span_id)
    assert (len(inside["TraceId"]), len(inside["SpanId"])) == (32, 16)
    assert "TraceId" not in before
    text = run(code, **on(collector.url), MEDIC_LOG_FORMAT="text").splitlines()
    assert " trace_id=" in text[1]
    assert " trace_id=" not in text[0]


def test_an_execution_is_one_trace_over_processes_and_its_row(
    run: Callable[..., str], collector: Any
) -> None:
    traceparent = run(
        SETUP
        + """
with traces.get_tracer("x").start_as_current_span("sweep"):
    with traces.start_trace("execution", {"medic.playbook": "restart"}) as traceparent:
        assert traceparent == traces.current_traceparent()
    with traces.start_trace("another") as other: pass
    assert len({t.split("-")[1] for t in (traceparent, other, traces.current_traceparent())}) == 3
print(traceparent)
""",
        **on(collector.url),
    ).strip()
    run(
        SETUP
        + f"""
with traces.get_tracer("x").start_as_current_span("due sweep") as outer:
    with traces.continue_trace({traceparent!r}):
        with traces.get_tracer("x").start_as_current_span("step"): pass
    for nothing in (None, "", "rubbish", "00-{"0" * 32}-{"0" * 16}-01"):
        with traces.continue_trace(nothing):
            assert traces.current_ids()[1] == format(outer.get_span_context().span_id, "016x")
""",
        **on(collector.url),
    )
    seen = collector.wait("sweep", "execution", "step", "due sweep")
    assert seen["step"].trace_id == seen["execution"].trace_id == traceparent.split("-")[1]
    assert seen["step"].parent_id == seen["execution"].span_id
    assert len({seen[name].trace_id for name in ("sweep", "execution", "due sweep")}) == 3
    assert seen["execution"].links == [seen["sweep"].trace_id]
    assert seen["execution"].attributes == {"medic.playbook": "restart"}


def test_a_fork_sends_its_spans_itself_even_when_its_parent_had_a_channel_open(
    run: Callable[..., str], collector: Any
) -> None:
    run(
        SETUP
        + """
traces.configure_tracing(settings, "worker")
tracer = traces.get_tracer("x")
with tracer.start_as_current_span("parent before"): pass
traces._tracing._processor.force_flush()
for n in range(2):
    pid = os.fork()
    if pid == 0:
        with tracer.start_as_current_span(f"child {n}"): pass
        traces.shutdown_tracing()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
with tracer.start_as_current_span("parent after"): pass
""",
        **on(collector.url),
    )
    seen = collector.wait("parent before", "child 0", "child 1", "parent after")
    assert len(collector.spans) == 4
    assert len({span.trace_id for span in seen.values()}) == 4


def test_secrets_do_not_leave_in_spans(run: Callable[..., str], collector: Any) -> None:
    key = "mdk_0123456789ab_" + "Zz9" * 12 + "Qq"
    run(
        SETUP
        + f"""
key = {key!r}
try:
    with traces.get_tracer("x").start_as_current_span("work " + key) as span:
        span.set_attributes({{"note": key, "list": [key, "b"], "api_key": "Zz9Zz9", "n": 3, "http.url": "http://h/Zz9Zz9?Zz9Zz9",
                              "url.query": "a=Zz9Zz9", "http.target": "/hooks/Zz9Zz9Zz9?x=Zz9Zz9"}})
        span.add_event("event " + key, {{"why": key}})
        raise ValueError("bad " + key)
except ValueError: pass
with traces.get_tracer("x").start_as_current_span("done"): pass
""",
        **on(collector.url),
    )
    collector.wait("done")
    (span,) = [span for span in collector.spans if span.name != "done"]
    assert "Zz9" not in span.texts
    assert span.attributes["n"] == 3
    assert span.attributes["http.url"] == "http://h/[redacted]"
    assert span.error


def test_a_lone_client_call_begins_no_trace(run: Callable[..., str], collector: Any) -> None:
    run(
        SETUP
        + """
from opentelemetry.trace import SpanKind
tracer = traces.get_tracer("x")
with tracer.start_as_current_span("poll", kind=SpanKind.CLIENT): pass
with tracer.start_as_current_span("request", kind=SpanKind.SERVER):
    with tracer.start_as_current_span("select", kind=SpanKind.CLIENT): pass
""",
        **on(collector.url),
    )
    collector.wait("request", "select")
    assert len(collector.spans) == 2
