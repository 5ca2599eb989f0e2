"""Step types: one file and one class each, found through the entry points of the group ``medic.steps``."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from medic.errors import Misconfigured
from medic.steps.base import StepType

GROUP = "medic.steps"


@lru_cache(maxsize=1)
def load_types() -> dict[str, StepType]:
    """The step types that are installed, by name; read once per process.

    :raises Misconfigured: when one cannot be loaded, is no step type, or two claim one name.
    """
    types: dict[str, StepType] = {}
    for point in entry_points(group=GROUP):
        try:
            kind = point.load()()
        except Exception as error:
            raise Misconfigured(
                f"The step type {point.name} ({point.value}) cannot be loaded: {error}"
            ) from error
        if not isinstance(kind, StepType) or kind.type != point.name:
            raise Misconfigured(f"{point.value} is no step type called {point.name}")
        if point.name in types:
            raise Misconfigured(f"Two installed packages have a step type called {point.name}")
        types[point.name] = kind
    return types


__all__ = ["GROUP", "StepType", "load_types"]
