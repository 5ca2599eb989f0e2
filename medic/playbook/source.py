"""YAML text to nodes that know their line and column, within bounds.

Bounds: 256 KiB of text, 32 levels, 10,000 nodes once aliases are followed, 100 aliases, no alias to
itself; only the tags that JSON has (a date stays the text it is written as).  Whatever the bytes are, the
only error is `Invalid`.
"""

from __future__ import annotations

import math

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from medic.errors import Invalid, Problem
from medic.playbook.scope import Json

MOST_BYTES = 256 * 1024
_DEEPEST = 32
_MOST_NODES = 10_000
_MOST_ALIASES = 100
_LONGEST_NUMBER = 40
_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge"))
# Written without a tag these two are texts here; YAML 1.1 alone makes a date or a default key of them.
_AS_TEXT = frozenset({_TAG + "timestamp", _TAG + "value"})
_construct = SafeConstructor()


def load(text: str | bytes) -> tuple[str, Node]:
    """Read one YAML document; returns its text and root node.

    :raises Invalid: with one problem that names line and column, from 1.
    """
    clean = _decode(text).removeprefix("\ufeff")
    try:
        loader = _Loader(clean)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refuse(f"is not YAML: {error.problem or error.context}", mark) from None
    except yaml.reader.ReaderError as error:
        line, column = place_of(clean, error.position)
        raise _invalid("has a character that YAML does not allow", line, column) from None
    except (ValueError, OverflowError):
        raise _invalid("is not YAML: it has an impossible number or character code", 1, 1) from None
    if root is None:
        raise _invalid("is empty", 1, 1)
    return clean, root


def _decode(text: str | bytes) -> str:
    try:
        raw = text.encode() if isinstance(text, str) else text
        if len(raw) > MOST_BYTES:
            raise _invalid(f"is larger than {MOST_BYTES // 1024} KiB", 1, 1)
        return text if isinstance(text, str) else raw.decode()
    except UnicodeError:
        raise _invalid("is not UTF-8 text", 1, 1) from None


class _Loader(yaml.SafeLoader):
    """The safe loader with a budget.  Every node goes through `compose_node`, so the bounds sit there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._aliases = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._aliases += is_alias
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _refuse(f"is nested deeper than {_DEEPEST} levels", mark)
        if self._aliases > _MOST_ALIASES:
            raise _refuse(f"has more than {_MOST_ALIASES} aliases", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias:
            if id(node) not in self._sizes:
                raise _refuse("has an alias that contains itself", mark)
            return node
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(child)] for child in _children(node))
        # Scalars are counted one by one as they come, so that a flat giant stops early too.
        if size > _MOST_NODES or len(self._sizes) > _MOST_NODES:
            raise _refuse(f"has more than {_MOST_NODES:,} values", mark)
        if node.tag in _AS_TEXT and isinstance(node, ScalarNode):
            node.tag = _TAG + "str"
        return node


def _children(node: Node) -> list[Node]:
    if isinstance(node, SequenceNode):
        return list(node.value)
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return []


def scalar(node: ScalarNode) -> Json:
    """The JSON value of a scalar.

    :raises Invalid: for a tag or a value that JSON does not have.
    """
    text: str = node.value
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise Invalid("has a NUL or half a character in it, which no database keeps")
    if node.tag == _TAG + "str":
        return text
    if node.tag == _TAG + "null":
        return None
    if node.tag not in _TAGS or len(text) > _LONGEST_NUMBER:
        raise Invalid(f"has a tag or a number that is not allowed: {node.tag.removeprefix(_TAG)}")
    try:
        if node.tag == _TAG + "bool":
            return bool(_construct.construct_yaml_bool(node))
        if node.tag == _TAG + "int":
            return int(_construct.construct_yaml_int(node))
        number = float(_construct.construct_yaml_float(node))
    except (ValueError, KeyError, IndexError, OverflowError):
        raise Invalid("is not what its tag says") from None
    if not math.isfinite(number):
        raise Invalid("is not a finite number")
    return number


def is_allowed(node: Node) -> bool:
    """Whether a list's or mapping's tag is a plain one."""
    return bool(node.tag == _TAG + ("seq" if isinstance(node, SequenceNode) else "map"))


def is_merge(node: Node) -> bool:
    """Whether a key is YAML's merge key ``<<``."""
    return bool(node.tag == _TAG + "merge")


def is_null(node: Node) -> bool:
    return bool(node.tag == _TAG + "null")


def place_of(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of a character, counted as YAML counts lines."""
    before = text[:index].replace("\r\n", "\n")
    for other in "\r\x85\u2028\u2029":
        before = before.replace(other, "\n")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _refuse(message: str, mark: yaml.Mark | None) -> Invalid:
    return _invalid(message, mark.line + 1, mark.column + 1) if mark else _invalid(message, 1, 1)


def _invalid(message: str, line: int, column: int) -> Invalid:
    return Invalid(f"line {line}, column {column}: {message}", problems=(Problem("", message, line, column),))
