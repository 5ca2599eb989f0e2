"""What a row says about what was measured."""

from __future__ import annotations

import pytest

from bench.__main__ import choose
from bench.result import Measured, NotBuilt, Row


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


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    assert {found.name.split(".")[0] for found in choose(("ingest", "up.ready"))} == {"ingest", "up"}
    assert choose(()) == choose(("",))
