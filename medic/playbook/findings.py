"""What reading one document turns up, besides the document: problems, warnings, and every name it mentions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from yaml.nodes import Node

from medic.errors import Invalid, Problem
from medic.playbook.scope import Reference
from medic.playbook.source import place_of

# Each needs a look at the text or at near words; without a cap a hostile document would buy minutes of it.
_MOST_PROBLEMS = 100
_MOST_MENTIONS = 2_000
_LONGEST_WORD = 64


@dataclass(frozen=True, slots=True)
class Mention:
    """One reference and where it stands."""

    reference: Reference
    path: str
    line: int
    column: int


@dataclass(slots=True)
class Findings:
    """Shared by all readers of one document; `declared` are the names under ``variables:``."""

    text: str
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    declared: frozenset[str] = frozenset()
    _crowded: bool = False

    @property
    def is_full(self) -> bool:
        """Whether there are so many problems that more would not help anybody."""
        return len(self.problems) >= _MOST_PROBLEMS

    def problem(self, node: Node, path: str, message: str, *, near: str = "") -> None:
        self.problems.append(Problem(path, message, *self._place(node, near)))

    def warning(self, node: Node, path: str, message: str) -> None:
        self.warnings.append(Problem(path, message, *self._place(node, "")))

    def mention(self, node: Node, path: str, references: Iterable[Reference]) -> None:
        """Note references that stand in a scalar, each at its own column where that can be told."""
        for reference in references:
            if len(self.mentions) >= _MOST_MENTIONS:
                if not self._crowded:
                    self._crowded = True
                    self.problem(node, path, f"has more than {_MOST_MENTIONS:,} references in all")
                return
            self.mentions.append(Mention(reference, path, *self._place(node, str(reference))))

    def problem_at(self, mention: Mention, message: str) -> None:
        self.problems.append(Problem(mention.path, message, mention.line, mention.column))

    def refuse(self, node: Node, message: str) -> Invalid:
        """The error for a document that cannot be read any further."""
        self.problem(node, "", message)
        return self._invalid()

    def raise_if_any(self) -> None:
        """Raise all problems in one `Invalid`, in the order of the text."""
        if self.problems:
            raise self._invalid()

    def _invalid(self) -> Invalid:
        problems = tuple(sorted(self.problems[:_MOST_PROBLEMS], key=lambda p: (p.line or 0, p.column or 0)))
        first = problems[0]
        path = f"{first.path}: " if first.path else ""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Invalid(
            f"line {first.line}, column {first.column}: {path}{first.message}{more}", problems=problems
        )

    def _place(self, node: Node, near: str) -> tuple[int, int]:
        # Escapes and folding move text about; where the source does not show it, its scalar's start is named.
        start, end = node.start_mark.index, node.end_mark.index
        found = self.text.find(near, start, end) if near else -1
        if found < 0:
            return node.start_mark.line + 1, node.start_mark.column + 1
        return place_of(self.text, found)


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest known word, or else all of them when they are few."""
    options = sorted(known)
    near = difflib.get_close_matches(word[:_LONGEST_WORD], options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if 0 < len(options) <= 24 else ""
