from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.errors import Invalid
from medic.playbook.grammar import parse
from medic.playbook.source import MOST_BYTES, load, place_of
from medic.steps.base import StepType

HEAD = "name: a\nsteps:\n- {name: s, type: webhook, url: 'https://a.example/'"
WORDS = st.sampled_from([
    "name: a\n", "steps:\n", "- ", "  - ", "type: webhook\n", "url: ", "https://a.example/${X}", "${", "}", "{", "[", "]",
    ", ", "&a ", "*a", "<<: *a\n", "!!binary x", "!!python/object:os.system x", "? ", ": ", "|\n", ">\n", "'", '"',
    "\\x00", "\\ud800", "\\UFFFFFFFF", "\t", "\x07", "\ufeff", "---\n", "...\n", "%YAML 9.9\n", "%TAG ! !\n", "#", "\n", "  ",
    "when: not ${A} in [1]\n", "retry: {on: 5xx}\n", "timeout: 1_0:30\n", "0x_", ".inf", "1e999", "!!int x", "!!float ''",
    "!<tag:yaml.org,2002:str> {}", "headers: {a: [b]}\n", "approval: no\n", "variables: {A: {default: 1}}\n", "~", "2026-01-01",
])  # fmt: skip


def refusal(text: str | bytes, types: dict[str, StepType]) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse(text, types)
    return caught.value


@pytest.mark.parametrize(
    ("text", "says", "line", "column"),
    [
        ("", "is empty", 1, 1),
        ("name: [a\n", "is not YAML", 2, 1),
        ("name: a\n  b: c\n", "mapping values are not allowed", 2, 4),
        ("a: 1\n---\nb: 2\n", "another document", 2, 1),
        ("a: x\ny: \x07\n", "character that YAML does not allow", 2, 4),
        ('a: "\\UFFFFFFFF"', "impossible", 1, 1),
        ("a: &a [1, *a]\n", "contains itself", 1, 11),
        ("a:\n" + "[" * 40, "deeper than 32 levels", 2, 32),
        ("[" + "1," * 20_000 + "]", "more than 10,000 values", 1, 20_002),
        ("a: &a 1\nb: [" + "*a," * 101 + "]", "more than 100 aliases", 2, 305),
        ("x" * (MOST_BYTES + 1), "larger than 256 KiB", 1, 1),
        (b"a: \xff", "not UTF-8", 1, 1),
    ],
)
def test_text_out_of_bounds_is_refused_with_its_place(
    text: str | bytes, says: str, line: int, column: int, types: dict[str, StepType]
) -> None:
    error = refusal(text, types)
    assert says in error.message
    assert (error.problems[0].line, error.problems[0].column) == (line, column)


def test_aliases_that_multiply_are_refused_without_being_followed(types: dict[str, StepType]) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 11)
    )
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 11)
    )
    started = time.monotonic()
    assert "more than 10,000 values" in refusal(bomb, types).message
    assert "more than 10,000 values" in refusal(merges, types).message
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ", body: [" + ",".join(f"'${{a{i}}}'" for i in range(8_000)) + "]}\n",
        HEAD + ", body: [" + ",".join(f"'${{steps.a{i}.b}}'" for i in range(8_000)) + "]}\n",
        HEAD + "}\n" + "".join(f"stepx{i}: 1\n" for i in range(4_000)),
        HEAD + "}\nlock: '" + "$${" * 80_000 + "'\n",
        HEAD + "}\nlock: '" + "${a}" * 16_000 + "'\n",
        HEAD + "}\n? " + "k" * 200_000 + "\n: 1\n",
    ],
    ids=["names", "steps", "keys", "literals", "references", "long key"],
)
def test_a_hostile_document_is_refused_soon(text: str, types: dict[str, StepType]) -> None:
    started = time.monotonic()
    error = refusal(text, types)
    assert time.monotonic() - started < 10
    assert len(error.problems) <= 100
    assert all(len(problem.message) < 1000 for problem in error.problems)


@pytest.mark.parametrize(
    "value",
    ["!!python/object/apply:os.system ['id']", "!!binary aGk=", "!x y", "!!set {a}", "!!omap [a: 1]", ".inf", ".nan",
     '"a\\0b"', '"\\ud800"', "9" * 50, "!!int x", "!!str [a]", "!!map [a]"],
)  # fmt: skip
def test_only_the_values_of_json_are_taken(value: str, types: dict[str, StepType]) -> None:
    for text in (f"{HEAD}, body: {{x: {value}}}}}\n", f"{HEAD}}}\nmetadata: {{x: {value}}}\n"):
        error = refusal(text, types)
        assert error.problems[0].path.endswith(".x")


def test_a_leading_byte_order_mark_moves_no_column(types: dict[str, StepType]) -> None:
    error = refusal("\ufeffnam: a\n", types)
    assert (error.problems[0].line, error.problems[0].column) == (1, 1)


@given(st.text(alphabet="a\r\n\x85\u2028é", max_size=20).filter(lambda text: text.strip()))
def test_places_are_counted_as_yaml_counts_them(text: str) -> None:
    _, root = load("'" + text + "' ")
    assert place_of("'" + text, len(text)) is not None
    end = root.end_mark
    assert place_of("'" + text + "'", len(text) + 2) == (end.line + 1, end.column + 1)


@settings(max_examples=300)
@given(st.lists(WORDS | st.text(max_size=3), max_size=25))
def test_any_yaml_parses_or_is_refused(types: dict[str, StepType], words: list[str]) -> None:
    text = "".join(words)
    for candidate in (text, HEAD + "}\n" + text, HEAD + ", " + text):
        with contextlib.suppress(Invalid):
            parse(candidate, types)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(types: dict[str, StepType], raw: bytes) -> None:
    with contextlib.suppress(Invalid):
        parse(raw, types)


@given(st.data())
def test_a_broken_document_names_a_place_inside_it(types: dict[str, StepType], data: st.DataObject) -> None:
    good = "name: a\nsteps:\n  - name: s\n    type: wait\n    duration: 5s\n"
    at = data.draw(st.integers(0, len(good)))
    text = (
        good[:at] + data.draw(st.sampled_from(["{", "x", ": ", "\n", "'", "&", "*z", "${", "\t"])) + good[at:]
    )
    try:
        parse(text, types)
    except Invalid as error:
        lines = text.split("\n")
        for problem in error.problems:
            assert problem.line is not None
            assert problem.column is not None
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
