"""The table, and ``bench.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.result import Judged, NotBuilt

_WORDS = {True: "holds", False: "[bold red]misses[/]", None: "not built"}


def show(console: Console, judged: Sequence[Judged]) -> None:
    """Print what was measured: medians, and the least and greatest of the rounds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("row", "value", "floor"):
        table.add_column(name, justify="left" if name == "row" else "right", no_wrap=True)
    for name in ("ratio", "rounds", "bound", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for item in judged:
        table.add_row(item.row.name, *_cells(item))
    console.print(table)
    for item in judged:
        note = item.finding.why if isinstance(item.finding, NotBuilt) else item.finding.note
        if note:
            console.print(f"{item.row.name}: {note}", highlight=False)


def write(path: Path, judged: Sequence[Judged]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([item.as_json() for item in judged], indent=2) + "\n", encoding="utf-8")


def _cells(item: Judged) -> list[str]:
    found, row = item.finding, item.row
    bound, word = "", ""
    if row.is_claim:
        bound = f"≥ {row.at_least:g}" if row.at_least is not None else f"≤ {row.at_most:g}"
        word = _WORDS[item.holds]
    if isinstance(found, NotBuilt):
        return ["", "", "", "", bound, _WORDS[None]]
    low, high = found.spread
    floor = "" if found.floor_value is None else number(found.floor_value)
    ratio = "" if found.ratio is None else f"{found.ratio:.2f}"
    if found.ratio is None and bound:
        bound = f"{bound} {row.unit}"
    return [
        f"{number(found.value)} {row.unit}", floor, ratio, f"{number(low)} … {number(high)}", bound, word
    ]  # fmt: skip


def number(value: float) -> str:
    """Three digits are as much as these numbers carry."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
