"""What a registered script says about its parameters, and whether a step's parameters fit.  Pure.

    {HOST: {type: text, required: true}, COUNT: {type: whole, default: 1}, MODE: {choices: [soft, hard]}}

``type`` is ``text`` (default), ``whole``, ``number``, ``flag`` or ``any``.  A script that says nothing takes anything;
one that names parameters takes no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medic.errors import Invalid, Problem
from medic.playbook.judgement import equal
from medic.playbook.scope import VARIABLE_NAME, Json

_TYPES: dict[str, tuple[Callable[[Json], bool], str]] = {
    "text": (lambda value: isinstance(value, str), "a text"),
    "whole": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "number": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "any": (lambda _: True, "anything"),
}
_KEYS = frozenset({"type", "required", "default", "choices", "description"})


def check_rules(rules: Mapping[str, Any]) -> None:
    """Check what a script says, when it is registered.

    :raises Invalid: with each rule that is wrong.
    """
    problems = []
    for name, rule in rules.items():
        path = f"parameters.{name[:128]}"
        if not VARIABLE_NAME.fullmatch(name):
            problems.append(Problem(path, "is no name; use letters, digits and _"))
        elif not isinstance(rule, Mapping) or not _KEYS.issuperset(rule):
            problems.append(Problem(path, f"must be a mapping with some of {', '.join(sorted(_KEYS))}"))
        elif rule.get("type", "text") not in _TYPES:
            problems.append(Problem(path, f"type must be one of {', '.join(_TYPES)}"))
        elif not isinstance(rule.get("required", False), bool):
            problems.append(Problem(path, "required must be true or false"))
        elif not isinstance(rule.get("choices", []), list):
            problems.append(Problem(path, "choices must be a list"))
    if problems:
        raise Invalid("The parameters are not valid.", problems=tuple(problems))


def bind(rules: Mapping[str, Any], given: Mapping[str, Json]) -> dict[str, Json]:
    """The parameters with defaults filled in.

    :raises Invalid: when one is missing, unknown, or not what the script takes; values are not quoted.
    """
    if not rules:
        return dict(given)
    problems = [
        Problem(f"parameters.{name}", "is unknown to the script") for name in given if name not in rules
    ]
    bound: dict[str, Json] = {}
    for name, rule in rules.items():
        if name in given:
            bound[name] = given[name]
            if trouble := _trouble(rule, given[name]):
                problems.append(Problem(f"parameters.{name}", trouble))
        elif "default" in rule:
            bound[name] = rule["default"]
        elif rule.get("required"):
            problems.append(Problem(f"parameters.{name}", "is required by the script"))
    if problems:
        raise Invalid("; ".join(f"{p.path} {p.message}" for p in problems), problems=tuple(problems))
    return bound


def _trouble(rule: Mapping[str, Any], value: Json) -> str | None:
    fits, name = _TYPES[rule.get("type", "text")]
    if not fits(value):
        return f"must be {name}"
    choices = rule.get("choices")
    if choices and not any(equal(value, choice) for choice in choices):
        return "is none of the script's choices"
    return None
