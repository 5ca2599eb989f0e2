"""The chain of the audit log: an entry that is edited, deleted, swapped or inserted breaks it.

    h(n) = HMAC-SHA-256(key, h(n-1) | n | canonical(entry))        h(0) = 32 zero bytes

``n`` counts from 1 without gaps and is hashed as 8 bytes, big-endian.  The key is not in the database, so
whoever has only the database cannot make a new tail.  A chain alone does not show that its end was cut off;
that takes a `Head` that was kept elsewhere.

Canonical JSON is RFC 8785, for text, whole numbers, booleans, null, lists and objects.  Fractions are
refused: nothing that is audited needs them, and printing them alike is the hard part of that RFC.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from medic.errors import Invalid

Entry: TypeAlias = "str | int | bool | Sequence[Entry] | Mapping[str, Entry] | None"

MAX_INTEGER: Final = 2**53 - 1
"""RFC 8785 numbers are IEEE doubles; a larger whole number would not survive another reader."""

_MIN_KEY: Final = 32


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number of its last entry, and that entry's hash."""

    n: int
    digest: bytes


GENESIS: Final = Head(0, bytes(32))


@dataclass(frozen=True, slots=True)
class Audit:
    """What `verify` found: the last good head, and the first number that is wrong, if one is."""

    head: Head
    broken_at: int | None


def canonical(value: Entry) -> bytes:
    """The one way to write a value as JSON.

    :raises Invalid: for a fraction, a number past 2**53 - 1, a key that is no text, or half a surrogate pair.
    """
    try:
        return _written(value, "").encode()
    except UnicodeEncodeError:
        raise Invalid("An audit entry holds text that is not Unicode.") from None


def extend(key: bytes, head: Head, entry: Entry) -> Head:
    """The head after one more entry.

    :param key: MEDIC_AUDIT_KEY, 32 bytes or more.
    """
    if len(key) < _MIN_KEY:
        raise ValueError(f"the audit key must be {_MIN_KEY} bytes or more")
    n = head.n + 1
    return Head(n, hmac.digest(key, head.digest + n.to_bytes(8, "big") + canonical(entry), "sha256"))


def verify(
    key: bytes,
    links: Iterable[tuple[int, Entry, bytes]],
    *,
    start: Head = GENESIS,
    anchor: Head | None = None,
) -> Audit:
    """Follow a chain, as a stream of number, entry and stored hash in order, up to its first break.

    :param start: the head before the first link; a trusted one, when the older part is not read.
    :param anchor: a head that was kept outside the database.  The chain must pass through it, so a chain
        whose end was cut off, or that was written anew, is broken too.
    """
    if anchor is not None and anchor.n <= start.n and anchor != start:
        raise ValueError("the anchor must not lie before the start")
    head = start
    for n, entry, digest in links:
        try:
            following = extend(key, head, entry)
        except Invalid:
            return Audit(head, head.n + 1)
        good = n == following.n and hmac.compare_digest(digest, following.digest)
        if good and anchor is not None and anchor.n == n:
            good = hmac.compare_digest(digest, anchor.digest)
        if not good:
            return Audit(head, following.n)
        head = following
    if anchor is not None and head.n < anchor.n:
        return Audit(head, head.n + 1)
    return Audit(head, None)


def _written(value: object, path: str) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        # With ensure_ascii off, Python escapes exactly what ECMAScript's JSON.stringify does.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise Invalid.at(path, "is a number past 2**53 - 1")
        return int.__repr__(value)
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise Invalid.at(path, "has a key that is no text")
        # Keys are sorted by UTF-16 code units, which differs from code points above U+FFFF.
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        members = (f"{_written(key, path)}:{_written(value[key], f'{path}.{key}')}" for key in keys)
        return "{" + ",".join(members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_written(item, f"{path}[{n}]") for n, item in enumerate(value)) + "]"
    raise Invalid.at(path, f"is a {type(value).__name__}, which an audit entry cannot hold")
