"""``approval``: a human decides in the middle of a playbook.  The engine keeps the question and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal

from medic.playbook.reader import Reader
from medic.playbook.scope import Json, Scope
from medic.playbook.template import Template
from medic.steps.base import STEPS_QUEUE, ActContext, AwaitApproval, Outcome

_LONGEST_MESSAGE = 2_000


@dataclass(frozen=True, slots=True)
class ApprovalSpec:
    message: Template
    on_timeout: Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class RenderedApproval:
    message: str
    on_timeout: Literal["approve", "reject"]

    @property
    def shown(self) -> dict[str, Json]:
        return {"message": self.message, "on_timeout": self.on_timeout}


class ApprovalStep:
    type: ClassVar[str] = "approval"
    queue: ClassVar[str] = STEPS_QUEUE
    acts: ClassVar[bool] = False
    parks: ClassVar[bool] = True
    times_out: ClassVar[bool] = True
    default_timeout: ClassVar[timedelta | None] = None

    def parse(self, reader: Reader) -> ApprovalSpec:
        message = reader.template("message", secrets=False)
        answer = reader.choice("on_timeout", ("approve", "reject"), "reject")
        if "on_timeout" in reader and "timeout" not in reader:
            reader.problem("needs a timeout beside it", "on_timeout")
        return ApprovalSpec(message, "approve" if answer == "approve" else "reject")

    def on_crash(self, _spec: ApprovalSpec, /) -> Literal["retry", "ask"]:
        return "retry"

    def render(self, spec: ApprovalSpec, scope: Scope, /) -> RenderedApproval:
        return RenderedApproval(spec.message.render(scope).shown[:_LONGEST_MESSAGE], spec.on_timeout)

    def act(self, rendered: RenderedApproval, context: ActContext) -> Outcome:
        return AwaitApproval(context.timeout, rendered.on_timeout, context.redact(rendered.message))
