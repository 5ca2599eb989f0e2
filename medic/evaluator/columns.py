"""A service's state as the row keeps it: columns that others read, and one JSON object for the rest."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any

from medic.evaluator.values import RunMark, State, Status
from medic.times import format_time, parse_time

COLUMNS = frozenset({"status", "policy_version", "last_success_at", "failures", "successes", "folded_id"})
"""The fields of `State` that are columns of `service_states`; `carry` holds all others."""

_NOT_TIMES = {"misses", "held_from", "new_alerted"}


def carry(state: State) -> dict[str, Any]:
    """The fields that are no columns, JSON-able; those at their default are left out."""
    carried: dict[str, Any] = {}
    for field in fields(State):
        value = getattr(state, field.name)
        if field.name in COLUMNS or value == field.default:
            continue
        if field.name == "marks":
            value = [[mark.key, mark.later_successes, mark.overrun] for mark in state.marks]
        carried[field.name] = format_time(value) if isinstance(value, datetime) else value
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
        name: value if name in _NOT_TIMES else parse_time(value)
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
