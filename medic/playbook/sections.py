"""The parts of a playbook beside its steps: trigger, approval, concurrency, variables."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from medic.errors import Invalid
from medic.playbook.document import Approval, Concurrency, Trigger, Variable
from medic.playbook.reader import Reader
from medic.playbook.scope import BUILT_INS, VARIABLE_NAME, Json
from medic.times import parse_duration

REASONS = ("missed", "failed", "overrun", "too_few")
PRIORITIES = ("p1", "p2", "p3", "p4", "p5")
_MOST_VARIABLES = 100
_SECOND = timedelta(seconds=1)


def read_trigger(root: Reader) -> Trigger | None:
    reader = root.mapping("trigger")
    if reader is None:
        return None
    if "service_pattern" not in reader and "tags" not in reader:
        reader.problem('needs service_pattern or tags; service_pattern: "*" means every service')
    trigger = Trigger(
        service_pattern=reader.text("service_pattern", "*", longest=256).lower(),
        tags=reader.words("tags"),
        priorities=reader.words("priorities", PRIORITIES),
        reasons=reader.words("reasons", REASONS),
        consecutive_failures=reader.whole("consecutive_failures", 1, least=1, most=1_000_000),
        cooldown=reader.duration("cooldown") or timedelta(0),
        repeat_every=reader.duration("repeat_every", least=timedelta(minutes=1)),
        mode="shadow" if reader.choice("mode", ("live", "shadow"), "live") == "shadow" else "live",
    )
    reader.finish()
    return trigger


def read_approval(root: Reader) -> Approval:
    """``none``, ``required`` or ``timeout:10m``; YAML's ``no`` and ``yes`` are understood too."""
    text = root.text("approval", "none").strip()
    if text.lower() in {"none", "no", "false", "off"}:
        return Approval()
    if text.lower() in {"required", "yes", "true", "on"}:
        return Approval("required")
    word, _, duration = text.partition(":")
    if word == "timeout":
        try:
            timeout = parse_duration(duration)
        except Invalid:
            timeout = timedelta(0)
        if timeout >= _SECOND:
            return Approval("timeout", timeout)
    root.problem("must be none, required, or timeout: and a duration, as timeout:10m", "approval")
    return Approval()


def read_concurrency(root: Reader) -> Concurrency:
    reader = root.mapping("concurrency")
    if reader is None:
        return Concurrency()
    limits = {
        key: reader.whole(key, 1, least=1, most=10_000) if key in reader else None
        for key in ("per_service", "per_playbook")
    }
    reader.finish()
    return Concurrency(**limits)


def read_variables(root: Reader) -> dict[str, Variable]:
    """``NAME: {default, required, description}``, or ``NAME: value`` for a default alone."""
    reader = root.mapping("variables")
    if reader is None:
        return {}
    names = list(reader.keys())
    if len(names) > _MOST_VARIABLES:
        root.problem(f"has more than {_MOST_VARIABLES} names", "variables")
        return {}
    found = {}
    for name in names:
        if not VARIABLE_NAME.fullmatch(name) or name in {"steps", "secrets"}:
            reader.problem("is no name for a variable; use letters, digits and _", name)
        elif name in BUILT_INS:
            reader.problem("is set by Medic itself; choose another name", name)
        else:
            found[name] = _read_variable(reader, name)
    reader.findings.declared = frozenset(found)
    return found


def _read_variable(reader: Reader, name: str) -> Variable:
    if not reader.is_mapping(name):
        return _noted(reader, name, Variable(name, required=name not in reader, default=reader.plain(name)))
    inner = cast("Reader", reader.mapping(name))
    has_default = "default" in inner
    default: Json = inner.plain("default")
    required = inner.flag("required", default=not has_default)
    description = inner.text("description")
    if required and has_default:
        inner.problem("is required and has a default; keep one of them", "required")
    inner.finish()
    return _noted(reader, name, Variable(name, required=required, default=default, description=description))


def _noted(reader: Reader, name: str, variable: Variable) -> Variable:
    if isinstance(variable.default, str) and "${" in variable.default:
        reader.warning("a default is taken as it is; ${…} in it is not replaced", name)
    return variable
