"""What must hold of every execution, whatever happened while it ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from medic.playbook.document import Step
from medic.playbook.grammar import parse
from medic.steps import load_types
from tests.chaos.mix import BY_NAME
from tests.chaos.world import Effect, World
from tests.tasks.house import FINAL, House

Row = dict[str, Any]

LOST = frozenset({"lost", "lost_workers"})
ENDED = frozenset({"completed", "skipped"})
UNTOUCHED = frozenset({"pending", "skipped", "cancelled"})


def judged(house: House, world: World) -> list[str]:
    """Every fault, in a sentence each; none if all is well."""
    plans = {
        name: parse(recipe.source(world.url), load_types()).playbook.steps for name, recipe in BY_NAME.items()
    }
    executions = house.rows("SELECT * FROM executions ORDER BY id")
    steps = _grouped(house.rows("SELECT * FROM execution_steps ORDER BY position"))
    attempts = _grouped(house.rows("SELECT * FROM step_attempts ORDER BY id"))
    asked_again = {
        (UUID(row["object_id"]), row["position"])
        for row in house.rows(
            "SELECT object_id, CAST(detail ->> 'position' AS int) AS position FROM audit_entries"
            " WHERE action = 'execution.settle' AND detail ->> 'verdict' = 'retry'"
        )
    }
    effects: dict[UUID, list[Effect]] = defaultdict(list)
    for effect in world.effects():
        effects[effect.execution].append(effect)
    faults = [
        f"{stranger}: acted, but there is no such execution" for stranger in effects.keys() - steps.keys()
    ]
    for row in executions:
        case = Case(
            row,
            steps[row["id"]],
            attempts.get(row["id"], []),
            effects.get(row["id"], []),
            plans[row["playbook_name"]],
            {position for execution, position in asked_again if execution == row["id"]},
        )
        faults += [f"{row['playbook_name']} {row['id']}: {fault}" for fault in case.faults()]
    for host in {row["variables"].get("HOST") for row in executions} - {None}:
        holders = [row["id"] for row in executions if row["variables"].get("HOST") == host]
        if _most_at_once(holders, effects) > 1:
            faults.append(f"two executions held the lock of {host} at once")
    crowd = [row["id"] for row in executions if row["playbook_name"] == "crowded"]
    if _most_at_once(crowd, effects) > 3:
        faults.append("more than three executions of `crowded` ran at once")
    faults += [
        f"the lock {row['name']} outlives {row['state']} {row['id']}"
        for row in house.rows(
            "SELECT l.name, e.id, e.state FROM locks l JOIN executions e ON e.id = l.execution_id"
            " WHERE e.state <> 'in_doubt'"
        )
    ]
    return faults


class Case:
    """One execution, and all that is known of it."""

    def __init__(
        self, row: Row, steps: list[Row], attempts: list[Row], effects: list[Effect], plan: Sequence[Step],
        asked_again: set[int],
    ) -> None:  # fmt: skip
        self._row = row
        self._steps = steps
        self._attempts = {(attempt["position"], attempt["epoch"]): attempt for attempt in attempts}
        self._plan = plan
        self._asked_again = asked_again
        self._effects = {step["name"]: [e for e in effects if e.step == step["name"]] for step in steps}
        self._unknown = [e for e in effects if e.step not in self._effects]

    def faults(self) -> Iterator[str]:
        if self._row["state"] not in {*FINAL, "in_doubt"}:
            yield f"is {self._row['state']}, waiting for {self._row['waiting_for']}"
            return
        if self._row["owner"] is not None:
            yield "has an owner at its end"
        yield from (f"attempt {at} has no end" for at, a in self._attempts.items() if a["outcome"] is None)
        yield from (f"step {effect.step} acted, but is none of its steps" for effect in self._unknown)
        yield from self._faults_of_order()
        yield from self._faults_of_states()
        for step, planned in zip(self._steps, self._plan, strict=True):
            yield from (f"step {step['name']}: {fault}" for fault in self._faults_of_effects(step, planned))

    def _faults_of_order(self) -> Iterator[str]:
        latest = -1
        for step in self._steps:
            arrived = [effect.at for effect in self._effects[step["name"]]]
            if arrived and min(arrived) < latest:
                yield f"step {step['name']} acted before the last request of an earlier one"
            latest = max([latest, *arrived])

    def _faults_of_states(self) -> Iterator[str]:
        """Ended steps, then at most one that stopped it, then none that was touched."""
        stopped: Row | None = None
        for step, planned in zip(self._steps, self._plan, strict=True):
            if stopped is not None:
                if step["state"] not in UNTOUCHED or self._effects[step["name"]]:
                    yield f"step {step['name']} is {step['state']} behind {stopped['name']}, which is {stopped['state']}"
            elif step["state"] == "failed" and planned.on_failure == "continue":
                yield from self._faults_of_failure(step)
            elif step["state"] not in ENDED:
                stopped = step
        state = self._row["state"]
        if (state == "completed") != (stopped is None):
            yield f"is {state}, stopped by {stopped and stopped['name']}"
        if state in {"failed", "in_doubt"} and stopped is not None and stopped["state"] != state:
            yield f"is {state}, but its step {stopped['name']} is {stopped['state']}"
        if state == "failed" and stopped is not None:
            yield from self._faults_of_failure(stopped)

    def _faults_of_failure(self, step: Row) -> Iterator[str]:
        recipe = BY_NAME[self._row["playbook_name"]]
        code = step["error"]["code"]
        if code not in recipe.ends | LOST and not (recipe.name == "passing" and code == "http_503"):
            yield f"step {step['name']} failed with {step['error']}"

    def _faults_of_effects(self, step: Row, planned: Step) -> Iterator[str]:
        effects = self._effects[step["name"]]
        if step["state"] == "completed" and planned.type in {"webhook", "script"} and not effects:
            yield "completed without an effect"
        if step["state"] in UNTOUCHED and effects:
            yield f"is {step['state']}, but acted"
        tokens = [effect.token for effect in effects]
        if tokens != sorted(set(tokens)):
            yield f"acted with the fencing tokens {tokens}"
        for effect in effects[:-1]:
            attempt = self._attempts.get((step["position"], effect.token))
            outcome = attempt and attempt["outcome"]
            may_be_lost = planned.on_crash == "retry" or step["position"] in self._asked_again
            if not (
                (outcome == "lost" and may_be_lost) or (outcome == "failed" and planned.retry.attempts > 1)
            ):
                yield f"acted again after an attempt that was {outcome}, on_crash: {planned.on_crash}"
        for effect in effects:
            attempt = self._attempts.get((step["position"], effect.token))
            if attempt is None or attempt["outcome"] not in {"completed", "failed", "lost"}:
                yield f"acted under token {effect.token}, of the attempt {attempt and attempt['outcome']}"


def _most_at_once(executions: list[UUID], effects: Mapping[UUID, list[Effect]]) -> int:
    """How many of these were between their first and their last effect at the same time."""
    turns = []
    for execution in executions:
        if arrived := [effect.at for effect in effects.get(execution, [])]:
            turns += [(min(arrived), 1), (max(arrived) + 0.5, -1)]
    now = most = 0
    for _, change in sorted(turns):
        now += change
        most = max(most, now)
    return most


def _grouped(rows: list[Row]) -> dict[UUID, list[Row]]:
    found: dict[UUID, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["execution_id"]].append(row)
    return found
