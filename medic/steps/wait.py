"""``wait``: a row with a time; no worker waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal

from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope
from medic.steps.base import STEPS_QUEUE, ActContext, Done, Outcome, Park
from medic.times import format_duration

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Wait:
    """Parsed and rendered alike: a duration holds no reference."""

    duration: timedelta

    @property
    def shown(self) -> dict[str, Json]:
        return {"duration": format_duration(self.duration)}


class WaitStep:
    type: ClassVar[str] = "wait"
    queue: ClassVar[str] = STEPS_QUEUE
    acts: ClassVar[bool] = False
    parks: ClassVar[bool] = True
    times_out: ClassVar[bool] = False
    default_timeout: ClassVar[timedelta | None] = None

    def parse(self, reader: Reader) -> Wait:
        return Wait(reader.duration("duration", required=True, least=_SECOND) or _SECOND)

    def on_crash(self, _spec: Wait, /) -> Literal["retry", "ask"]:
        return "retry"

    def render(self, spec: Wait, _scope: Scope, /) -> Wait:
        return spec

    def act(self, rendered: Wait, context: ActContext) -> Outcome:
        end = (context.parked_at or context.now) + rendered.duration
        # A poke may come early; the time that was asked for holds.
        if context.now < end:
            return Park(end)
        return Done({"waited_s": int(rendered.duration.total_seconds())})
