"""What a row says about what was measured."""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from bench import report
from bench.__main__ import choose
from bench.load import Outcome
from bench.result import Measured, NotBuilt, Row
from bench.rows import scale
from bench.stage import Effort, Stage


def row(**bound: float) -> Row:
    return Row("a.row", "what", "req/s", lambda stage: NotBuilt("no"), **bound)


def test_the_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # The machine got twice as slow in the third round; both sides felt it.
    found = Measured([50, 60, 25], [100, 100, 50])
    assert found.ratio == 0.5
    assert found.spread == (0.5, 0.6)


@pytest.mark.parametrize(
    ("bound", "holds"),
    [
        ({"at_least": 0.5}, True),
        ({"at_least": 0.51}, False),
        ({"at_most": 0.5}, True),
        ({"at_most": 0.49}, False),
    ],
)
def test_a_bound_is_on_the_ratio_where_there_is_a_floor(bound: dict[str, float], holds: bool) -> None:
    assert row(**bound).judge(Measured([50], [100])).holds is holds


def test_a_bound_is_on_the_value_where_there_is_no_floor() -> None:
    entry = row(at_most=0).judge(Measured([0])).as_json()
    assert entry == {"row": "a.row", "value": 0, "floor": None, "ratio": None, "at_most": 0, "holds": True}


def test_what_is_not_built_counts_for_nothing() -> None:
    entry = row(at_least=0.6).judge(NotBuilt("there is no such route")).as_json()
    assert entry == {
        "row": "a.row", "value": None, "floor": None, "ratio": None, "at_least": 0.6, "holds": None
    }  # fmt: skip


def test_a_row_without_a_bound_shows_its_ratio_and_claims_nothing(tmp_path: Path) -> None:
    judged = [row().judge(Measured([50], [100], note="so")), row().judge(Measured([7]))]
    report.write(tmp_path / "build" / "bench.json", judged)
    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == [
        {"row": "a.row", "value": 50, "floor": 100, "ratio": 0.5, "holds": None},
        {"row": "a.row", "value": 7, "floor": None, "ratio": None, "holds": None},
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    report.show(console, judged)
    text = console.export_text()
    assert "50 req/s" in text
    assert not any(word in text for word in ("holds", "misses", "None", "not built"))


def test_the_table_says_whether_a_bound_holds() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    report.show(
        console, [row(at_least=0.6).judge(Measured([50], [100])), row(at_most=9).judge(Measured([7]))]
    )
    first, second = [line for line in console.export_text().splitlines() if line.startswith("a.row")]
    assert "≥ 0.6" in first
    assert "misses" in first
    assert "≤ 9 req/s" in second
    assert "holds" in second


def test_the_rows_for_scale_are_chosen_together() -> None:
    names = [found.name for found in choose(("ingest.connections", "ingest.services"))]
    assert names == [
        *(f"ingest.connections.{n}" for n in (1, 4, 16, 64)),
        *(f"ingest.services.{n}" for n in (100, 1_000, 10_000, 100_000)),
    ]


def test_each_row_for_scale_shows_its_own_step() -> None:
    def outcome(rate: float) -> Outcome:
        return Outcome(int(rate), 0, 1.0, 2.0, 3.0, 4.0)

    stage = Stage(Path(), Effort(scale=0.01), ExitStack())
    for kind, steps in (("connections", scale.BY_CONNECTIONS), ("services", scale.BY_SERVICES)):
        stage.keep[f"rates by {kind}"] = {
            (name, step): [outcome(share * step)]
            for name, share in (("medic", 10), ("empty", 20))
            for step in steps
        }
    for found in scale.ROWS:
        step = int(found.name.rpartition(".")[2])
        measured = found.measure(stage)
        assert isinstance(measured, Measured)
        assert (measured.value, measured.ratio) == (10 * step, 0.5)
    last = scale.ROWS[-1].measure(stage)
    assert isinstance(last, Measured)
    assert last.note.startswith("1,000 services, 32 connections")


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    assert {found.name.split(".")[0] for found in choose(("ingest", "up.ready"))} == {"ingest", "up"}
    assert choose(()) == choose(("",))
