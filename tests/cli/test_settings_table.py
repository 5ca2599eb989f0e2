"""The documentation of the settings is the settings; what is shown of them holds no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medic.cli.settings_table import NOT_USED, in_force, masked_url, settings_document, variables
from medic.settings import Settings

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_document_is_what_the_code_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == settings_document(), (
        "run `medic doctor --settings-table > docs/settings.md`"
    )


def test_every_variable_has_a_row_a_section_and_a_help() -> None:
    named = list(variables())
    assert {variable.name for variable in named} == {
        str(info.alias) for info in Settings.model_fields.values()
    }
    rows = settings_document().splitlines()
    for variable in named:
        assert variable.help.endswith("."), variable.name
        assert len([row for row in rows if row.startswith(f"| `{variable.name}`")]) == 1
    sections = [variable.section for variable in named]
    assert len([1 for now, before in zip(sections[1:], sections, strict=False) if now != before]) + 1 == len(
        set(sections)
    ), "a section's variables stand together"


def test_what_is_not_used_yet_says_so() -> None:
    rows = [row for row in settings_document().splitlines() if NOT_USED in row]
    assert {row.split("`")[1] for row in rows} == set()


def test_a_secret_is_never_shown() -> None:
    environ = {
        variable.name: "hunter2hunter2hunter2hunter2hunter2" for variable in variables() if variable.is_secret
    }
    environ |= dict.fromkeys(("MEDIC_DATABASE_URL", "DATABASE_URL"), "postgresql://u:hunter2@h/d")
    environ |= dict.fromkeys(("REDIS_URL", "MEDIC_LIMITER_REDIS_URL"), "redis://:hunter2@h:6379/0")
    environ["MEDIC_WATCHDOG_URL"] = "https://h/hunter2?key=hunter2"
    shown = in_force(Settings.from_env(environ), environ)
    assert "hunter2" not in str([item.value for item in shown])
    assert {item.variable.name for item in shown if item.is_set} == set(environ)


@given(
    password=st.text(min_size=6).map(lambda text: f"Zq{text}"),
    frame=st.sampled_from(
        [
            "postgresql://u:{}@h:5432/d?sslmode=require",
            "redis://:{}@h/0",
            "rediss://{}@h",
            "postgresql://h/d?password={}",
        ]
    ),
)
def test_no_password_survives_in_a_masked_url(password: str, frame: str) -> None:
    shown = masked_url(frame.format(password))
    assert password not in shown
    assert "Zq" not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://medic:p@h1:5432,h2/db?sslmode=require&password=x", "postgresql://medic:***@h1:5432,h2/db?sslmode=require"),
        ("postgresql+psycopg2://medic@/medic?host=/tmp/s&port=5432", "postgresql+psycopg2://medic@/medic?host=/tmp/s&port=5432"),
        ("redis+socket:///tmp/v.sock?virtual_host=0", "redis+socket:///tmp/v.sock?virtual_host=0"),
    ],
)  # fmt: skip
def test_what_is_no_secret_in_a_url_stays(url: str, shown: str) -> None:
    assert masked_url(url) == shown
