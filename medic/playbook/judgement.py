"""Evaluate a condition over a scope.  Pure, and bounded by the expression's size."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

from medic.errors import Invalid
from medic.playbook.expression import Chain, Comparison, Defined, Expression, Literal, Lookup, Node, Not
from medic.playbook.glob import matches
from medic.playbook.scope import Json, Reference, Scope

_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?", re.ASCII)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TEXT_ORDER: dict[str, Callable[[str, str], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def holds(expression: Expression, scope: Scope) -> bool:
    """Whether the condition is true.

    :raises Invalid: when a value is missing, or values cannot be compared as asked.
    """
    return _truth(_evaluate(expression.root, scope))


def _truth(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise Invalid(f"{_kind(value)} stands where true or false is needed; compare it with something")


def _evaluate(node: Node, scope: Scope) -> Json:
    match node:
        case Literal(value):
            return value
        case Lookup(reference):
            return scope.find(reference)
        case Defined(reference):
            return _is_defined(reference, scope)
        case Not(inner):
            return not _truth(_evaluate(inner, scope))
        case Chain(every, inners):
            results = (_truth(_evaluate(one, scope)) for one in inners)
            return all(results) if every else any(results)
        case Comparison(sign, left, right):
            return _compare(sign, _evaluate(left, scope), _evaluate(right, scope))


def _is_defined(reference: Reference, scope: Scope) -> bool:
    try:
        scope.find(reference)
    except Invalid:
        return False
    return True


def _compare(sign: str, left: Json, right: Json) -> bool:
    if sign == "==":
        return equal(left, right)
    if sign == "!=":
        return not equal(left, right)
    if sign == "in":
        return _contains(right, left)
    if sign == "matches":
        if not isinstance(right, str) or isinstance(left, dict | list) or left is None:
            raise Invalid(f"matches needs a text and a pattern, not {_kind(left)} and {_kind(right)}")
        return matches(right, left if isinstance(left, str) else str(left).lower())
    if isinstance(left, str) and isinstance(right, str):
        return _TEXT_ORDER[sign](left, right)
    one, two = _number(left), _number(right)
    if one is None or two is None:
        raise Invalid(f"{_kind(left)} and {_kind(right)} have no order")
    return _ORDER[sign](one, two)


def equal(left: Json, right: Json) -> bool:
    """Equality of JSON values; a text that reads as a number equals that number, and true is not 1."""
    if isinstance(left, str) != isinstance(right, str):
        one, two = _number(left), _number(right)
        return one is not None and one == two
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return left == right


def _contains(whole: Json, part: Json) -> bool:
    if isinstance(whole, list):
        return any(equal(part, item) for item in whole)
    if isinstance(whole, str | dict) and isinstance(part, str):
        return part in whole
    raise Invalid(f"in needs a list, an object or a text, not {_kind(part)} in {_kind(whole)}")


def _number(value: Json) -> int | float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return None


def _kind(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
    return "an object"
