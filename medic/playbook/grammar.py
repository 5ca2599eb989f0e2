"""Read a playbook: text in, a frozen document out, or every problem at once.

`parse` is the one door.  Which step types there are is an argument, since types come from other packages too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from yaml.nodes import MappingNode

from medic.errors import Problem
from medic.playbook.document import Parsed, Playbook
from medic.playbook.findings import Findings, Mention, suggest
from medic.playbook.naming import PLAYBOOK_NAME, fold
from medic.playbook.reader import Reader
from medic.playbook.scope import BUILT_INS
from medic.playbook.sections import read_approval, read_concurrency, read_trigger, read_variables
from medic.playbook.source import load
from medic.playbook.step import StepGrammar, read_steps
from medic.playbook.template import Template

LONGEST_STEP = timedelta(minutes=5)
"""How long a step that acts may take, unless a worker pool's cap says otherwise."""


def parse(
    text: str | bytes, types: Mapping[str, StepGrammar], *, longest_step: timedelta = LONGEST_STEP
) -> Parsed:
    """Read a playbook.

    :param types: the step types by name, as `medic.steps.load_types` returns them.
    :param longest_step: the cap on the timeout of steps that act (setting ``MEDIC_STEP_TIMEOUT_CAP``).
    :raises Invalid: with all problems, each with path, line and column.
    """
    clean, root = load(text)
    findings = Findings(clean)
    if not isinstance(root, MappingNode):
        raise findings.refuse(root, "must be a mapping with name and steps")
    reader = Reader(root, "", findings)
    playbook = _read(reader, types, longest_step)
    reader.finish()
    findings.raise_if_any()
    return Parsed(playbook, tuple(sorted(findings.warnings, key=lambda w: (w.line or 0, w.column or 0))))


def _read(reader: Reader, types: Mapping[str, StepGrammar], longest_step: timedelta) -> Playbook:
    findings = reader.findings
    name, title = _read_name(reader)
    variables = read_variables(reader)
    lock = _read_lock(reader)
    steps = read_steps(reader, types, longest_step)
    if not findings.problems:
        for mention in findings.mentions:
            _check_variable(mention, findings)
    metadata = reader.plain("metadata")
    if not isinstance(metadata, dict):
        if metadata is not None:
            reader.problem("must be a mapping of keys to values", "metadata")
        metadata = {}
    return Playbook(
        name=name,
        title=title,
        description=reader.text("description", longest=16_384),
        trigger=read_trigger(reader),
        approval=read_approval(reader),
        concurrency=read_concurrency(reader),
        lock=lock,
        deadline=reader.duration("deadline", least=timedelta(seconds=1)),
        variables=variables,
        steps=steps,
        metadata=metadata,
        version=reader.whole("version", 1, least=0, most=2_147_483_647),
    )


def _read_name(reader: Reader) -> tuple[str, str]:
    title = reader.text("name", required=True, longest=256).strip()
    name = fold(title, PLAYBOOK_NAME)
    if title and not name:
        reader.problem("has no letter or digit to make a name of; use a-z, 0-9, '.', '_' and '-'", "name")
    elif name != title:
        reader.warning(f"is stored as '{name}'; names are made of a-z, 0-9, '.', '_' and '-'", "name")
    return name, title


def _read_lock(reader: Reader) -> Template | None:
    if "lock" not in reader:
        return None
    lock = reader.template("lock", required=True, secrets=False)
    for reference in lock.references:
        if reference.kind == "step":
            reader.problem(
                f"{reference}: the lock is taken before any step has run", "lock", near=str(reference)
            )
    return lock


def _check_variable(mention: Mention, findings: Findings) -> None:
    name = mention.reference.name
    if mention.reference.kind != "variable" or name in BUILT_INS or name in findings.declared:
        return
    message = f"{mention.reference} is neither built in nor declared under variables"
    # The full list of built-ins would drown the line: only a near word is worth saying.
    near = suggest(name, BUILT_INS | findings.declared)
    message += near if "did you mean" in near else ""
    findings.warnings.append(Problem(mention.path, message, mention.line, mention.column))
