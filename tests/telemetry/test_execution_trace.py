"""One trace per execution, carried through its row: what runs after a wait, in another process, is still in it."""

from __future__ import annotations

from typing import Any

from tests.recorder import Recorder
from tests.tasks.house import House
from tests.tasks.processes import Workers

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_steps_before_and_after_a_wait_run_in_the_trace_that_the_row_carries(
    house: House,
    own: Workers,
    outside: Recorder,
    collector: Any,
) -> None:
    house.playbook(f"""
name: traced
steps:
  - {{name: before, type: webhook, url: "{outside.url}/before"}}
  - {{name: rest, type: wait, duration: 1s}}
  - {{name: after, type: webhook, url: "{outside.url}/after"}}
""")
    own.environ |= {"OTEL_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    execution = house.start("traced", publish=False)
    house.run(
        "UPDATE executions SET traceparent = :carried WHERE id = :id",
        carried=f"00-{TRACE}-00f067aa0ba902b7-01", id=execution,
    )  # fmt: skip
    own.steps()
    own.system()
    assert house.ended(execution, within=90) == "completed"

    def positions() -> set[str]:
        ran = [
            span for span in list(collector.spans) if span.trace_id == TRACE and span.name.startswith("run/")
        ]
        ids = [
            str(span.attributes.get("messaging.message_id", span.attributes.get("messaging.message.id", "")))
            for span in ran
        ]
        return {task_id.split(".")[1] for task_id in ids if task_id.startswith(str(execution))}

    with collector.grew:
        assert collector.grew.wait_for(lambda: {"s00", "s01", "s02"} <= positions(), 60), sorted(
            {(span.name, span.trace_id) for span in collector.spans}
        )
    others = [span for span in collector.spans if span.trace_id != TRACE and "medic.step" in span.name]
    assert others == []
