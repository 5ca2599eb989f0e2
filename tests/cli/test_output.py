"""What is printed: nothing is cut in a pipe, nothing steers a terminal."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from medic.cli import LazyGroup, lines_of
from medic.cli.output import cell, print_fields, print_json, print_table, printable
from medic.errors import (
    Conflict,
    Forbidden,
    Invalid,
    MedicError,
    Misconfigured,
    NotFound,
    Problem,
    Throttled,
    Unauthenticated,
    Unavailable,
)


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in printable(text))


def test_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    assert cell("\x1b[2Jgone") == "\\x1b[2Jgone"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (True, "yes"), (False, "no"), (0, "0"), ([], "-"), (["a", "b"], "a, b"), ({"a": 1}, '{"a": 1}'),
     ("2026-11-23T09:30:00.123456Z", "2026-11-23T09:30:00Z"), ("2026-11-23T09:30:00Z", "2026-11-23T09:30:00Z")],
)  # fmt: skip
def test_a_value_in_a_table(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(
        [{"name": "a" * 200, "text": "[bold]not markup[/bold]"}],
        (("NAME", "name"), ("TEXT", "text")),
        empty="-",
    )
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "TEXT"]
    assert row == "a" * 200 + "  [bold]not markup[/bold]"


def test_an_empty_list_is_said_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([], (("NAME", "name"),), empty="Nothing yet.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "Nothing yet.\n")


def test_what_has_no_value_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"name": "a", "team": None, "tags": [], "paused": False, "steps": [1]}, leave_out=("steps",))
    assert capsys.readouterr().out.split() == ["name", "a", "paused", "no"]


@given(st.dictionaries(st.text(), st.text()))
def test_json_is_plain_ascii_and_reads_back(value: dict[str, str]) -> None:
    @click.command()
    def show() -> None:
        print_json(value)

    out = CliRunner().invoke(show).stdout
    assert out.isascii()
    assert json.loads(out) == value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misconfigured("x"), 78), (NotFound("x"), 3), (Unauthenticated("x"), 4), (Forbidden("x"), 4),
        (Unavailable("x"), 5), (Throttled("x", retry_after=1), 5), (Conflict("x"), 1), (MedicError("x"), 1),
    ],
)  # fmt: skip
def test_an_error_is_a_line_and_an_exit_code(error: MedicError, code: int) -> None:
    group = LazyGroup(name="x", lazy={})

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "medic: x\n")


def test_each_wrong_field_stands_on_its_own_line() -> None:
    first, second = Problem("steps[0].url", "is no URL", 3, 5), Problem("name", "is required")
    both = ["3:5: steps[0].url: is no URL", "name: is required"]
    assert lines_of(Invalid("steps[0].url: is no URL (and 1 more)", problems=(first, second))) == both
    assert lines_of(Invalid("The variables do not fit.", problems=(second,))) == [
        "The variables do not fit.",
        both[1],
    ]
    assert lines_of(Invalid.at("every", "is wrong")) == ["every: is wrong"]
