"""What comes back from outside, made fit to be kept: JSON that PostgreSQL takes, cut, and redacted."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable

from medic.playbook.scope import Json

MOST_BYTES = 65_536
_BESIDES = 4_096
"""For what tells of an answer that fills the rest: its status, headers, times."""
_LONG_TEXT = 1_024
_MOST_CUTS = 32
_MARK = f"… [cut at {MOST_BYTES} bytes]"
_DEEPEST = 64
_LONGEST_NUMBER = 40


def read_json(text: str) -> Json:
    """Read JSON within bounds.

    :raises ValueError: when it is none, is nested deeper than 64 levels, or has a number that JSON or the
        database does not take.
    """
    try:
        value: Json = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_short)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value, 0)
    return value


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("the number is too large")
    return number


def _short(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("the number is too long")
    return int(text)


def _check_depth(value: Json, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            _check_depth(child, depth + 1)


def read_body(body: bytes, content_type: str, *, truncated: bool) -> Json:
    """A body as JSON where it is JSON, else as text; text that was cut says so at its end."""
    text = body[:MOST_BYTES].decode("utf-8", "replace")
    cut = truncated or len(body) > MOST_BYTES
    if not cut and ("json" in content_type.lower() or text.lstrip()[:1] in {"{", "["}):
        try:
            return read_json(text)
        except ValueError:
            pass
    return f"{text}{_MARK}" if cut else text


def fit(value: Json, redact: Callable[[str], str]) -> Json:
    """Redact every text, keys included, and replace what a jsonb column refuses (NUL, half characters)."""
    if isinstance(value, str):
        return _clean(redact(value))
    if isinstance(value, list):
        return [fit(item, redact) for item in value]
    if isinstance(value, dict):
        return {_clean(redact(key)): fit(item, redact) for key, item in value.items()}
    return value


def fit_output(value: dict[str, Json], redact: Callable[[str], str]) -> dict[str, Json]:
    """`fit` for a whole output, whose own keys are ours; what makes it larger than 64 kB is cut, with a mark."""
    return _within({key: fit(item, redact) for key, item in value.items()}, MOST_BYTES + _BESIDES)


def _within(output: dict[str, Json], most: int) -> dict[str, Json]:
    """Cut the largest values until all fit: long texts first, as a later step may read what has a structure."""
    excess = _size(output) - most
    if excess <= 0:
        return output
    cut = dict(output)

    def rank(key: str) -> tuple[bool, int]:
        size = _size(cut[key])
        return not (isinstance(cut[key], str) and size > _LONG_TEXT), -size

    for key in sorted(cut, key=rank)[:_MOST_CUTS]:
        value = cut[key]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        keep = max(0, _size(value) - excess - _size(_MARK))
        cut[key] = _start_of(text.removesuffix(_MARK), keep) + _MARK
        excess = _size(cut) - most
        if excess <= 0:
            return cut
    return {"cut": _MARK}  # very many small ones


def _size(value: Json) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _start_of(text: str, most: int) -> str:
    """As much of a text's start as is no larger than that, once it is written as JSON."""
    return text[: bisect.bisect_right(range(1, len(text) + 1), most, key=lambda end: _size(text[:end]))]


def _clean(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
