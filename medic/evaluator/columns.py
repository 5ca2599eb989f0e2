"""A service's state as the row keeps it: columns that others read, and one JSON object for the rest."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from medic.evaluator.values import RunMark, State, Status
from medic.times import format_time

COLUMNS = frozenset({"status", "policy_version", "last_success_at", "failures", "successes", "folded_id"})
"""The fields of `State` that are columns of `service_states`; `carry` holds all others."""

_NOT_TIMES = {"misses", "held_from", "new_alerted"}
_CARRIED = [(field.name, field.default) for field in fields(State) if field.name not in {*COLUMNS, "marks"}]


def carry(state: State) -> dict[str, Any]:
    """The fields that are no columns, JSON-able; those at their default are left out."""
    carried: dict[str, Any] = {}
    for name, default in _CARRIED:
        value = getattr(state, name)
        if isinstance(value, datetime):
            carried[name] = format_time(value)
        elif value != default:
            carried[name] = value
    if state.marks:
        carried["marks"] = [[mark.key, mark.later_successes, mark.overrun] for mark in state.marks]
    return carried


def restore(
    carried: dict[str, Any],
    *,
    status: str,
    policy_version: int,
    last_success_at: datetime | None,
    failures: int,
    successes: int,
    folded_id: int,
) -> State:
    """The state again from the columns and what `carry` made."""
    rest: dict[str, Any] = {
        # `carry` wrote them; the general reader of times costs five times as much.
        name: value if name in _NOT_TIMES else datetime.fromisoformat(value)
        for name, value in carried.items()
        if name != "marks"
    }
    marks = tuple(RunMark(*mark) for mark in carried.get("marks", ()))
    return State(
        status=Status(status),
        policy_version=policy_version,
        last_success_at=last_success_at,
        failures=failures,
        successes=successes,
        folded_id=folded_id,
        marks=marks,
        **rest,
    )
