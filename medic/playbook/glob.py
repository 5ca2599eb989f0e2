"""Globs: ``*`` is any text, ``?`` one character, everything else itself.  Case counts; the whole text must match."""

from __future__ import annotations

import re


def matches(pattern: str, text: str) -> bool:
    """Compare a text with a glob.

    The pieces between the stars are found from the left, one after the other.  The leftmost place of each is
    always good enough, so nothing is tried twice and no pattern is slow, whoever wrote pattern and text.
    """
    first, *rest = ("".join("." if c == "?" else re.escape(c) for c in piece) for piece in pattern.split("*"))
    if not rest:
        return re.fullmatch(first, text, re.DOTALL) is not None
    opening = re.match(first, text, re.DOTALL)
    if opening is None:
        return False
    at = opening.end()
    for piece in rest[:-1]:
        found = re.compile(piece, re.DOTALL).search(text, at)
        if found is None:
            return False
        at = found.end()
    last = pattern.rpartition("*")[2]
    start = len(text) - len(last)
    return start >= at and re.fullmatch(rest[-1], text[start:], re.DOTALL) is not None
