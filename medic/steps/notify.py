"""``notify``: tell people.

Who is told is looked up when the step acts, so that a name that is nobody's fails the step; the message itself is a
row of the outbox that commits with the step's result.  So it is told once, however often a worker is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal

from medic.errors import Invalid, NotFound
from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope
from medic.playbook.template import Template
from medic.steps.base import STEPS_QUEUE, ActContext, Checks, Done, Failed, Notice, Outcome

_LONGEST_MESSAGE = 2_000
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class NotifySpec:
    """``target`` and ``route`` are None where the playbook names none."""

    message: Template
    target: Template | None
    route: Template | None


@dataclass(frozen=True, slots=True)
class RenderedNotify:
    message: str
    target: str | None
    route: str | None

    @property
    def shown(self) -> dict[str, Json]:
        shown: dict[str, Json] = {"message": self.message}
        if self.target is not None:
            shown["target"] = self.target
        if self.route is not None:
            shown["route"] = self.route
        return shown


class NotifyStep:
    type: ClassVar[str] = "notify"
    queue: ClassVar[str] = STEPS_QUEUE
    acts: ClassVar[bool] = False
    parks: ClassVar[bool] = False
    times_out: ClassVar[bool] = False
    default_timeout: ClassVar[timedelta | None] = None

    def parse(self, reader: Reader) -> NotifySpec:
        message = reader.template("message", required=True, secrets=False)
        if "target" in reader and "route" in reader:
            reader.problem("give target or route, not both", "route")
        return NotifySpec(message, _read_name(reader, "target"), _read_name(reader, "route"))

    def on_crash(self, _spec: NotifySpec, /) -> Literal["retry", "ask"]:
        return "retry"

    def render(self, spec: NotifySpec, scope: Scope, /) -> RenderedNotify:
        message = spec.message.render(scope).shown.strip()
        if not message:
            raise Invalid.at("message", "is empty once its values are in")
        if len(message) > _LONGEST_MESSAGE:
            message = message[: _LONGEST_MESSAGE - 1] + "…"
        return RenderedNotify(
            message, _render_name("target", spec.target, scope), _render_name("route", spec.route, scope)
        )

    def rehearse(self, rendered: RenderedNotify, checks: Checks, /) -> list[str]:
        if not checks.is_whole and (rendered.target or rendered.route):
            return []
        told = checks.recipients(target=rendered.target, route=rendered.route)
        return [] if told else ["No route tells anybody of this execution now, and no default route does."]

    def act(self, rendered: RenderedNotify, context: ActContext) -> Outcome:
        try:
            told = context.facts.recipients(target=rendered.target, route=rendered.route)
        except NotFound as error:
            return Failed("nobody_to_tell", error.message)
        message = context.redact(rendered.message)
        names: list[Json] = [*dict.fromkeys(one.target for one in told)]
        return Done({"message": message, "targets": names}, Notice(message, told))


def _read_name(reader: Reader, key: str) -> Template | None:
    return reader.template(key, required=True, secrets=False) if key in reader else None


def _render_name(key: str, name: Template | None, scope: Scope) -> str | None:
    if name is None:
        return None
    text = name.render(scope).shown.strip()
    if not text or len(text) > _LONGEST_NAME:
        raise Invalid.at(key, "is empty or too long once its values are in")
    return text
