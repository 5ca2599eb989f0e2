from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.errors import Invalid, Misconfigured
from medic.playbook.scope import Json
from medic.steps import load_types
from medic.steps.base import StepType
from medic.steps.output import fit, fit_output, read_json
from medic.steps.parameters import bind, check_rules


def install(folder: Path, points: str) -> None:
    """What an installed package leaves behind: its metadata, on the path."""
    info = folder / "medic_more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medic-more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medic.steps]\n" + points)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_every_type_of_ours_keeps_the_protocol(types: dict[str, StepType]) -> None:
    assert {name: (kind.queue, kind.acts, kind.parks) for name, kind in types.items()} == {
        "approval": ("medic.steps", False, True),
        "condition": ("medic.steps", False, True),
        "notify": ("medic.steps", False, False),
        "script": ("medic.scripts", True, False),
        "wait": ("medic.steps", False, True),
        "webhook": ("medic.steps", True, False),
    }
    assert all(isinstance(kind, StepType) for kind in types.values())


def test_another_package_adds_a_type(packages: Path) -> None:
    (packages / "more_steps.py").write_text(
        "from medic.steps.wait import WaitStep\nclass NapStep(WaitStep):\n    type = 'nap'\n"
    )
    install(packages, "nap = more_steps:NapStep\n")
    assert load_types.__wrapped__()["nap"].type == "nap"


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("gone = nowhere_at_all:Step\n", "cannot be loaded"),
        ("other = medic.steps.wait:WaitStep\n", "is no step type called other"),
        ("path = pathlib:Path\n", "is no step type called path"),
    ],
)
def test_a_type_that_does_not_work_stops_the_start(packages: Path, points: str, says: str) -> None:
    install(packages, points)
    with pytest.raises(Misconfigured, match=says):
        load_types.__wrapped__()


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(st.characters(codec=None)),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=10,
    )
)
def test_whatever_comes_back_fits_a_json_column(value: Json) -> None:
    text = repr(fit(value, lambda text: text)).encode()
    assert b"\\x00" not in text
    assert b"\\ud8" not in text


def test_an_output_is_cut_to_64_kb_with_a_mark_and_keeps_what_has_a_structure() -> None:
    mark = "… [cut at 65536 bytes]"
    found = {"n": list(range(8_000))}
    output = fit_output({"exit_code": 0, "stdout": "é" * 60_000, "stderr": "e" * 40_000, "json": found}, str)
    assert (output["exit_code"], output["json"]) == (0, found)
    assert all(str(output[name]).endswith(mark) for name in ("stdout", "stderr"))
    assert len(json.dumps(output, ensure_ascii=False).encode()) <= 65_536 + 4_096
    assert fit_output(output, str) == output
    assert fit_output({"body": "x" * 65_536 + mark, "status": 200}, str)["body"] == "x" * 65_536 + mark
    whole = fit_output({"deep": {"text": "y" * 100_000}}, str)["deep"]
    assert str(whole).startswith('{"text": "yyy')
    assert str(whole).endswith(mark)
    assert fit_output({f"k{at}": at for at in range(20_000)}, str) == {"cut": mark}


@given(st.text(alphabet='[]{}":,0123456789.eE-naltrufsIN ', max_size=40))
def test_json_is_read_or_refused(text: str) -> None:
    try:
        value = read_json(text)
    except ValueError:
        return
    assert "NaN" not in repr(value)
    assert "inf" not in repr(value)


@pytest.mark.parametrize(
    "rules",
    [
        {"A-B": {}},
        {"A": []},
        {"A": {"typ": "text"}},
        {"A": {"type": "date"}},
        {"A": {"required": "yes"}},
        {"A": {"choices": "x"}},
    ],
)
def test_rules_that_say_nothing_sensible_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        check_rules(rules)
    assert len(caught.value.problems) == 1


def test_rules_are_checked_and_bind() -> None:
    rules = {
        "A": {"type": "flag"},
        "B": {"type": "number", "default": 1.5},
        "C": {"type": "any", "description": "x"},
    }
    check_rules(rules)
    assert bind(rules, {"A": True, "C": [1]}) == {"A": True, "B": 1.5, "C": [1]}
    assert bind({}, {"anything": 1}) == {"anything": 1}
    with pytest.raises(Invalid, match="true or false"):
        bind(rules, {"A": 1})
