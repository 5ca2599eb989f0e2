"""`python -m bench [ROWS…]`: measure, print a table, write ``build/bench.json``."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from bench import report
from bench.result import Judged, Row
from bench.rows import ROWS
from bench.stage import ROOT, Effort, Stage


@click.command()
@click.argument("names", nargs=-1, metavar="[ROWS]...")
@click.option("--scale", default=1.0, show_default=True, help="Of the number of services and executions.")
@click.option("--seconds", default=4.0, show_default=True, help="Of one round under load.")
@click.option("--rounds", default=3, show_default=True, help="Of Medic and floor in turn.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "build" / "bench.json")
def main(names: tuple[str, ...], scale: float, seconds: float, rounds: int, out: Path) -> None:
    """Measure ROWS, given by name or by the beginning of names; without any, all of them."""
    # SIGTERM unwinds as Ctrl-C does, so that servers end and the folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if os.isatty(1) else 140)
    rows = choose(names)
    judged: list[Judged] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="medic-bench-") as folder, ExitStack() as stack:
        stage = Stage(Path(folder), Effort(scale, seconds, rounds), stack)
        for row in rows:
            began = time.monotonic()
            try:
                judged.append(row.judge(row.measure(stage)))
            except Exception as error:  # noqa: BLE001 - a row that fails takes no other with it
                failed = True
                place = traceback.extract_tb(error.__traceback__)[-1]
                console.print(
                    f"{row.name} failed in {Path(place.filename).name}:{place.lineno}: {error}", markup=False
                )
            console.print(f"{row.name}: {time.monotonic() - began:.0f} s", style="dim", highlight=False)
    report.show(console, judged)
    report.write(out, judged)
    if failed:
        raise SystemExit(1)


def choose(names: tuple[str, ...]) -> list[Row]:
    """The rows of these names, or whose names begin so.

    :raises click.BadParameter: for one that fits none.
    """
    for name in names:
        if not any(row.name.startswith(name) for row in ROWS):
            raise click.BadParameter(f"{name} is no row; there are {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if not names or row.name.startswith(names)]


if __name__ == "__main__":
    main()
