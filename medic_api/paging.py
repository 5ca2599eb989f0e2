"""Keyset pagination: a page goes on behind the last row's key, whatever was inserted meanwhile."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from medic.errors import Invalid
from medic.times import format_time, parse_time
from medic_api.fields import Page

Row = TypeVar("Row")


def time_cursor(at: datetime, row_id: object) -> str:
    """The key of a row that is listed by time, opaque to callers."""
    return base64.urlsafe_b64encode(f"{format_time(at)} {row_id}".encode()).decode().rstrip("=")


def read_time_cursor(text: str) -> tuple[datetime, str]:
    """What `time_cursor` wrote.

    :raises Invalid: when it did not write this.
    """
    try:
        at, row_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split(" ")
        return parse_time(at), row_id
    except (ValueError, binascii.Error, UnicodeDecodeError, Invalid):
        raise Invalid.at("after", "is not a `next` of this list") from None


def page_by_time(
    session: Session, query: Select[Row], at: InstrumentedAttribute[datetime], key: InstrumentedAttribute[Any],
    page: Page, *, read_key: Callable[[str], Any] = int,
) -> Sequence[Row]:  # fmt: skip
    """The newest rows behind the cursor, one more than the page holds."""
    if page.after is not None:
        moment, row_id = read_time_cursor(page.after)
        try:
            query = query.where(tuple_(at, key) < tuple_(moment, read_key(row_id)))
        except ValueError:
            raise Invalid.at("after", "is not a `next` of this list") from None
    return session.scalars(query.order_by(at.desc(), key.desc()).limit(page.limit + 1)).all()


def page_by_id(
    session: Session, query: Select[Row], key: InstrumentedAttribute[int], page: Page
) -> Sequence[Row]:
    """The rows with the greatest ids behind the cursor, one more than the page holds."""
    after = id_cursor(page)
    if after is not None:
        query = query.where(key < after)
    return session.scalars(query.order_by(key.desc()).limit(page.limit + 1)).all()


def cut(
    rows: Sequence[Row], page: Page, cursor: Callable[[Row], str], view: Callable[[Row], Any]
) -> dict[str, Any]:
    """The page: its items, and where the next one begins."""
    shown = rows[: page.limit]
    return {
        "items": [view(row) for row in shown],
        "next": cursor(shown[-1]) if len(rows) > page.limit else None,
    }


def uuid_cursor(page: Page) -> UUID | None:
    """The cursor of a list by UUID.

    :raises Invalid: when it is none.
    """
    if page.after is None:
        return None
    try:
        return UUID(page.after)
    except ValueError:
        raise Invalid.at("after", "is not a `next` of this list") from None


def id_cursor(page: Page) -> int | None:
    """The cursor of a list by number.

    :raises Invalid: when it is none.
    """
    if page.after is None:
        return None
    if not page.after.isdecimal() or len(page.after) > 18:
        raise Invalid.at("after", "is not a `next` of this list")
    return int(page.after)
