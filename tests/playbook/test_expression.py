from __future__ import annotations

import contextlib
import fnmatch
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.errors import Invalid
from medic.playbook.expression import parse_expression
from medic.playbook.glob import matches
from medic.playbook.judgement import equal, holds
from medic.playbook.scope import Scope

SCOPE = Scope(
    variables={
        "ENV": "prod",
        "N": 3,
        "TEXT_N": "10",
        "FLAG": True,
        "YES": "true",
        "EMPTY": None,
        "EVIL": "' or true",
    },
    steps={"a": {"status": 200, "body": {"tags": ["x", "y"], "id": 7}, "state": "completed"}},
)


@pytest.mark.parametrize(
    "text",
    [
        "true", "not false", "not not true", "${FLAG}", "${YES}", "${ENV} == 'prod'", '${ENV} != "dev"',
        "${N} < 4 and ${N} >= 3", "${TEXT_N} > 9", "${TEXT_N} == 10", "'b' > 'a'", "${N} in [1, 2, 3]",
        "${ENV} not in ['dev', 'test']", "'x' in ${steps.a.body.tags}", "'id' in ${steps.a.body}", "'ro' in ${ENV}",
        "${ENV} matches 'p*d'", "${ENV} matches '????'", "not ${ENV} matches 'P*'", "${steps.a.status} == 200",
        "${EMPTY} == null", "defined ${N}", "not defined ${GONE}", "not defined ${steps.gone.body} or ${GONE} == 1",
        "false and ${GONE} == 1 or true", "(false or true) and true", "false or true and true", "-1 < 0.5",
        "not false == true", "true == (1 == 1)", "${EVIL} != 'x'", "${steps.a.body.tags} == ['x', 'y']", "1 != true",
    ],
)  # fmt: skip
def test_it_holds(text: str) -> None:
    assert holds(parse_expression(text), SCOPE)
    assert not holds(parse_expression(f"not ({text})"), SCOPE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "character 1: a value is needed here, and the text ends"),
        ("${ENV} =", "character 8: '=' is not understood"),
        ("${ENV} == prod", r"character 11: a value \(write 'prod' or \$\{prod\}\) is needed"),
        ("1 == 2 == 3", "character 8: and, or, or a comparison is needed here, not '=='"),
        ("(true", r"character 6: a closing \)"),
        ("${ENV} not true", "character 12: in is needed"),
        ("[1, ${N}]", "a value is needed here"),
        ("true and", "character 9"),
        ("${secrets.X} == 1", "cannot read a secret"),
        ("defined N", "reference"),
        ("__import__('os')", "is needed here"),
        ("1.5.2 == 1", "not understood"),
        ("(" * 30 + "true" + ")" * 30, "nested deeper"),
        ("true or " * 110 + "true", "more than 200 words"),
        ("'" + "x" * 1000 + "'", "longer than 1000"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        parse_expression(text)


@pytest.mark.parametrize(
    "text",
    ["${GONE} == 1", "${ENV}", "${N}", "${ENV} < 1", "${EMPTY} < 1", "1 in 2", "${ENV} matches 1", "not 1"],
)
def test_what_cannot_be_judged_raises(text: str) -> None:
    with pytest.raises(Invalid):
        holds(parse_expression(text), SCOPE)


def test_references_are_listed() -> None:
    found = parse_expression("not (${A} in [1] or defined ${steps.x.y}) and ${B} == ${A}").references
    assert [str(reference) for reference in found] == ["${A}", "${steps.x.y}", "${B}", "${A}"]


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = parse_expression(text)
    except Invalid:
        return
    with contextlib.suppress(Invalid):
        assert holds(parsed, SCOPE) in {True, False}


@given(
    st.lists(
        st.sampled_from(["(", ")", "not", "and", "or", "in", "${N}", "1", "'a'", "==", "<", "[", "]", ","]),
        max_size=20,
    )
)
def test_any_words_parse_or_are_refused(words: list[str]) -> None:
    with contextlib.suppress(Invalid):
        holds(parse_expression(" ".join(words)), SCOPE)


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab\n", max_size=8))
def test_a_glob_agrees_with_fnmatch(pattern: str, text: str) -> None:
    assert matches(pattern, text) == (re.match(fnmatch.translate(pattern), text) is not None)


def test_no_pattern_is_slow() -> None:
    started = time.monotonic()
    assert not matches("*a" * 200 + "b", "a" * 65_536)
    assert time.monotonic() - started < 5


@given(st.integers(-(10**9), 10**9))
def test_a_number_and_its_text_are_equal(number: int) -> None:
    assert equal(number, str(number))
    assert equal(str(number), number)
    assert not equal(number, f"{number}x")
