"""The keys that all steps share; the rest of a step is its type's to read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal, Protocol, cast

from medic.errors import Invalid
from medic.playbook.document import OnCrash, OnFailure, OnlyWhile, Retry, Step
from medic.playbook.expression import Expression, parse_expression
from medic.playbook.findings import Findings, suggest
from medic.playbook.naming import STEP_NAME, fold, step_names
from medic.playbook.probing import read_probe
from medic.playbook.reader import Reader
from medic.playbook.retrying import read_retry
from medic.playbook.scope import Reference

MOST_STEPS = 200
_SECOND = timedelta(seconds=1)


class StepGrammar(Protocol):
    """What the grammar needs of a step type; `medic.steps.base.StepType` is the whole of it.

    ``acts``: the step has an effect outside of Medic, so it may be retried and may be in doubt.
    ``times_out``: ``timeout:`` means something; ``default_timeout`` stands in for it (None: the engine's).
    """

    type: ClassVar[str]
    acts: ClassVar[bool]
    times_out: ClassVar[bool]
    default_timeout: ClassVar[timedelta | None]

    def parse(self, reader: Reader) -> Any: ...

    def on_crash(self, spec: Any, /) -> Literal["retry", "ask"]: ...


def read_steps(root: Reader, types: Mapping[str, StepGrammar], longest: timedelta) -> tuple[Step, ...]:
    readers = root.mappings("steps", most=MOST_STEPS)
    titles = [reader.text("name", required=True, longest=256).strip() for reader in readers]
    names = step_names(titles)
    steps: list[Step] = []
    for position, (reader, title, name) in enumerate(zip(readers, titles, names, strict=True)):
        _check_name(reader, title, name, seen=titles[:position])
        mentioned = len(root.findings.mentions)
        step = _read_step(reader, types, longest, position, title, name)
        _check_earlier(root.findings, mentioned, names, position)
        reader.finish()
        if step is not None:
            steps.append(step)
    return tuple(steps)


def _check_name(reader: Reader, title: str, name: str, *, seen: list[str]) -> None:
    if title and title in seen:
        reader.problem(f"another step is called '{title}' already", "name")
    elif title and not name:
        reader.problem("has no letter or digit to make a name of; use a-z, 0-9, '_' and '-'", "name")
    elif name != title:
        reader.warning(f"is known as '{name}'; names of steps are made of a-z, 0-9, '_' and '-'", "name")


def _check_earlier(findings: Findings, since: int, names: list[str], position: int) -> None:
    for mention in findings.mentions[since:]:
        step = mention.reference.name
        if findings.is_full:
            return
        if mention.reference.kind != "step" or step in names[:position]:
            continue
        why = (
            "has not run yet at this step"
            if step in names[position:]
            else "is no step of this playbook" + suggest(step, names[:position])
        )
        findings.problem_at(mention, f"{mention.reference}: '{step}' {why}")


def _read_step(
    reader: Reader, types: Mapping[str, StepGrammar], longest: timedelta, position: int, title: str, name: str
) -> Step | None:
    word = reader.text("type", required=True)
    kind = types.get(word)
    if kind is None:
        if word:
            reader.problem(f"unknown step type '{word[:40]}'{suggest(word, types)}", "type")
        # Its keys cannot be judged without a type, so they are not complained about either.
        list(reader.keys())
        return None
    try:
        spec = kind.parse(reader)
        on_crash: OnCrash = kind.on_crash(spec)
    except Invalid as error:
        reader.problem(error.message)
        list(reader.keys())
        return None
    if kind.acts:
        # Whoever says how to find out does not want it to be guessed.
        chosen = reader.choice("on_crash", ("retry", "fail", "ask"), "ask" if "probe" in reader else on_crash)
        on_crash = cast("OnCrash", chosen)
    return Step(
        position=position,
        name=name,
        title=title,
        type=word,
        spec=spec,
        when=_read_when(reader),
        timeout=_read_timeout(reader, kind, longest),
        retry=read_retry(reader) if kind.acts else Retry(),
        on_failure=cast("OnFailure", reader.choice("on_failure", ("fail", "continue", "escalate"), "fail")),
        on_crash=on_crash,
        only_while=cast("OnlyWhile", reader.choice("only_while", ("alert_open", "always"), "alert_open")),
        line=reader.node.start_mark.line + 1,
        probe=read_probe(reader, types, on_crash=on_crash) if kind.acts else None,
    )


def _read_when(reader: Reader) -> Expression | None:
    if "when" not in reader:
        return None
    text = reader.text("when")
    try:
        expression = parse_expression(text)
    except Invalid as error:
        reader.problem(error.message, "when")
        return None
    reader.mention("when", expression.references)
    return expression


def _read_timeout(reader: Reader, kind: StepGrammar, longest: timedelta) -> timedelta | None:
    if not kind.times_out:
        return None
    timeout = reader.duration("timeout")
    # The original read `timeout: 0` as its default; a step without any time makes no sense otherwise.
    if timeout is None or timeout < _SECOND:
        return kind.default_timeout
    if kind.acts and timeout > longest:
        reader.problem(
            f"is longer than {int(longest.total_seconds())}s, the most that a worker lets a step act; "
            "split the work, or raise MEDIC_STEP_TIMEOUT_CAP",
            "timeout",
        )
    return timeout


def read_step_name(reader: Reader, key: str) -> str | None:
    """A key that names an earlier step."""
    if key not in reader:
        return None
    name = fold(reader.text(key).strip(), STEP_NAME)
    reader.mention(key, [Reference("step", name)])
    return name
