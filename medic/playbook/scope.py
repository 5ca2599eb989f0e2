"""What ``${…}`` may name, and where the values come from.

${NAME}                      a built-in or a variable of the execution
${steps.restart.body.id}     a value in the output of an earlier step; numbers index lists
${secrets.NAME}              a sealed secret, resolved right before the step acts
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from medic.errors import Invalid

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

BUILT_INS = frozenset({
    "EXECUTION_ID", "PLAYBOOK_ID", "PLAYBOOK_NAME", "SERVICE_ID", "SERVICE_NAME", "ALERT_ID", "RUN_ID",
    "CONSECUTIVE_FAILURES", "TRIGGER_ID", "ALERT_CYCLE", "trigger", "source_ip",
})  # fmt: skip
"""Names that Medic itself sets where it knows them; an execution without an alert has no ``ALERT_ID``."""

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_SECRET = re.compile(r"secrets\.([A-Za-z_][A-Za-z0-9_]{0,127})", re.ASCII)
_STEP = re.compile(r"steps\.([a-z0-9][a-z0-9_-]{0,63})((?:\.[A-Za-z0-9_-]{1,128}){1,16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """The inside of one ``${…}``."""

    kind: Literal["variable", "step", "secret"]
    name: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        prefix = {"variable": "", "step": "steps.", "secret": "secrets."}[self.kind]
        return "${" + ".".join((prefix + self.name, *self.path)) + "}"


def parse_reference(inside: str) -> Reference:
    """Read what stands between ``${`` and ``}``.

    :raises Invalid: when it is none of the three forms.
    """
    if VARIABLE_NAME.fullmatch(inside):
        return Reference("variable", inside)
    if match := _SECRET.fullmatch(inside):
        return Reference("secret", match[1])
    if match := _STEP.fullmatch(inside):
        return Reference("step", match[1], tuple(match[2][1:].split(".")))
    shown = inside if len(inside) <= 40 else inside[:40] + "…"
    raise Invalid(
        f"'${{{shown}}}' is no reference; write ${{NAME}}, ${{steps.NAME.key}} or ${{secrets.NAME}}, "
        "or $${ for a literal ${"
    )


def _no_secrets(name: str) -> str:
    raise Invalid(f"the secret {name} cannot be read here")


@dataclass(frozen=True, slots=True)
class Scope:
    """The values of one execution at one step.

    :param variables: the built-ins that are known and the execution's own variables.
    :param steps: per finished step its output, beside which the engine puts ``state``
        (``completed``, ``failed`` or ``skipped``).
    :param secret: resolves a secret's name, raising a ``MedicError`` for one that does not exist.  A plan
        passes a function that returns a placeholder.
    """

    variables: Mapping[str, Json] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    secret: Callable[[str], str] = field(default=_no_secrets, repr=False)

    def find(self, reference: Reference) -> Json:
        """The value that a reference names, in its own type.

        :raises Invalid: when there is none.
        """
        if reference.kind == "secret":
            return self.secret(reference.name)
        if reference.kind == "variable":
            if reference.name not in self.variables:
                raise Invalid(f"{reference} has no value")
            return self.variables[reference.name]
        if reference.name not in self.steps:
            raise Invalid(f"{reference} has no value: the step has no result")
        value: Json = dict(self.steps[reference.name])
        for key in reference.path:
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(value):
                value = value[int(key)]
            else:
                raise Invalid(f"{reference} has no value: the result has no '{key}' there")
        return value
