"""Verification: the audit log against its seals, up to the first place where they disagree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from medic.audit_seals import COLUMNS, form
from medic.crypto import audit_chain
from medic.crypto.audit_chain import GENESIS, Head
from medic.errors import Invalid

PAGE: Final = 2_000

Why = Literal["changed", "reordered", "missing", "checkpoint", "anchor"]

REASONS: Final[dict[Why, str]] = {
    "changed": "the entry is not the one that was sealed, or the key is not the one that sealed it",
    "reordered": "the entry stands in another's place",
    "missing": "the entry or its seal is gone",
    "checkpoint": "the entry and what stood before it are gone, and no retention says that it let go of them",
    "anchor": "the chain does not pass through the anchor: its end was cut off, or it was written anew",
}


@dataclass(frozen=True, slots=True)
class Broken:
    """Where the chain breaks first: the number in it, the entry if one is named there, and why."""

    number: int
    entry_id: int | None
    why: Why


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found.

    :param sealed: how many entries the chain holds, up to its first break.
    :param first: the number of the first of them; None when there is none.
    :param head: the chain's last good end.
    :param unsealed: how many entries have no seal yet, and since when the oldest waits.
    """

    sealed: int
    first: int | None
    head: Head
    broken: Broken | None
    unsealed: int
    unsealed_since: datetime | None


_LINKS = text(
    f"""
    SELECT s.number, s.entry_id, s.digest, {COLUMNS}
      FROM audit_seals s LEFT JOIN audit_entries e ON e.id = s.entry_id
     WHERE s.number > :after ORDER BY s.number LIMIT :limit
    """
)
_LET_GO = text(
    "SELECT EXISTS (SELECT 1 FROM audit_entries WHERE action = 'audit.let_go' AND object_kind = 'audit_seal'"
    " AND object_id = CAST(:number AS text))"
)
_TAIL = text(
    "SELECT count(*) AS entries, min(e.at) AS since FROM audit_entries e"
    " WHERE NOT EXISTS (SELECT 1 FROM audit_seals s WHERE s.entry_id = e.id)"
)


def read_anchor(value: str) -> Head:
    """The end of a chain, as ``number:hash``.

    :raises Invalid: when it is none.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", value.strip().lower(), re.ASCII)
    if match is None:
        raise Invalid.at("anchor", "is not the end of a chain, as 17: and 64 hexadecimal digits")
    return Head(int(match[1]), bytes.fromhex(match[2]))


def write_anchor(head: Head) -> str:
    """What `read_anchor` reads."""
    return f"{head.n}:{head.digest.hex()}"


def verify(session: Session, keys: Sequence[bytes], *, anchor: Head | None = None) -> Verified:
    """Follow the chain from its beginning, or from the checkpoint that retention left behind.

    :param session: in a transaction that sees one moment (repeatable read): retention may be at work.
    :param keys: all that may have sealed, newest first.
    :param anchor: an end of the chain that was kept outside the database; the chain must pass through it.
    :raises Invalid: when the anchor is older than what is kept.
    """
    walk = _Walk(keys, anchor)
    broken: Broken | None = None
    page = _page(session, None)
    if page:
        broken = _begin(session, walk, page[0])
    while page and broken is None:
        broken = walk.follow(page)
        page = _page(session, page[-1].number) if broken is None else page
    if broken is None and anchor is not None and walk.head.n < anchor.n:
        broken = Broken(walk.head.n + 1, None, "anchor")
    tail = session.execute(_TAIL).one()
    return Verified(walk.sealed, walk.first, walk.head, broken, tail.entries, tail.since)


def _page(session: Session, after: int | None) -> Sequence[Row[Any]]:
    values = {"after": -(2**63) if after is None else after, "limit": PAGE}
    return session.execute(_LINKS, values).all()


def _begin(session: Session, walk: _Walk, link: Row[Any]) -> Broken | None:
    """Start at the first link: of the whole chain, or the seal of the last entry that retention let go of."""
    if link.id is not None:
        return None  # it must be number 1, which following it finds out
    if not session.execute(_LET_GO, {"number": link.number}).scalar_one():
        return Broken(link.number, link.entry_id, "checkpoint")
    return walk.start(Head(link.number, bytes(link.digest)))


class _Walk:
    """A walk along the chain.

    Keys may follow each other, oldest first; behind the first link of a newer one, no older one is good.
    """

    def __init__(self, keys: Sequence[bytes], anchor: Head | None) -> None:
        self.head = GENESIS
        self.first: int | None = None
        self.sealed = 0
        self._keys = tuple(reversed(keys))
        self._anchor = anchor

    def start(self, head: Head) -> Broken | None:
        if self._anchor is not None and self._anchor.n < head.n:
            raise Invalid.at("anchor", f"is older than what is kept: that begins behind {head.n}")
        return self._move(head)

    def follow(self, page: Sequence[Row[Any]]) -> Broken | None:
        for place, link in enumerate(page):
            if link.number == self.head.n and link.id is None:
                continue  # the checkpoint
            if link.number != self.head.n + 1:
                return Broken(self.head.n + 1, None, "missing")
            if link.id is None:
                return Broken(link.number, link.entry_id, "missing")
            head = self._fits(link, link)
            if head is None:
                moved = any(other.id is not None and self._fits(link, other) for other in page[place + 1 :])
                return Broken(link.number, link.entry_id, "reordered" if moved else "changed")
            if self.first is None:
                self.first = head.n
            self.sealed += 1
            broken = self._move(head)
            if broken is not None:
                return broken
        return None

    def _fits(self, link: Row[Any], entry: Row[Any]) -> Head | None:
        """The end behind a link, if this is the entry that it seals."""
        for position, key in enumerate(self._keys):
            found = audit_chain.verify(key, [(link.number, form(entry), bytes(link.digest))], start=self.head)
            if found.broken_at is None:
                if link is entry:
                    self._keys = self._keys[position:]
                return found.head
        return None

    def _move(self, head: Head) -> Broken | None:
        self.head = head
        if self._anchor is not None and head.n == self._anchor.n and head != self._anchor:
            return Broken(head.n, None, "anchor")
        return None
