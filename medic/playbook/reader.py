"""Read one YAML mapping key by key, noting every problem instead of stopping at the first.

A key that nobody asked for is unknown; `finish` says so with a suggestion.  After a problem each method
returns something of its type, so that reading goes on; the document is refused at the end all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from medic.errors import Invalid
from medic.playbook.address import Address, parse_address
from medic.playbook.findings import Findings, suggest
from medic.playbook.reading import merged_entries, plain_value, read_scalar, read_tree
from medic.playbook.scope import Json, Reference
from medic.playbook.source import is_null, scalar
from medic.playbook.template import EMPTY, Template, Tree, parse_template
from medic.times import parse_duration

_LONGEST_TEXT = 4_096


class Reader:
    """One mapping of the document; `path` is where it is, as ``steps[0].retry``."""

    def __init__(self, node: MappingNode, path: str, findings: Findings) -> None:
        self.node = node
        self.path = path
        self.findings = findings
        self._entries = merged_entries(node, path, findings)
        self._asked: set[str] = set()

    # --- the mapping itself

    def __contains__(self, key: str) -> bool:
        """Whether the key is there with a value; an empty value counts as absent."""
        self._asked.add(key)
        return key in self._entries and not is_null(self._entries[key][1])

    def keys(self) -> Iterator[str]:
        """All keys, for mappings whose keys are free; asking for them makes them known."""
        self._asked.update(self._entries)
        return iter(self._entries)

    def finish(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key, (key_node, _) in self._entries.items():
            if key not in self._asked and not self.findings.is_full:
                self.findings.problem(
                    key_node, self.at(key), f"unknown key '{key}'" + suggest(key, self._asked)
                )

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def problem(self, message: str, key: str | None = None, *, near: str = "") -> None:
        """Note a problem at a key's value, or at the mapping's start."""
        path = self.path if key is None else self.at(key)
        self.findings.problem(self._where(key), path, message, near=near)

    def warning(self, message: str, key: str | None = None) -> None:
        """Note a warning: the playbook is valid, yet hardly what was meant."""
        self.findings.warning(self._where(key), self.path if key is None else self.at(key), message)

    def _where(self, key: str | None) -> Node:
        return self._entries[key][1] if key is not None and key in self._entries else self.node

    # --- one value

    def text(
        self, key: str, default: str = "", *, required: bool = False, longest: int = _LONGEST_TEXT
    ) -> str:
        """A text as it is written; numbers and words like ``no`` count as their text."""
        node = self._scalar(key, required=required)
        if node is None:
            return default
        value: str = node.value
        if required and not value.strip():
            self.problem("must not be empty", key)
        if len(value) > longest:
            self.problem(f"is longer than {longest} characters", key)
        return value

    def whole(self, key: str, default: int, *, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.problem(f"must be a whole number from {least} to {most}", key)
            return default
        return value

    def number(self, key: str, default: float, *, least: float, most: float) -> float:
        """A number within bounds."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.problem(f"must be a number from {least:g} to {most:g}", key)
            return default
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.problem("must be true or false", key)
            return default
        return value

    def choice(self, key: str, options: Iterable[str], default: str, *, required: bool = False) -> str:
        """One of a few words."""
        known = list(options)
        value = self.text(key, default, required=required)
        if key in self and value not in known:
            self.problem(f"'{value[:40]}' is not allowed{suggest(value, known)}", key)
            return default
        return value

    def duration(
        self,
        key: str,
        default: timedelta | None = None,
        *,
        required: bool = False,
        least: timedelta = timedelta(0),
    ) -> timedelta | None:
        """A duration as `medic.times.parse_duration` reads it."""
        node = self._scalar(key, required=required)
        if node is None:
            return default
        try:
            value = scalar(node)
            found = parse_duration(value if isinstance(value, int) else node.value, path=self.at(key))
        except Invalid as error:
            self.problem(error.problems[0].message if error.problems else error.message, key)
            return default
        if found < least:
            self.problem("must be longer than 0" if least <= timedelta(seconds=1) else "is too short", key)
            return default
        return found

    def _value(self, key: str, default: Json) -> Json:
        node = self._scalar(key)
        return default if node is None else read_scalar(node, self.at(key), self.findings)

    def _scalar(self, key: str, *, required: bool = False) -> ScalarNode | None:
        if key not in self:
            if required:
                self.problem(f"'{key}' is required")
            return None
        node = self._entries[key][1]
        if not isinstance(node, ScalarNode):
            self.problem("must be a single value, not a list or a mapping", key)
            return None
        before = len(self.findings.problems)
        read_scalar(node, self.at(key), self.findings)
        return node if len(self.findings.problems) == before else None

    # --- templates

    def template(self, key: str, *, required: bool = False, secrets: bool = True) -> Template:
        """A text with references; an absent one is empty."""
        text = self.text(key, required=required, longest=65_536)
        try:
            found = parse_template(text)
        except Invalid as error:
            self.problem(error.message, key, near="${")
            return EMPTY
        self.mention(key, found.references)
        if not secrets:
            self.refuse_secrets(key, found.references)
        return found

    def address(self, key: str) -> Address:
        """A URL with references; required."""
        text = self.text(key, required=True)
        if text:
            try:
                found = parse_address(text)
            except Invalid as error:
                self.problem(error.message, key, near="${" if "${" in error.message else "")
            else:
                self.mention(key, found.template.references)
                return found
        return Address()

    def tree(self, key: str) -> Tree:
        """Any value, with references in its texts."""
        return read_tree(self._entries[key][1], self.at(key), self.findings) if key in self else None

    def plain(self, key: str) -> Json:
        """Any value, taken literally."""
        return plain_value(self._entries[key][1], self.at(key), self.findings) if key in self else None

    def refuse_secrets(
        self, key: str, references: Iterable[Reference], why: str = "a secret may not be used here"
    ) -> None:
        for reference in references:
            if reference.kind == "secret":
                self.problem(f"{reference}: {why}", key, near=str(reference))

    def mention(self, key: str, references: Iterable[Reference]) -> None:
        """Note references that stand in a key's value, for the checks after reading."""
        self.findings.mention(self._where(key), self.at(key), references)

    # --- lists and mappings

    def mapping(self, key: str, *, required: bool = False) -> Reader | None:
        """A mapping inside this one."""
        if key not in self:
            if required:
                self.problem(f"'{key}' is required")
            return None
        node = self._entries[key][1]
        if isinstance(node, MappingNode):
            return Reader(node, self.at(key), self.findings)
        self.problem("must be a mapping of keys to values", key)
        return None

    def is_mapping(self, key: str) -> bool:
        return key in self and isinstance(self._entries[key][1], MappingNode)

    def mappings(self, key: str, *, most: int) -> tuple[Reader, ...]:
        """A list of mappings, at least one."""
        readers = []
        for at, node in enumerate(self._items(key, most=most, required=True)):
            path = f"{self.at(key)}[{at}]"
            if isinstance(node, MappingNode):
                readers.append(Reader(node, path, self.findings))
            else:
                self.findings.problem(node, path, "must be a mapping of keys to values")
        return tuple(readers)

    def values(self, key: str, *, most: int = 100) -> tuple[Json, ...]:
        """A list of single values, or one value alone."""
        nodes = self._items(key, most=most)
        found = []
        for node in nodes:
            if isinstance(node, ScalarNode):
                found.append(read_scalar(node, self.at(key), self.findings))
            else:
                self.findings.problem(node, self.at(key), "must be a list of single values")
        return tuple(found)

    def words(self, key: str, options: Iterable[str] = (), *, most: int = 100) -> tuple[str, ...]:
        """A list of texts, or one alone; each one of `options` where any are given."""
        known = list(options)
        words = tuple(
            value if isinstance(value, str) else str(value) for value in self.values(key, most=most)
        )
        for word in words:
            if known and word not in known:
                self.problem(f"'{word[:40]}' is not allowed{suggest(word, known)}", key, near=word)
        return words

    def _items(self, key: str, *, most: int, required: bool = False) -> list[Node]:
        if key not in self:
            if required:
                self.problem(f"'{key}' is required")
            return []
        node = self._entries[key][1]
        items = list(node.value) if isinstance(node, SequenceNode) else [node]
        if required and not isinstance(node, SequenceNode):
            self.problem("must be a list", key)
            return []
        if required and not items:
            self.problem("must have at least one entry", key)
        if len(items) > most:
            self.problem(f"has more than {most} entries", key)
            return []
        return items
