# ruff: noqa: INP001 - this folder is an entry of PYTHONPATH, not a package
"""A step that does nothing: what an execution costs by itself.  Installed for the bench alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal

from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope
from medic.steps.base import STEPS_QUEUE, ActContext, Done, Outcome


@dataclass(frozen=True, slots=True)
class Nothing:
    """Parsed and rendered alike: it holds no value."""

    @property
    def shown(self) -> dict[str, Json]:
        return {}


class NoopStep:
    type: ClassVar[str] = "noop"
    queue: ClassVar[str] = STEPS_QUEUE
    acts: ClassVar[bool] = True
    parks: ClassVar[bool] = False
    times_out: ClassVar[bool] = True
    default_timeout: ClassVar[timedelta | None] = timedelta(seconds=30)

    def parse(self, _reader: Reader) -> Nothing:
        return Nothing()

    def on_crash(self, _spec: Nothing, /) -> Literal["retry", "ask"]:
        return "retry"

    def render(self, spec: Nothing, _scope: Scope, /) -> Nothing:
        return spec

    def act(self, _rendered: Nothing, context: ActContext) -> Outcome:
        context.before_effect()
        return Done()
