"""The language of ``when:``.  Our own parser and evaluator, bounded, without ``eval``.

    expression := conjunction ("or" conjunction)*
    conjunction := negation ("and" negation)*
    negation   := "not" negation | comparison
    comparison := operand [("==" | "!=" | "<" | "<=" | ">" | ">=" | ["not"] "in" | "matches") operand]
    operand    := "(" expression ")" | "[" [literal ("," literal)*] "]" | "defined" reference | reference | literal
    reference  := ${NAME} | ${steps.NAME.key}
    literal    := "text" | 'text' | number | true | false | null

``and`` and ``or`` stop at the first operand that decides.  A text that reads as a number equals and
orders as one beside a number; other types never equal each other, and ``<`` between them is an error, not false.  ``in``
looks for an element of a list, a key of an object or a part of a text.  ``matches`` compares a whole text
with a glob: ``*`` is any text, ``?`` one character; there are no regular expressions, so no pattern is slow.
A value that is missing is an error, as everywhere; ``defined ${X}`` asks first.  The whole must come out
as true or false (or the texts ``true`` and ``false``).  At most 1,000 characters, 200 words, 20 levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from medic.errors import Invalid
from medic.playbook.scope import Json, Reference, parse_reference

_LONGEST = 1_000
_MOST_WORDS = 200
_DEEPEST = 20
_WORD = re.compile(
    r"""\s*(?:(?P<reference>\$\{[^{}]*\})|(?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?(?![\w.]))"""
    r"""|(?P<text>"[^"]*"|'[^']*')|(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)|(?P<name>[A-Za-z_]+))""",
    re.ASCII,
)
_SIGNS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "matches"})
_LITERALS: dict[str, Json] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class Literal:
    value: Json


@dataclass(frozen=True, slots=True)
class Lookup:
    reference: Reference


@dataclass(frozen=True, slots=True)
class Defined:
    reference: Reference


@dataclass(frozen=True, slots=True)
class Not:
    inner: Node


@dataclass(frozen=True, slots=True)
class Chain:
    """``and`` when `every`, else ``or``."""

    every: bool
    inner: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    sign: str
    left: Node
    right: Node


Node: TypeAlias = "Literal | Lookup | Defined | Not | Chain | Comparison"


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed condition; `medic.playbook.judgement.holds` evaluates it."""

    source: str
    root: Node

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(_references(self.root))


def _references(node: Node) -> Iterator[Reference]:
    match node:
        case Lookup(reference) | Defined(reference):
            yield reference
        case Not(inner):
            yield from _references(inner)
        case Chain(_, inners):
            for one in inners:
                yield from _references(one)
        case Comparison(_, left, right):
            yield from _references(left)
            yield from _references(right)


def parse_expression(text: str) -> Expression:
    """Read a condition.

    :raises Invalid: naming the place in the text, counted from 1.
    """
    if len(text) > _LONGEST:
        raise Invalid(f"is longer than {_LONGEST} characters")
    parser = _Parser(list(_words(text)), len(text))
    root = parser.expression(0)
    parser.end()
    return Expression(text, root)


@dataclass(frozen=True, slots=True)
class _Word:
    kind: str
    text: str
    at: int


def _words(text: str) -> Iterator[_Word]:
    at, count = 0, 0
    while text[at:].strip():
        match = _WORD.match(text, at)
        if match is None or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise Invalid(f"at character {start + 1}: '{text[start : start + 10]}' is not understood")
        count += 1
        if count > _MOST_WORDS:
            raise Invalid(f"has more than {_MOST_WORDS} words")
        yield _Word(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
        at = match.end()


class _Parser:
    def __init__(self, words: list[_Word], length: int) -> None:
        self._words = words
        self._at = 0
        self._length = length

    def _peek(self) -> _Word:
        return self._words[self._at] if self._at < len(self._words) else _Word("end", "", self._length)

    def _take(self, *texts: str) -> _Word | None:
        word = self._peek()
        if word.kind in {"sign", "name"} and word.text in texts:
            self._at += 1
            return word
        return None

    def _fail(self, wanted: str) -> Invalid:
        word = self._peek()
        found = f"not '{word.text}'" if word.text else "and the text ends"
        return Invalid(f"at character {word.at + 1}: {wanted} is needed here, {found}")

    def end(self) -> None:
        if self._peek().kind != "end":
            raise self._fail("and, or, or a comparison")

    def expression(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise Invalid(f"is nested deeper than {_DEEPEST} levels")
        inner = [self._conjunction(depth)]
        while self._take("or"):
            inner.append(self._conjunction(depth))
        return inner[0] if len(inner) == 1 else Chain(every=False, inner=tuple(inner))

    def _conjunction(self, depth: int) -> Node:
        inner = [self._negation(depth)]
        while self._take("and"):
            inner.append(self._negation(depth))
        return inner[0] if len(inner) == 1 else Chain(every=True, inner=tuple(inner))

    def _negation(self, depth: int) -> Node:
        count = 0
        while self._take("not"):
            count += 1
        inner = self._comparison(depth)
        return Not(inner) if count % 2 else inner

    def _comparison(self, depth: int) -> Node:
        left = self._operand(depth)
        negated = self._take("not") is not None
        sign = self._take("in") if negated else self._take(*_SIGNS)
        if sign is None:
            if negated:
                raise self._fail("in")
            return left
        comparison = Comparison(sign.text, left, self._operand(depth))
        return Not(comparison) if negated else comparison

    def _operand(self, depth: int) -> Node:
        if self._take("("):
            inner = self.expression(depth + 1)
            if not self._take(")"):
                raise self._fail("a closing )")
            return inner
        if self._take("["):
            return Literal(self._list())
        if self._take("defined"):
            return Defined(self._reference())
        if self._peek().kind == "reference":
            return Lookup(self._reference())
        return Literal(self._literal())

    def _list(self) -> list[Json]:
        items: list[Json] = []
        while not self._take("]"):
            if items and not self._take(","):
                raise self._fail("a comma or ]")
            items.append(self._literal())
        return items

    def _reference(self) -> Reference:
        word = self._peek()
        if word.kind != "reference":
            raise self._fail("a ${reference}")
        reference = parse_reference(word.text[2:-1])
        if reference.kind == "secret":
            raise Invalid(f"at character {word.at + 1}: a condition cannot read a secret")
        self._at += 1
        return reference

    def _literal(self) -> Json:
        word = self._peek()
        if word.kind == "text":
            value: Json = word.text[1:-1]
        elif word.kind == "number":
            value = float(word.text) if "." in word.text else int(word.text)
        elif word.kind == "name" and word.text in _LITERALS:
            value = _LITERALS[word.text]
        elif word.kind == "name" and word.text not in {"and", "or", "not", "in", "matches"}:
            raise self._fail(f"a value (write '{word.text}' or ${{{word.text}}})")
        else:
            raise self._fail("a value")
        self._at += 1
        return value
