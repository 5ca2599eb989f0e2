"""Record histories of the state machine: what it decided, to be compared with what it decides now.

    python -m tests.machine.record            # decide every history anew, and write what came out
    python -m tests.machine.record --draw     # draw the random ones anew, too

A file in ``histories/`` is a list of histories.  Each holds a playbook and the events that befell an execution of it
(``on``), and behind each what the machine decided (``then``).  To add one by hand, write it without any ``then`` and
record.  A change of behaviour shows as a difference of these files: read it before you commit it.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from medic import machine
from medic.machine import Decision, Recovered, Result, Skipped
from medic.playbook.document import Step
from medic.playbook.grammar import parse
from medic.steps import load_types
from medic.steps.base import AwaitApproval, Done, Failed, Park
from medic.times import format_time

FOLDER = Path(__file__).with_name("histories")
DRAWN = "drawn.json"
START = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
SEED, COUNT = 2026, 60

Json = dict[str, Any]

_PASSED_ON = ("output", "check")
"""What the machine only hands on."""


def play(history: Json) -> Iterator[Json]:
    """What the machine decides at each event; ends with the execution or the events."""
    steps = parse(history["playbook"], load_types()).playbook.steps
    position = tries = losses = 0
    parked = False
    for event in history["events"]:
        now = START + timedelta(seconds=event["at"])
        if "lost" in event["on"]:
            loss = machine.after_loss(steps[position], losses=losses)
            losses += 1
            yield {"verdict": loss.verdict, "error": loss.error}
            if loss.verdict != "retry":
                return
            continue
        if "dispatch" in event["on"]:
            parking = frozenset(name for name, kind in load_types().items() if kind.parks)
            sent = machine.window(steps, start=position, parked=parked, parking=parking)
            grace = machine.grace(event["on"]["dispatch"])
            yield {"sent": [steps[at].name for at in sent], "grace_s": grace.total_seconds()}
            continue
        decision = decide(steps, event, position=position, tries=tries, now=now)
        yield written(decision)
        if decision.is_final:
            return
        if decision.next_step != position:
            position, tries, losses, parked = decision.next_step, 0, 0, False
        else:
            tries += decision.counts_try
            parked = parked or decision.parks


def decide(steps: tuple[Step, ...], event: Json, *, position: int, tries: int, now: datetime) -> Decision:
    return machine.decide(
        steps[position], read(event["on"], now), position=position, step_count=len(steps), tries=tries, now=now,
        chance=event.get("chance", 0.5),
    )  # fmt: skip


def read(on: Json, now: datetime) -> Result:
    """An event's result, as a step gives it."""
    ((kind, given),) = on.items()
    match kind:
        case "done":
            return Done(given)
        case "failed":
            return Failed(given["code"], "No.", retryable=given.get("retryable", False))
        case "park":
            return Park(now + timedelta(seconds=given["for_s"]), given.get("check"))
        case "approval":
            seconds = given.get("timeout_s")
            timeout = timedelta(seconds=seconds) if seconds else None
            return AwaitApproval(timeout, given.get("on_timeout", "reject"), "Go on?")
        case "skipped":
            return Skipped(given)
        case "recovered":
            return Recovered()
    raise ValueError(f"{kind} is no event")


def written(decision: Decision) -> Json:
    """A decision as JSON; without what has its usual value."""
    told = {
        name: value for name, value in asdict(decision).items() if value is not None and value is not False
    }
    told.pop("approval", None)
    for name in _PASSED_ON:
        told.pop(name, None)
    if decision.due_at is not None:
        told["due_at"] = format_time(decision.due_at)
    if decision.approval is not None:
        told["asks"] = decision.approval.on_timeout
    return told


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def histories(file: Path) -> list[Json]:
    return list(json.loads(file.read_text(encoding="utf-8")))


def record(file: Path, found: list[Json]) -> None:
    for history in found:
        decisions = list(play(history))
        history["events"] = [
            {name: value for name, value in event.items() if name != "then"} | {"then": then}
            for event, then in zip(history["events"], decisions, strict=False)
        ]
    file.write_text("[\n" + ",\n".join(_text(history) for history in found) + "\n]\n", encoding="utf-8")


def _text(history: Json) -> str:
    """One line for each event, so that a difference shows what decides otherwise."""
    head = {name: value for name, value in history.items() if name != "events"}
    lines = ",\n".join(f"  {json.dumps(event)}" for event in history["events"])
    return json.dumps(head)[:-1] + f', "events": [\n{lines}\n]}}'


def draw(chance: random.Random) -> list[Json]:
    """Random histories: playbooks of every type, with results that fit and some that do not."""
    return [_drawn(chance, number) for number in range(COUNT)]


_KINDS = (
    "type: webhook, method: PUT, url: https://ops.example.com/a",
    "type: webhook, method: POST, url: https://ops.example.com/b",
    "type: script, script: mend",
    "type: wait, duration: 30s",
    "type: condition, check: alert_resolved, timeout: 5m",
    "type: approval",
)


def _drawn(chance: random.Random, number: int) -> Json:
    lines = []
    for at in range(chance.randint(1, 5)):
        kind = chance.choice(_KINDS)
        line = f"  - {{name: s{at}, {kind}, on_failure: {chance.choice(['fail', 'continue', 'escalate'])}"
        if "webhook" in kind or "script" in kind:
            line += f", on_crash: {chance.choice(['retry', 'fail', 'ask'])}"
            line += f", retry: {{attempts: {chance.randint(1, 4)}, backoff: {chance.randint(1, 60)}s}}"
        lines.append(line + "}")
    events: list[Json] = []
    at_s = 0.0
    for _ in range(12):
        at_s += chance.randint(1, 90)
        on: Json = chance.choices(
            (
                {"done": {}},
                {
                    "failed": {
                        "code": chance.choice(["http_503", "timeout", "exit"]),
                        "retryable": chance.random() < 0.7,
                    }
                },
                {"park": {"for_s": chance.randint(-5, 300)}},
                {"approval": {"timeout_s": chance.choice([None, 600])}},
                {"skipped": "Its condition does not hold."},
                {"recovered": True},
                {"lost": True},
                {"dispatch": chance.randint(0, 6)},
            ),
            (30, 22, 12, 6, 6, 2, 10, 12),
        )[0]
        events.append({"at": at_s, "chance": round(chance.random(), 3), "on": on})
    return {
        "name": f"drawn {number}",
        "playbook": "name: drawn\nsteps:\n" + "\n".join(lines),
        "events": events,
    }


def main(arguments: list[str]) -> None:
    if "--draw" in arguments:
        record(FOLDER / DRAWN, draw(random.Random(SEED)))
    for file in files():
        record(file, histories(file))
        print(f"{file.name}: {len(histories(file))} histories")


if __name__ == "__main__":
    main(sys.argv[1:])
