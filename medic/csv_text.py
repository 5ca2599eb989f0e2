"""CSV that a spreadsheet shows and does not run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - some take these for the others
"""With what a formula may start."""


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows as RFC 4180 has them; None is an empty cell.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.  Every cell is quoted, so
    that none is cut in two, and the second half run, where the semicolon divides cells.
    """
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return written.getvalue()


def _cell(value: object) -> str:
    cell = "" if value is None else str(value)
    return f"'{cell}" if cell.startswith(_STARTS) else cell
