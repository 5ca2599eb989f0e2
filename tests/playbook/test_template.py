from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medic.errors import Invalid
from medic.playbook.scope import Json, Scope
from medic.playbook.template import Listed, Mapped, escape, parse_template, render_tree

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
SCOPE = Scope(
    variables={"HOST": "w1", "COUNT": 3, "FLAG": True, "NOTHING": None, "EVIL": "${secrets.OPS} ${HOST}"},
    steps={"restart": {"state": "completed", "body": {"id": 7, "items": [{"n": "a"}, {"n": "b"}]}}},
    secret={"OPS": "hunter22"}.__getitem__,
)


def test_each_form_of_reference_finds_its_value() -> None:
    text = parse_template("${HOST}/${steps.restart.body.items.1.n}/${secrets.OPS}").render(SCOPE)
    assert text.value == "w1/b/hunter22"
    assert text.shown == "w1/b/[secret:OPS]"


def test_a_secret_is_in_no_repr() -> None:
    template = parse_template("Bearer ${secrets.OPS}")
    assert "hunter22" not in repr(template.render(SCOPE)) + repr(template.render_value(SCOPE)) + repr(SCOPE)


def test_a_variable_whose_value_looks_like_a_reference_stays_text() -> None:
    assert parse_template("${EVIL}").render(SCOPE).value == "${secrets.OPS} ${HOST}"


@pytest.mark.parametrize(
    ("source", "value"),
    [("$${HOST}", "${HOST}"), ("$$${HOST}", "$${HOST}"), ("$HOST $ {HOST}", "$HOST $ {HOST}"), ("", "")],
)
def test_two_dollars_write_a_literal(source: str, value: str) -> None:
    assert parse_template(source).render(SCOPE).value == value


@pytest.mark.parametrize("value", ["3", "${COUNT}"])
def test_values_are_written_as_text_among_text(value: str) -> None:
    assert parse_template(f"n={value} ${{FLAG}}").render(SCOPE).value == "n=3 true"


@pytest.mark.parametrize(
    "text", ["${", "${A", "${a b}", "${}", "${steps.a}", "${secrets.}", "${A.b}", "${VAR:-x}"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"\$\$\{"):
        parse_template(text)


@pytest.mark.parametrize(
    "text", ["${GONE}", "${steps.gone.body}", "${steps.restart.body.items.9}", "x${NOTHING}"]
)
def test_a_missing_value_raises(text: str) -> None:
    with pytest.raises(Invalid, match=r"has no value|is null"):
        parse_template(text).render(SCOPE)


def test_a_lone_reference_in_a_tree_keeps_its_type() -> None:
    tree = Mapped((
        (parse_template("n-${HOST}"), parse_template("${COUNT}")),
        (parse_template("list"), Listed((parse_template("${steps.restart.body}"), parse_template("x${COUNT}"), True))),
        (parse_template("secret"), parse_template("${secrets.OPS}")),
    ))  # fmt: skip
    rendered = render_tree(tree, SCOPE)
    body: Json = {"id": 7, "items": [{"n": "a"}, {"n": "b"}]}
    assert rendered.value == {"n-w1": 3, "list": [body, "x3", True], "secret": "hunter22"}
    assert rendered.shown == {"n-w1": 3, "list": [body, "x3", True], "secret": "[secret:OPS]"}


def test_two_keys_that_become_one_are_refused() -> None:
    with pytest.raises(Invalid, match="twice"):
        render_tree(Mapped(((parse_template("w1"), 1), (parse_template("${HOST}"), 2))), SCOPE)


@given(st.text())
def test_an_escaped_text_renders_as_itself(text: str) -> None:
    rendered = parse_template(escape(text)).render(Scope())
    assert rendered.value == rendered.shown == text


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        assert parse_template(text).source == text
    except Invalid:
        assert "${" in text


@given(st.lists(st.tuples(st.text(), NAMES), max_size=5), st.text(), st.dictionaries(NAMES, st.text()))
def test_values_are_put_in_once_and_never_looked_at(
    pairs: list[tuple[str, str]], tail: str, values: dict[str, str]
) -> None:
    scope = Scope(variables={name: values.get(name, "${" + name + "}") for _, name in pairs})
    # A dollar right before a reference would make it a literal, which is another test.
    pieces = [(literal.replace("$", ""), name) for literal, name in pairs]
    source = "".join(f"{literal}${{{name}}}" for literal, name in pieces) + escape(tail)
    wanted = "".join(literal + str(scope.variables[name]) for literal, name in pieces) + tail
    assert parse_template(source).render(scope).value == wanted


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_a_value_survives_a_tree_unchanged(value: Json) -> None:
    assert parse_template("${X}").render_value(Scope(variables={"X": value})).value == value
    if value is not None and not isinstance(value, str):
        assert json.loads(parse_template("${X}").render(Scope(variables={"X": value})).value) == value
