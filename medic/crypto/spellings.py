"""How a secret may be written in text, as one regular expression and its longest match.  Pure.

A value is found as itself, URL-encoded (also with ``+`` for a space), JSON-escaped (also by writers that
escape more than they must), and in base64 of any text that contains it, in both alphabets.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Final, NamedTuple

_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""What no writer encodes (RFC 3986's unreserved characters)."""

_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Spelling(NamedTuple):
    """``longest`` is the length of the longest text that `pattern` matches.

    `anchor` is in every such text, letter for letter: looking for it is a hundred times faster than matching.
    """

    pattern: str
    longest: int
    anchor: str = ""


def escaped(value: str) -> tuple[Spelling, ...]:
    """The value itself or URL-encoded, and JSON-escaped.

    Two patterns, and not one that mixes them: a backslash that may be one or two would make the search
    exponential in the backslashes of a value.
    """
    forms = (_joined([_in_url(char) for char in value]), _joined([_in_json(char) for char in value]))
    return forms if forms[0].pattern != forms[1].pattern else forms[:1]


def encoded(value: str) -> tuple[Spelling, ...]:
    """The value in base64, at each of the three places where it may begin in its group of three bytes."""
    return tuple(_base64(value.encode(), offset) for offset in range(3))


def _in_url(char: str) -> Spelling:
    if char in _PLAIN:
        return Spelling(re.escape(char), 1, char)
    # The longer form first: of a % that is written %25, nothing may be left over.
    forms = ["".join(_any_case(f"%{byte:02X}") for byte in char.encode()), re.escape(char)]
    if char == " ":
        forms.append(r"\+")
    return Spelling(f"(?:{'|'.join(forms)})", 3 * len(char.encode()))


def _in_json(char: str) -> Spelling:
    if char in _PLAIN:
        return Spelling(re.escape(char), 1, char)
    units = char.encode("utf-16-be").hex(" ", 2).split()
    forms = ["".join(r"\\u" + _any_case(unit.upper()) for unit in units)]
    forms.append(re.escape(json.dumps(char, ensure_ascii=False)[1:-1]))
    if char == "/":
        forms.append(r"\\/")
    return Spelling(f"(?:{'|'.join(forms)})", 6 * len(units))


def _any_case(text: str) -> str:
    return "".join(f"[{char}{char.lower()}]" if char.isalpha() else re.escape(char) for char in text)


def _base64(value: bytes, offset: int) -> Spelling:
    """The base64 of ``offset`` unknown bytes, the value, and whatever follows.

    The characters at the two ends may mix bits of the value with bits of its neighbours; there every
    character that the value's bits allow is matched.
    """
    whole = base64.b64encode(bytes(offset) + value).decode().rstrip("=")
    first = offset * 8 // 6
    bits = (offset + len(value)) * 8
    parts = []
    for index in range(first, len(whole)):
        known = _BASE64.index(whole[index])
        unknown_before = max(0, offset * 8 - index * 6)
        unknown_after = max(0, (index + 1) * 6 - bits)
        mask = (63 >> unknown_before) & ~((1 << unknown_after) - 1)
        parts.append(_base64_class([n for n in range(64) if n & mask == known & mask]))
    return _joined([*parts, Spelling("={0,2}", 2)])


def _base64_class(indices: list[int]) -> Spelling:
    if len(indices) == 1 and indices[0] < 62:
        return Spelling(_BASE64[indices[0]], 1, _BASE64[indices[0]])
    plain = "".join(_BASE64[index] for index in indices if index < 62)
    forms = [f"[{plain}]"] if plain else []
    if 62 in indices:
        forms.append(r"[+\-]|%2[Bb]")
    if 63 in indices:
        forms.append(r"_|\\?/|%2[Ff]")
    return Spelling(f"(?:{'|'.join(forms)})", 3 if indices[-1] >= 62 else 1)


def _joined(parts: list[Spelling]) -> Spelling:
    anchor = run = ""
    for part in parts:
        run = run + part.anchor if part.anchor else ""
        anchor = max(anchor, run, key=len)
    return Spelling("".join(part.pattern for part in parts), sum(part.longest for part in parts), anchor)
