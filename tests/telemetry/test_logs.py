from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

SETUP = """
import logging, structlog
from medic.settings import Settings
from medic.telemetry import logs
import os
logs.configure_logging(Settings.from_env(os.environ), "api")
log = structlog.get_logger("medic.alerts")
std = logging.getLogger("medic.plain")
"""
KEY = "mdk_0123456789ab_" + "Zz9" * 12 + "Qq"


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_line_has_the_shape_of_the_otel_log_model(run: Callable[..., str]) -> None:
    output = run(
        SETUP + "def ring():\n    log.info('alert.opened', service='api', alert=3)\nring()",
        MEDIC_VERSION="2.1",
        MEDIC_ENVIRONMENT="prod",
        OTEL_SERVICE_NAME="pulse",
    )
    (line,) = lines(output)
    assert line.pop("Timestamp").endswith("Z")
    assert line.pop("Attributes") == {
        "service": "api",
        "alert": 3,
        "code.filepath": "<string>",
        "code.lineno": 10,
        "code.function": "ring",
    }
    assert line == {
        "SeverityText": "INFO",
        "SeverityNumber": 9,
        "Body": "alert.opened",
        "Resource": {
            "service.name": "pulse",
            "service.version": "2.1",
            "deployment.environment": "prod",
            "medic.component": "api",
        },
        "InstrumentationScope": {"Name": "medic.alerts"},
    }


def test_both_kinds_of_loggers_come_out_alike_at_every_level(run: Callable[..., str]) -> None:
    levels = "['debug','info','warning','error','critical']"
    output = run(
        SETUP
        + f"for n in {levels}:\n    getattr(log, n)('x', a=1)\n    getattr(std, n)('x', extra=dict(a=1))",
        MEDIC_LOG_LEVEL="DEBUG",
    )
    seen = lines(output)
    assert [line["SeverityNumber"] for line in seen[::2]] == [5, 9, 13, 17, 21]
    for ours, plain in zip(seen[::2], seen[1::2], strict=True):
        for line in (ours, plain):
            for volatile in ("Timestamp", "InstrumentationScope"):
                del line[volatile]
            del line["Attributes"]["code.lineno"]
        assert ours == plain


def test_the_level_of_the_settings_holds_for_both(run: Callable[..., str]) -> None:
    output = run(
        SETUP + "log.info('no'); std.info('no'); log.warning('yes'); std.warning('yes')", LOG_LEVEL="WARNING"
    )
    assert [line["Body"] for line in lines(output)] == ["yes", "yes"]


def test_bound_ids_stand_in_each_line_until_they_are_cleared(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
logs.bind_context(request_id="r1", execution_id=None)
std.info("a")
with logs.bound_context(task_id="t1", request_id="r2"):
    log.info("b")
log.info("c", request_id="mine")
logs.clear_context()
std.info("d")
"""
    )
    ids = [{k: v for k, v in line["Attributes"].items() if k.endswith("_id")} for line in lines(output)]
    assert ids == [{"request_id": "r1"}, {"request_id": "r2", "task_id": "t1"}, {"request_id": "mine"}, {}]


def test_no_way_into_a_line_leads_past_the_redaction(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + f"""
key = {KEY!r}
log.info("used " + key, note=key, nested=dict(deep=[key]), password="hunter2")
std.info("used %s", key, extra=dict(api_key=dict(a=key), url="http://u:hunter2@h/"))
log.info("used %s", key)
logs.bind_context(request_id=key)
try:
    hunter = "hunter" + str(2)
    raise ValueError("bad " + key)
except ValueError:
    log.exception("failed")
    std.exception("failed")
    log.error("failed", exc_info=True, stack_info=True)
import warnings
warnings.warn("careless " + key)
"""
    )
    assert "Zz9" not in output
    assert "hunter2" not in output
    assert len(lines(output)) == 7


def test_an_exception_is_told_without_the_values_of_its_locals(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + """
def inner():
    local = "val" + "ue-of-local"
    raise LookupError("gone")
try:
    inner()
except LookupError as e:
    error = e
log.error("failed", exc_info=error)
"""
    )
    (line,) = lines(output)
    attributes = line["Attributes"]
    assert attributes["exception.type"] == "LookupError"
    assert attributes["exception.message"] == "gone"
    assert "in inner" in attributes["exception.stacktrace"]
    assert "value-of-local" not in output


def test_text_is_one_line_for_people_with_ids_and_no_forged_lines(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + "logs.bind_context(request_id='r1')\nlog.warning('a\\nfake - root - INFO - b', why='two words', n=2, e='')",
        MEDIC_LOG_FORMAT="text",
    )
    assert output.count("\n") == 1
    time, rest = output.rstrip().split(" - ", 1)
    assert time.endswith("Z")
    assert (
        rest == 'medic.alerts - WARNING - a\\nfake - root - INFO - b why="two words" n=2 e="" request_id=r1'
    )


def test_text_shows_the_traceback_below_its_line(run: Callable[..., str]) -> None:
    output = run(
        SETUP + "try:\n    1 / 0\nexcept ZeroDivisionError:\n    std.exception('oh')", MEDIC_LOG_FORMAT="text"
    )
    first, second, *_ = output.splitlines()
    assert first.endswith('oh exception.type=ZeroDivisionError exception.message="division by zero"')
    assert second.startswith("Traceback")


def test_a_record_that_cannot_be_rendered_tells_where_it_came_from_and_nothing_else(
    run: Callable[..., str],
) -> None:
    output = run(SETUP + f"std.info('%d', {KEY!r}); std.info('next')")
    broken, following = lines(output)
    assert (broken["Body"], broken["InstrumentationScope"]["Name"]) == ("log.unprintable", "medic.plain")
    assert broken["Attributes"]["code.lineno"] == 9
    assert following["Body"] == "next"
    assert "Zz9" not in output


def test_hostile_characters_do_not_stop_a_line(run: Callable[..., str]) -> None:
    for kind in ("json", "text"):
        output = run(
            SETUP + r"log.info('\ud800 \x00 \u2028', x='\ud800\x85')",
            MEDIC_LOG_FORMAT=kind,
            PYTHONIOENCODING="ascii",
        )
        assert len(output.splitlines()) == 1
        assert "unprintable" not in output


def test_configuring_again_replaces_the_first_configuration(run: Callable[..., str]) -> None:
    output = run(
        SETUP
        + "log.info('a')\nlogs.configure_logging(Settings.from_env({}), 'beat')\nlog.info('b')\nstd.info('c')"
    )
    assert [(line["Body"], line["Resource"]["medic.component"]) for line in lines(output)] == [
        ("a", "api"),
        ("b", "beat"),
        ("c", "beat"),
    ]


def test_a_crash_of_a_thread_and_of_the_process_are_lines_too(start: Callable[..., Any]) -> None:
    process = start(
        SETUP
        + f"""
import threading
def fall(): raise OSError("thread " + {KEY!r})
t = threading.Thread(target=fall, name="writer"); t.start(); t.join()
raise RuntimeError("process " + {KEY!r})
"""
    )
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    thread, crash = lines(output)
    assert (thread["Body"], thread["Attributes"]["thread_name"]) == ("thread.crashed", "writer")
    assert (crash["Body"], crash["SeverityText"]) == ("process.crashed", "CRITICAL")
    assert "Zz9" not in output


@pytest.fixture
def restored() -> Any:
    import logging
    import sys
    import threading

    import structlog

    root = logging.getLogger()
    kept = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    yield
    root.handlers[:], level, sys.excepthook, threading.excepthook = kept
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def test_another_tools_handlers_and_hooks_are_left_in_place(
    restored: None, caplog: pytest.LogCaptureFixture
) -> None:
    import logging
    import threading

    from medic.settings import Settings
    from medic.telemetry.logs import configure_logging

    hook = threading.excepthook
    configure_logging(Settings.from_env({}), "cli")
    logging.getLogger("medic.x").warning("still captured")
    assert "still captured" in caplog.text
    assert (threading.excepthook is hook) == (hook is not threading.__excepthook__)
