"""Nodes to values: scalars, plain JSON, and trees of templates.  Problems go to the findings."""

from __future__ import annotations

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from medic.errors import Invalid
from medic.playbook.findings import Findings
from medic.playbook.scope import Json
from medic.playbook.source import is_allowed, is_merge, scalar
from medic.playbook.template import EMPTY, Listed, Mapped, Template, Tree, parse_template

_LONGEST_KEY = 256

Entries = dict[str, tuple[Node, Node]]


def read_scalar(node: ScalarNode, path: str, findings: Findings) -> Json:
    """A scalar's JSON value; a wrong one is noted and reads as null."""
    try:
        return scalar(node)
    except Invalid as error:
        findings.problem(node, path, error.message)
        return None


def merged_entries(node: MappingNode, path: str, findings: Findings) -> Entries:
    """A mapping's entries by key, ``<<`` followed; a key that is there twice is a problem.

    Keys are what is written, so that ``on:`` and ``404:`` are the texts that they look like.
    """
    if not is_allowed(node):
        findings.problem(node, path, "has a tag that is not allowed")
    own: Entries = {}
    inherited: Entries = {}
    for key, value in node.value:
        if is_merge(key):
            _merge(value, path, findings, inherited)
        elif not isinstance(key, ScalarNode):
            findings.problem(key, path, "a key must be a single value")
        elif len(key.value) > _LONGEST_KEY:
            findings.problem(key, path, f"a key is longer than {_LONGEST_KEY} characters")
        elif key.value in own:
            findings.problem(key, _below(path, key.value), f"the key '{key.value}' is there twice")
        else:
            read_scalar(key, path, findings)
            own[key.value] = (key, value)
    return {**inherited, **own}


def _merge(value: Node, path: str, findings: Findings, into: Entries) -> None:
    sources = list(value.value) if isinstance(value, SequenceNode) else [value]
    for source in sources:
        if not isinstance(source, MappingNode):
            findings.problem(source, path, "<< needs a mapping, or a list of them")
            continue
        for key, entry in merged_entries(source, path, findings).items():
            # The first source wins (YAML 1.1, merge key).
            into.setdefault(key, entry)


def read_tree(node: Node, path: str, findings: Findings) -> Tree:
    """A value in which every text is a template; its references are noted."""
    if isinstance(node, MappingNode):
        return Mapped(
            tuple(
                (_template(key_node, name, path, findings), read_tree(value, _below(path, name), findings))
                for name, (key_node, value) in merged_entries(node, path, findings).items()
            )
        )
    if isinstance(node, SequenceNode):
        _check_list(node, path, findings)
        return Listed(tuple(read_tree(item, f"{path}[{at}]", findings) for at, item in enumerate(node.value)))
    if not isinstance(node, ScalarNode):
        return None
    value = read_scalar(node, path, findings)
    if isinstance(value, str):
        return _template(node, value, path, findings)
    return value if isinstance(value, int | float) else None


def _template(node: Node, text: str, path: str, findings: Findings) -> Template:
    try:
        found = parse_template(text)
    except Invalid as error:
        findings.problem(node, path, error.message, near="${")
        return EMPTY
    findings.mention(node, path, found.references)
    return found


def plain_value(node: Node, path: str, findings: Findings) -> Json:
    """A value taken literally."""
    if isinstance(node, MappingNode):
        return {
            name: plain_value(value, _below(path, name), findings)
            for name, (_, value) in merged_entries(node, path, findings).items()
        }
    if isinstance(node, SequenceNode):
        _check_list(node, path, findings)
        return [plain_value(item, f"{path}[{at}]", findings) for at, item in enumerate(node.value)]
    return read_scalar(node, path, findings) if isinstance(node, ScalarNode) else None


def _check_list(node: SequenceNode, path: str, findings: Findings) -> None:
    if not is_allowed(node):
        findings.problem(node, path, "has a tag that is not allowed")


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
