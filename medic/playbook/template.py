"""Texts with ``${…}`` in them: parsed once, rendered with a `Scope`, in one pass.

A value that is put in is never looked at again, so a variable whose value is ``${secrets.X}`` stays that
text.  ``$${`` is a literal ``${``.  Each rendering has a twin, `shown`, in which every secret reads
``[secret:NAME]``; logs, plans and results only ever get the twin.

In a tree (a JSON body) a text that is exactly one reference keeps the value's type; anywhere else a value
is written as text: true, false and numbers as in JSON, lists and objects as JSON.  ``null`` has no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from medic.errors import Invalid
from medic.playbook.scope import Json, Reference, Scope, parse_reference

_LONGEST_TEXT = 1_048_576
"""Characters of one rendered text: far above any body, far below what hurts a worker."""


@dataclass(frozen=True, slots=True)
class Text:
    """A rendered text and its redacted twin."""

    value: str = field(repr=False)
    shown: str


@dataclass(frozen=True, slots=True)
class Value:
    """A rendered JSON value and its redacted twin."""

    value: Json = field(repr=False)
    shown: Json


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text.  ``parts`` are literals and references in turn."""

    source: str = ""
    parts: tuple[str | Reference, ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(part for part in self.parts if isinstance(part, Reference))

    def render(self, scope: Scope) -> Text:
        """Put the values in.

        :raises Invalid: when a value is missing or has no text.
        """
        value, shown = [], []
        for part in self.parts:
            if isinstance(part, str):
                value.append(part)
                shown.append(part)
                continue
            text = as_text(scope.find(part), part)
            value.append(text)
            shown.append(f"[secret:{part.name}]" if part.kind == "secret" else text)
        if sum(map(len, value)) > _LONGEST_TEXT:
            raise Invalid(f"the text is longer than {_LONGEST_TEXT} characters once its values are in")
        return Text("".join(value), "".join(shown))

    def render_value(self, scope: Scope) -> Value:
        """As `render`, but exactly one reference keeps the type of its value.

        :raises Invalid: when a value is missing or, among other text, has no text.
        """
        if len(self.parts) == 1 and isinstance(only := self.parts[0], Reference):
            found = scope.find(only)
            return Value(found, f"[secret:{only.name}]" if only.kind == "secret" else found)
        text = self.render(scope)
        return Value(text.value, text.shown)


EMPTY = Template()


def parse_template(text: str) -> Template:
    """Read a text with references.

    :raises Invalid: naming the first ``${`` that is not one.
    """
    parts: list[str | Reference] = []
    literal, at = "", 0
    while (found := text.find("${", at)) >= 0:
        if found > at and text[found - 1] == "$":
            literal += text[at : found - 1] + "${"
            at = found + 2
            continue
        end = text.find("}", found)
        if end < 0:
            raise Invalid("a ${ is never closed; write $${ for a literal ${")
        if literal := literal + text[at:found]:
            parts.append(literal)
        parts.append(parse_reference(text[found + 2 : end]))
        literal, at = "", end + 1
    if literal := literal + text[at:]:
        parts.append(literal)
    return Template(text, tuple(parts))


def escape(text: str) -> str:
    """Write a text so that a template renders exactly it."""
    return text.replace("${", "$${")


def as_text(value: Json, reference: Reference) -> str:
    """Write a value as text.

    :raises Invalid: for ``null``.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise Invalid(f"{reference} is null")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping of a tree; its keys are templates too."""

    entries: tuple[tuple[Template, Tree], ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of a tree."""

    items: tuple[Tree, ...]


Tree: TypeAlias = "Mapped | Listed | Template | int | float | bool | None"


def tree_references(tree: Tree) -> Iterator[Reference]:
    """Every reference in a tree, keys first."""
    match tree:
        case Template():
            yield from tree.references
        case Mapped(entries):
            for key, value in entries:
                yield from key.references
                yield from tree_references(value)
        case Listed(items):
            for item in items:
                yield from tree_references(item)


def render_tree(tree: Tree, scope: Scope) -> Value:
    """Put the values into a tree.

    :raises Invalid: when a value is missing, or two keys become one.
    """
    match tree:
        case Template():
            return tree.render_value(scope)
        case Listed(items):
            rendered = [render_tree(item, scope) for item in items]
            return Value([item.value for item in rendered], [item.shown for item in rendered])
        case Mapped(entries):
            value: dict[str, Json] = {}
            shown: dict[str, Json] = {}
            for key, child in entries:
                name, inner = key.render(scope), render_tree(child, scope)
                if name.value in value:
                    raise Invalid(f"the key '{name.shown}' is there twice once its values are in")
                value[name.value] = inner.value
                shown[name.shown] = inner.shown
            return Value(value, shown)
    return Value(tree, tree)
